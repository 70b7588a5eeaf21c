"""What a rule found on one rank: episodes that begin at a point, last, and end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rankscope.agent.model import Cause, Finding


@dataclass(slots=True)
class Episode:
    """One problem from the point that showed it to the point that ended it."""

    finding: Finding
    until: float | None = None  # Unix seconds up to which it is still told after its end; None: not over
    told: bool = False

    @property
    def over(self) -> bool:
        return self.until is not None


@dataclass(slots=True)
class Episodes:
    """The episodes of one rule on one rank that are to be told now.

    An episode that begins and ends between two looks is told at least once, so a spike of a single step is not lost
    however seldom the rule is asked.
    """

    hold: float = 0.0  # seconds for which an episode is told after its end
    _told: list[Episode] = field(default_factory=list[Episode])

    @property
    def current(self) -> Episode | None:
        """The episode that is not over, if there is one."""
        return self._told[-1] if self._told and not self._told[-1].over else None

    def begin(self, finding: Finding) -> None:
        self._told.append(Episode(finding))

    def revise(self, causes: tuple[Cause, ...], tentative: bool) -> None:
        """Replace the causes of the newest episode, where it is still told: more is known of it by now."""
        if self._told:
            newest = self._told[-1]
            newest.finding = replace(newest.finding, causes=causes, tentative=tentative)

    def end(self, now: float) -> None:
        if (current := self.current) is not None:
            current.until = now + self.hold

    def shift(self, seconds: float) -> None:
        """The clock was set."""
        for one in self._told:
            one.until = None if one.until is None else one.until + seconds

    def tell(self, now: float) -> tuple[Finding, ...]:
        """Return the findings of the episodes that are not over, were never told, or ended less than `hold` ago."""
        if not self._told:
            return ()
        now_told = [one for one in self._told if one.until is None or not one.told or now < one.until]
        for one in now_told:
            one.told = True
        self._told = [one for one in now_told if one.until is None or now < one.until]
        return tuple(one.finding for one in now_told)
