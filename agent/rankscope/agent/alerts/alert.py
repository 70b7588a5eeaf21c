"""One alert: who it is, the evidence for it, and its life from pending over firing to resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, TypeAlias

from rankscope.agent.model import SEVERITIES, Cause, Finding, Severity, Span

AlertState: TypeAlias = Literal["pending", "firing", "resolved"]


class Scope(NamedTuple):
    """What one verdict is about: a rule and a run of a project, or the node (`project` and `run` are empty)."""

    name: str
    project: str = ""
    run: str = ""


class Key(NamedTuple):
    """What makes two findings the same problem, whatever rank they are on."""

    scope: Scope
    gpu: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    title: str = ""  # of an alert that the training script raised itself


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the findings of one problem say, taken together: the words of the first rank that had it."""

    summary: str
    description: str = ""
    step: int | None = None
    time: float = 0.0
    value: float | None = None
    rank: int | None = None  # which rank had it before all others
    causes: tuple[Cause, ...] = ()
    tentative: bool = False  # whether more will be known of the causes within a moment

    @staticmethod
    def of(findings: Sequence[Finding], severity: Severity) -> Evidence:
        """Return the evidence of the gravest, then earliest finding: after an all-reduce all ranks have the problem.

        `severity` is that of findings that name none.
        """
        first = min(findings, key=lambda finding: _order(finding, severity))
        alone = all(other is first or first.step is None or other.step != first.step for other in findings)
        return Evidence(
            summary=first.summary,
            description=first.description,
            step=first.step,
            time=first.time,
            value=first.value,
            rank=first.rank if alone else None,
            causes=first.causes,
            tentative=first.tentative,
        )

    def earlier(self, other: Evidence) -> Evidence:
        """Return which of two came first by its step; where neither did, no rank was first."""
        mine, others = (float("inf") if e.step is None else e.step for e in (self, other))
        if mine == others and self.rank != other.rank:
            return replace(self, rank=None)
        return self if mine <= others else other


def _order(finding: Finding, severity: Severity) -> tuple[int, float, float, int]:
    return (
        -SEVERITIES.index(finding.severity or severity),
        float("inf") if finding.step is None else finding.step,
        finding.time,
        -1 if finding.rank is None else finding.rank,
    )


class Mark(NamedTuple):
    """A moment: Unix seconds, and the step that the run was at where that is known."""

    time: float
    step: int | None = None

    def reached(self, span: Span, now: Mark) -> bool:
        """Tell whether `span` has passed since this moment. Steps that nobody knows are not waited for."""
        steps = now.step - self.step if now.step is not None and self.step is not None else span.steps
        return steps >= span.steps and now.time - self.time >= span.seconds


@dataclass(slots=True, eq=False)
class Alert:
    """The state of one alert. Times are Unix seconds; its labels no longer change once it is `settled`."""

    key: Key
    severity: Severity
    began: Mark  # when the condition was first seen
    judged: float  # when a rule last could tell
    evidence: Evidence
    newest: Evidence
    leads: bool = True  # whether rank 0 of the run is on this node
    ranks: tuple[int, ...] = ()
    state: AlertState = "pending"
    fired: float = 0.0
    ended: float = 0.0
    firings: int = 1  # within the flap window, this one included
    settled: bool = False
    over: bool = False  # the condition is gone for good: resolve as soon as receivers know that it fired
    announced: bool = False  # receivers hold it for firing
    why_over: str = ""  # where that is not because the problem is gone
    labels: dict[str, str] = field(default_factory=dict[str, str])
    fingerprint: str = ""
    gone: Mark | None = None  # since when the condition is not seen any more
    seen: float = 0.0  # when it became fit to be announced: fired, or no longer muted
    silenced_by: tuple[str, ...] = ()
    inhibited_by: str = ""
    inhibited_until: float = 0.0

    @property
    def muted(self) -> bool:
        return bool(self.silenced_by or self.inhibited_by)

    def found(self, evidence: Evidence, ranks: Sequence[int], span: Span, now: Mark) -> bool:
        """The condition holds now; return whether the alert fires from now on. `span`: how long it must hold."""
        step = now.step
        if self.began.step is None or (step is not None and step < self.began.step):
            # The run was resumed from an earlier step: steps count from there.
            self.began = Mark(self.began.time, step)
        self.judged = now.time
        self.gone, self.over, self.why_over = None, False, ""
        self.newest = evidence
        if self.state == "pending":
            self.ranks = tuple(sorted(set(ranks)))
            self.evidence = evidence
            if not self.began.reached(span, now):
                return False
            self.state, self.fired, self.seen = "firing", now.time, now.time
            return True
        if not set(ranks) <= set(self.ranks):
            self.ranks = tuple(sorted({*self.ranks, *ranks}))
        if not self.settled:
            self.evidence = self.evidence.earlier(evidence)
        mine = self.evidence
        if mine.step is not None and (mine.step, mine.rank) == (evidence.step, evidence.rank):
            # The same finding, by now better understood.
            self.evidence = replace(
                mine, description=evidence.description, causes=evidence.causes, tentative=evidence.tentative
            )
        return False

    def cleared(self, hold: Span, now: Mark) -> None:
        """The rule looked and found nothing. `hold`: how long that must last until the alert is over."""
        self.judged = now.time
        if self.gone is None or (now.step is not None and self.gone.step is not None and now.step < self.gone.step):
            self.gone = now if self.gone is None else Mark(self.gone.time, now.step)
        if self.gone.reached(hold, now):
            self.over = True

    def unknown(self, now: float) -> None:
        """The rule could not tell: the time that passed since it last could counts neither way."""
        blind = max(0.0, now - self.judged)
        self.judged = now
        if self.state == "pending":
            self.began = Mark(self.began.time + blind, self.began.step)
        if self.gone is not None:
            self.gone = Mark(self.gone.time + blind, self.gone.step)

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds: what was so long ago still is. Its evidence stays as it was."""
        self.began = Mark(self.began.time + seconds, self.began.step)
        self.gone = self.gone and Mark(self.gone.time + seconds, self.gone.step)
        self.judged += seconds
        self.seen += seconds
        self.inhibited_until += seconds
        self.fired = self.fired and self.fired + seconds
        self.ended = self.ended and self.ended + seconds

    def end(self, now: float) -> None:
        self.state, self.ended = "resolved", max(now, self.fired)

    def revive(self, newer: Alert) -> None:
        """The same problem is back before anybody was told that it was over: go on as if it had never been."""
        self.state, self.ended, self.over, self.gone, self.why_over = "firing", 0.0, False, None, ""
        self.judged, self.newest, self.firings = newer.judged, newer.newest, newer.firings
        self.ranks = tuple(sorted({*self.ranks, *newer.ranks}))
