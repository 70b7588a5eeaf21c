"""A rank ended as it should not."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, End, Finding, Goodbye, Severity, Span, Verdict
from rankscope.agent.rules._causes import hardware
from rankscope.agent.rules._causes.around import Around, names
from rankscope.agent.rules._out_of_memory import of_gpu
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}
# What Gloo, NCCL and TCPStore say of a peer that is gone, in the errors that torch makes of it. In a ConnectionError or
# the like it is a server of data or of weights that went away.
_LOST = re.compile(
    r"(RuntimeError|(torch\.distributed\.)?Dist\w*Error): .*"
    r"(connection (closed|reset) by|broken pipe|remote process exit|connection was likely closed)",
    re.IGNORECASE | re.DOTALL,
)
PATIENCE = 2.0  # seconds in which the rank whose end explains the others' is still to be heard


@dataclass(eq=False)
class RankCrashed:
    """A rank ended by an exception, a signal or an exit status that is not 0, or vanished without a word.

    The rank that ended by itself is the one to look at; the others end because it did (a lost connection, a SIGTERM
    from the launcher, whatever comes later than half a second after it), and are named with it. Where the ranks
    here all followed, that is said after two seconds: the first to end may be on another node. Running out of memory is
    told by RankOutOfMemory; whoever presses Ctrl-C need not be told.

    Needs the rank's last word (its goodbye), which its sender gives even when the process was killed.

    Defaults: at once, severity critical; warning where all ranks were asked to end.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ("goodbye",)
    severity: Severity = "critical"
    for_: Span = field(default_factory=Span)

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        ended = [(rank, rank.goodbye) for rank in run.ranks.values() if rank.goodbye is not None]
        bad = sorted(((rank, goodbye) for rank, goodbye in ended if crashed(goodbye)), key=lambda pair: pair[1].time)
        own = [(rank, goodbye) for rank, goodbye in bad if not led_by_another(goodbye)]
        if any(goodbye.signal == signal.SIGINT for _, goodbye in own):
            found = []  # someone pressed Ctrl-C
        elif own:
            until = own[0][1].time + 0.5
            found = [(rank, goodbye) for rank, goodbye in own if goodbye.time <= until]
        else:
            found = bad if bad and now - bad[0][1].time >= PATIENCE else []
        followers = sorted({rank.info.key.rank for rank, _ in bad} - {rank.info.key.rank for rank, _ in found})
        return tuple(_finding(node, run, rank, goodbye, followers) for rank, goodbye in found if not of_gpu(goodbye))


def _finding(node: Node, run: Run, rank: Rank, goodbye: Goodbye, followers: list[int]) -> Finding:
    causes = (hardware.fault(Around(node, run, rank, goodbye.step, goodbye.time)), _cause(goodbye))
    return Finding(
        f"rank {rank.info.key.rank} ended: {manner(goodbye)}",
        goodbye.step,
        goodbye.time,
        float(goodbye.exit_code),
        rank.info.key.rank,
        severity="warning" if goodbye.signal == signal.SIGTERM else None,  # a limit of the scheduler's, or preemption
        description=f"Because of it ended {names(followers)}." if followers else "",
        causes=tuple(cause for cause in causes if cause is not None),
    )


def _cause(goodbye: Goodbye) -> Cause | None:
    """Return what the end itself says of its cause; None for a mere exit status."""
    how = manner(goodbye)
    if lost_another(goodbye):
        return Cause(
            "another rank went away",
            "its connection was lost",
            "look at the rank that ended first: its log, and what may have killed it",
        )
    if goodbye.end is End.EXCEPTION:
        last = goodbye.traceback.strip().splitlines()[-3:-1]
        where = " ".join(line.strip() for line in last) or "no traceback was given"
        return Cause("the training code raised an exception", where, "the whole traceback is kept with the run")
    if goodbye.signal == 9 or goodbye.end is End.VANISHED:
        return Cause(
            "something killed the process",
            how,
            "look for the kernel's or the container's memory limit, the scheduler's time limit, "
            "or whoever sent the signal",
        )
    if goodbye.signal == 15:
        return Cause("it was asked to end", how, "torchrun ends all ranks after one failed; schedulers do at limits")
    if goodbye.signal:
        return Cause("native code crashed", how, "run with faulthandler; check drivers and the versions of extensions")
    return None


def lost_another(goodbye: Goodbye) -> bool:
    """Tell whether a rank ended because it no longer reached another one."""
    return goodbye.end is End.EXCEPTION and _LOST.match(goodbye.exception) is not None


def led_by_another(goodbye: Goodbye) -> bool:
    """Tell whether a rank ended because something else had."""
    return goodbye.signal == 15 or lost_another(goodbye)


def crashed(goodbye: Goodbye) -> bool:
    """Tell whether a session ended as it should not."""
    if goodbye.end in (End.EXCEPTION, End.SIGNAL, End.VANISHED):
        return True
    return goodbye.exit_code != 0


def manner(goodbye: Goodbye) -> str:
    """Return in a few words how a session ended."""
    if goodbye.end is End.EXCEPTION and goodbye.exception:
        return goodbye.exception.splitlines()[0][:200]
    if goodbye.signal:
        return f"signal {goodbye.signal} ({SIGNALS.get(goodbye.signal, 'unknown')})"
    if goodbye.end is End.VANISHED:
        return "it vanished without a word"
    return f"exit status {goodbye.exit_code}"
