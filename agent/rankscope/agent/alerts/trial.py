"""A notification to try receivers with, made as a real one is."""

from __future__ import annotations

from rankscope.agent.alerts.engine import Alerts
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Notification
from rankscope.agent.model import RankInfo, RankKey, Severity, UserAlert

TITLE = "Rankscope can reach you"
TEXT = "Somebody tries out the notifiers of this host with `rankscope notify`. Nothing is wrong."


def trial(hostname: str, settings: Settings, severity: Severity, now: float) -> Notification:
    """Return a notification that fires at `now`, Unix seconds."""
    alerts = Alerts(hostname, None, settings)
    rank = RankInfo(RankKey("rankscope", "trial", 0), session=1, run_id="trial", hostname=hostname)
    alerts.user_alert(rank, UserAlert(0, now, TITLE, TEXT, severity), now)
    (notification,) = alerts.tick(now + settings.group_wait)
    return notification
