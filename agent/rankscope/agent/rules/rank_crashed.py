"""A rank ended as it should not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, End, Finding, Goodbye, Severity, Span, Verdict
from rankscope.agent.rules._causes import hardware
from rankscope.agent.rules._causes.around import Around
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
LOST = ("connection closed by peer", "connection reset by peer", "remote process exit")  # of Gloo, TCPStore and NCCL


@dataclass(eq=False)
class RankCrashed:
    """A rank ended by an exception, a signal or an exit status that is not 0, or vanished without a word.

    The first rank to end is the one to look at: the others end because it did, and are told with it. Running out of
    memory is told by RankOutOfMemory.

    Needs the rank's last word (its goodbye), which its sender gives even when the process was killed.

    Defaults: at once, severity critical.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("goodbye",)
    severity: Severity = "critical"
    for_: Span = field(default_factory=Span)

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        ended = [(rank, rank.goodbye) for rank in run.ranks.values() if rank.goodbye is not None]
        bad = [(rank, goodbye) for rank, goodbye in ended if crashed(goodbye) and not out_of_memory(goodbye)]
        if not bad:
            return ()
        first = min(goodbye.time for _, goodbye in bad)
        return tuple(self._finding(node, run, rank, goodbye, first) for rank, goodbye in bad)

    def _finding(self, node: Node, run: Run, rank: Rank, goodbye: Goodbye, first: float) -> Finding:
        how = manner(goodbye)
        here = Around(node, run, rank, goodbye.step, goodbye.time)
        causes = [hardware.fault(here)]
        if goodbye.time - first > 0.5 and len(run.ranks) > 1:
            evidence = f"another rank had ended {goodbye.time - first:.1f} s before"
            causes.append(Cause("it followed another rank", evidence, "look at the rank that ended first"))
        elif goodbye.end is End.EXCEPTION and any(words in goodbye.exception.casefold() for words in LOST):
            causes.append(
                Cause(
                    "another rank went away",
                    "its connection was lost",
                    "look at the rank that ended first: its log, and what may have killed it",
                )
            )
        elif goodbye.end is End.EXCEPTION:
            last = goodbye.traceback.strip().splitlines()[-3:-1]
            where = " ".join(line.strip() for line in last) or "no traceback was given"
            causes.append(
                Cause("the training code raised an exception", where, "the whole traceback is kept with the run")
            )
        elif goodbye.signal == 9 or goodbye.end is End.VANISHED:
            causes.append(
                Cause(
                    "something killed the process",
                    how,
                    "look for the kernel's or the container's memory limit, the scheduler's time limit, "
                    "or whoever sent the signal",
                )
            )
        elif goodbye.signal == 15:
            causes.append(
                Cause("it was asked to end", how, "torchrun ends all ranks after one failed; schedulers do at limits")
            )
        elif goodbye.signal:
            causes.append(
                Cause("native code crashed", how, "run with faulthandler; check drivers and the versions of extensions")
            )
        return Finding(
            f"rank {rank.info.key.rank} ended: {how}",
            goodbye.step,
            goodbye.time,
            float(goodbye.exit_code),
            rank.info.key.rank,
            causes=tuple(cause for cause in causes if cause is not None),
        )


def crashed(goodbye: Goodbye) -> bool:
    """Tell whether a session ended as it should not."""
    if goodbye.end in (End.EXCEPTION, End.SIGNAL, End.VANISHED):
        return True
    return goodbye.exit_code != 0


def out_of_memory(goodbye: Goodbye) -> bool:
    """Tell whether the exception says that memory ran out."""
    text = goodbye.exception.casefold()
    return "out of memory" in text or "outofmemory" in text


def manner(goodbye: Goodbye) -> str:
    """Return in a few words how a session ended."""
    if goodbye.end is End.EXCEPTION and goodbye.exception:
        return goodbye.exception.splitlines()[0][:200]
    if goodbye.signal:
        return f"signal {goodbye.signal} ({SIGNALS.get(goodbye.signal, 'unknown')})"
    if goodbye.end is End.VANISHED:
        return "it vanished without a word"
    return f"exit status {goodbye.exit_code}"
