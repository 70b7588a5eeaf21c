"""Posts alerts to an Alertmanager, which groups, silences and routes them on."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import ClassVar, cast

from rankscope.agent.component import Notification
from rankscope.agent.notifiers._authorized import Authorized

PATH = "/api/v2/alerts"
HOLD = 240.0  # seconds for which Alertmanager takes an alert for firing when it hears no more of it


@dataclass(kw_only=True)
class Alertmanager(Authorized):
    """Posts alerts to Alertmanager's API v2, and again every minute while they fire, as it expects.

    For several instances give one entry each: every one of them has to hear everything.
    """

    repeat_every: ClassVar[float] = 60.0

    async def send(self, notification: Notification) -> None:
        """Post the alerts of a notification. Raises Refused or Retry."""
        until = datetime.fromtimestamp(time.time() + HOLD, tz=timezone.utc).isoformat(timespec="milliseconds")
        alerts = cast("Sequence[Mapping[str, object]]", notification.payload["alerts"])
        body = [_postable(alert, until) for alert in alerts]
        url = self.address().rstrip("/")
        url = url if url.endswith(PATH) else url + PATH
        await self.post(url, json.dumps(body, ensure_ascii=False, allow_nan=False).encode(), self.all_headers())


def _postable(alert: Mapping[str, object], until: str) -> dict[str, object]:
    """Return an alert as Alertmanager takes it: one that fires ends some minutes from now, unless it is repeated."""
    return {
        "labels": alert["labels"],
        "annotations": alert["annotations"],
        "startsAt": alert["startsAt"],
        "endsAt": alert["endsAt"] if alert["status"] == "resolved" else until,
        "generatorURL": alert["generatorURL"],
    }
