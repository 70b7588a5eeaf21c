"""One receiver's lane: its queue, its notifier, and the worker between them that retries."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, cast

from rankscope.agent.alerts.outbox import Outbox
from rankscope.agent.alerts.render import for_receiver
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Notification, Notifier, Refused, Retry
from rankscope.agent.model import SEVERITIES

log = logging.getLogger(__name__)

Outcome: TypeAlias = Literal["ok", "failed", "dropped"]
OUTCOMES: tuple[Outcome, ...] = ("ok", "failed", "dropped")

ODD_TRIES = 3  # deliveries that end in an error which no notifier should raise, before the notification is given up
LONGEST_WISH = 3600.0  # seconds that a receiver may ask to be left alone

Announced: TypeAlias = Callable[[float], "Notification | None"]


class Lane:
    """Delivers to one receiver, in order, one at a time; nothing that happens here touches another lane."""

    def __init__(
        self,
        name: str,
        notifier: Notifier,
        outbox: Outbox,
        settings: Settings,
        announced: Announced,
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.notifier = notifier
        self.outbox = outbox
        self.counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._settings = settings
        self._announced = announced
        self._clock = clock  # Unix seconds
        self._news = asyncio.Event()  # something was put
        self._hurry = asyncio.Event()  # do not sit out a pause
        self._closing = False
        self._failing_since = 0.0
        self._complaints: set[str] = set()
        self._repeat_at = 0.0  # monotonic

    def put(self, notification: Notification, now: float) -> bool:
        """Queue what this receiver wants of a notification; return whether that is anything."""
        fitted = fit(notification, self.name, self.notifier)
        if fitted is None:
            return False
        dropped = self.outbox.put(fitted, now)
        if dropped:
            self._complain(f"{self.name}: more than {self._settings.queue} notifications wait: the oldest are dropped")
            self.counts["dropped"] += dropped
        return True

    def wake(self) -> None:
        self._news.set()

    def replace(self, notifier: Notifier) -> Notifier:
        """Go on with a newly configured notifier, try at once what the old one could not deliver; return the old."""
        old, self.notifier = self.notifier, notifier
        self._hurry.set()
        self._news.set()
        return old

    def finish(self) -> None:
        """Deliver what can be delivered without another pause, and end."""
        self._closing = True
        self._hurry.set()
        self._news.set()

    async def work(self) -> None:
        """Deliver until `finish`."""
        failures = 0
        while True:
            self._news.clear()
            entry = self.outbox.head()
            if entry is None:
                if self._closing:
                    return
                await self._idle()
                continue
            if self._clock() - entry.since > self._settings.queue_age:
                self._complain(f"{self.name}: what waited longer than {self._settings.queue_age:g} s is dropped")
                self._done(entry.notification, "dropped")
                continue
            self.outbox.busy = entry.notification.id
            pause = await self._deliver(entry.notification, failures)
            self.outbox.busy = None
            failures = 0 if pause is None else failures + 1
            if pause is not None:
                if self._closing:
                    return
                self._hurry.clear()
                await _wait(self._hurry, pause)

    async def _deliver(self, notification: Notification, failures: int) -> float | None:
        """Try once; return the pause until the next try (seconds), or None when there is nothing more to try."""
        try:
            await asyncio.wait_for(self.notifier.send(notification), self._settings.send_timeout)
        except Refused as error:
            self._complain(f"{self.name}: refused, and not tried again: {error}")
            self._done(notification, "failed")
            return None
        except Retry as error:
            return self._postpone(str(error), failures, error.after)
        except asyncio.TimeoutError:
            return self._postpone(f"no answer in {self._settings.send_timeout:g} s", failures, None)
        except Exception as error:  # noqa: BLE001 - third parties' notifiers may raise anything
            # The worker's one catch-all. The error's text may hold a secret (an address), its kind does not.
            kind = type(error).__name__
            if failures + 1 >= ODD_TRIES:
                self._complain(f"{self.name}: {kind} in the notifier, {ODD_TRIES} times: given up")
                self._done(notification, "failed")
                return None
            return self._postpone(f"{kind} in the notifier", failures, None)
        if self._failing_since:
            waited = time.monotonic() - self._failing_since
            log.info("%s: delivers again, after %.0f s", self.name, waited)
        self._failing_since = 0.0
        self._complaints.clear()
        self._done(notification, "ok")
        return None

    def _done(self, notification: Notification, outcome: Outcome) -> None:
        self.outbox.done(notification.id)
        self.counts[outcome] += 1

    def _postpone(self, reason: str, failures: int, wish: float | None) -> float:
        self._failing_since = self._failing_since or time.monotonic()
        self._complain(f"{self.name}: {reason}; {len(self.outbox)} waiting, tries again until it succeeds")
        longest = min(self._settings.retry_longest, self._settings.retry_first * 2.0 ** min(failures, 30))
        return max(longest * random.uniform(0.5, 1.0), min(wish or 0.0, LONGEST_WISH))

    def _complain(self, message: str) -> None:
        kind = "".join(c for c in message if not c.isdigit())
        if kind not in self._complaints:
            self._complaints.add(kind)
            log.warning(message)

    async def _idle(self) -> None:
        """Wait for news; repeat meanwhile what fires, to a receiver that expects that."""
        every = repeat_every(self.notifier)
        if not every:
            await self._news.wait()
            return
        left = self._repeat_at - time.monotonic()
        if left > 0 and await _wait(self._news, left):
            return
        self._repeat_at = time.monotonic() + every
        everything = self._announced(self._clock())
        fitted = fit(everything, self.name, self.notifier) if everything else None
        if fitted is None:
            return
        try:
            await asyncio.wait_for(self.notifier.send(fitted), self._settings.send_timeout)
        except (Refused, Retry, asyncio.TimeoutError) as error:
            self._complain(f"{self.name}: {error or 'no answer'}; repeated in {every:g} s")


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event, but no longer than this; return whether it came."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except asyncio.TimeoutError:
        return False
    return True


def repeat_every(notifier: Notifier) -> float:
    """Return the seconds after which a notifier wants everything that fires again; 0: never."""
    return float(getattr(notifier, "repeat_every", 0.0))


def fit(notification: Notification, name: str, notifier: Notifier) -> Notification | None:
    """Return what one receiver wants to hear of a notification, addressed to it; None when that is nothing."""
    least = SEVERITIES.index(notifier.min_severity)
    resolved = bool(getattr(notifier, "send_resolved", True))
    alerts = [
        alert
        for alert in cast("Sequence[Mapping[str, object]]", notification.payload["alerts"])
        if _severity(alert) >= least and (resolved or alert["status"] == "firing")
    ]
    if not alerts:
        return None
    return Notification(notification.id, for_receiver(notification.payload, alerts, name))


def _severity(alert: Mapping[str, object]) -> int:
    severity = cast("Mapping[str, str]", alert["labels"]).get("severity", "")
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
