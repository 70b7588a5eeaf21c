"""Alerts that come and go: how often each fired lately, and how long its condition must be gone therefore."""

from __future__ import annotations

from collections.abc import Mapping

from rankscope.agent.alerts.alert import Key
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Rule
from rankscope.agent.model import Span

KEPT = 100  # firings of one alert that are remembered
DOUBLINGS = 6  # of a hysteresis that is counted in steps


class Flapping:
    """Remembers when alerts fired (Unix seconds), for the flap window."""

    def __init__(self, settings: Settings, firings: Mapping[Key, list[float]]) -> None:
        self.firings = dict(firings)
        self._settings = settings

    def fired(self, key: Key, now: float) -> int:
        """Note that an alert fires; return how often it did within the window, this time included."""
        times = [time for time in self.firings.get(key, ()) if now - time < self._settings.flap_window]
        self.firings[key] = [*times, now][-KEPT:]
        return len(self.firings[key])

    def hold(self, rule: Rule, firings: int) -> Span:
        """Return how long a condition must be gone: twice as long with each time that the alert fired lately."""
        own: object = getattr(rule, "resolve_after", None)
        span = own if isinstance(own, Span) else Span(seconds=self._settings.resolve_after)
        factor = 2 ** min(firings - 1, DOUBLINGS if span.steps else 30)
        most = max(span.seconds, self._settings.resolve_after_most)
        return Span(span.steps * factor, min(span.seconds * factor, most))

    def forget(self, now: float) -> None:
        """Drop what lies outside the window."""
        window = self._settings.flap_window
        self.firings = {key: times for key, times in self.firings.items() if abs(now - times[-1]) < window}

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds."""
        self.firings = {key: [time + seconds for time in times] for key, times in self.firings.items()}
