"""Which firing alerts nobody is told of: silenced by people, or needless beside their cause."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.agent.alerts.alert import Alert
from rankscope.agent.alerts.inhibitions import INHIBITIONS, Inhibition
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.alerts.silences import Silences


class Muting:
    """Marks alerts as silenced or inhibited."""

    def __init__(self, silences: Silences, settings: Settings, inhibitions: Sequence[Inhibition] = INHIBITIONS) -> None:
        self._silences = silences
        self._settings = settings
        self._inhibitions = inhibitions if settings.inhibit else ()

    def apply(self, firing: Sequence[Alert], now: float) -> bool:
        """Mark each alert; return whether any mark changed."""
        changed = False
        for alert in firing:
            silenced = self._silences.of(alert.labels, now) if self._silences else ()
            inhibited = self._cause(alert, firing)
            if inhibited:
                alert.inhibited_until = now + self._settings.inhibit_linger
            elif alert.inhibited_by and now < alert.inhibited_until:
                inhibited = alert.inhibited_by
            was = alert.muted
            changed |= silenced != alert.silenced_by or inhibited != alert.inhibited_by
            alert.silenced_by, alert.inhibited_by = silenced, inhibited
            if was and not alert.muted:
                alert.seen = now
        return changed

    def _cause(self, alert: Alert, firing: Sequence[Alert]) -> str:
        """Return the fingerprint of a firing alert that makes this one needless, or an empty string."""
        for inhibition in self._inhibitions:
            if alert.key.scope.name not in inhibition.targets:
                continue
            for other in firing:
                if inhibition.mutes(other.labels, alert.labels):
                    return other.fingerprint
        return ""
