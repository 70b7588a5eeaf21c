"""A rule that judges each rank by itself: the verdict of the run is what its ranks give together."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rankscope.agent.model import Finding, Incomplete, Verdict
from rankscope.agent.runs.rank import Rank


def each_rank(ranks: Iterable[Rank], judge: Callable[[Rank], tuple[Finding, ...] | Incomplete]) -> Verdict:
    """Return the findings of all ranks, or, when not one of them could be judged, why the first could not."""
    findings: list[Finding] = []
    lacking: Incomplete | None = None
    judged = False
    for rank in ranks:
        verdict = judge(rank)
        if isinstance(verdict, Incomplete):
            lacking = lacking or verdict
        else:
            judged = True
            if verdict:
                findings.extend(verdict)
    if not judged:
        return lacking or Incomplete("no rank of this run is here")
    return tuple(findings)
