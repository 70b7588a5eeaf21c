"""The processes of the ranks: which GPU, container and pod each runs in, and what its process tree uses."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from rankscope.agent.model import End, Goodbye, Metric, Sample, Seconds
from rankscope.agent.runs.clock import Follower
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux import cgroup, workload
from rankscope.agent.samplers._linux.affinity import Confined, Cpus
from rankscope.agent.samplers._linux.deaths import Deaths
from rankscope.agent.samplers._linux.engine import Engine
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._linux.kmsg import KernelLog
from rankscope.agent.samplers._linux.processes import Family, Finder, Stat, read_stat
from rankscope.agent.samplers._process_rows import (
    CPU_SECONDS,
    OOM_LIMIT,
    OOM_RESIDENT,
    OOM_TIME,
    ROWS,
    SLOW_ROWS,
    WORKER_CPU_SECONDS,
    Look,
)
from rankscope.agent.samplers._rows import collect, metrics

_SLOW = 30.0  # seconds
_FIRST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO in the kernel's proc_ns.h


@dataclass
class Process:
    """The process tree of each rank: CPU, memory, workers, files, limits, and what it runs in."""

    interval: Seconds = 5.0
    root: str = "/"
    _family: Family = field(default_factory=Family, init=False, repr=False)
    _finder: Finder = field(default_factory=Finder, init=False, repr=False)
    _workloads: dict[int, workload.Workload] = field(
        default_factory=dict[int, workload.Workload], init=False, repr=False
    )
    _helpers: dict[int, tuple[int, bool]] = field(default_factory=dict[int, tuple[int, bool]], init=False, repr=False)
    _engine: Engine = field(init=False, repr=False)
    _log: KernelLog | None = field(default=None, init=False, repr=False)
    _slow: dict[int, tuple[float, tuple[Sample, ...]]] = field(
        default_factory=dict[int, "tuple[float, tuple[Sample, ...]]"], init=False, repr=False
    )
    _deaths: Deaths = field(default_factory=Deaths, init=False, repr=False)
    _follower: Follower = field(default_factory=Follower, init=False, repr=False)
    _cpu: dict[tuple[int, str], float] = field(default_factory=dict[tuple[int, str], float], init=False, repr=False)

    _confined: dict[int, Confined] = field(default_factory=dict[int, Confined], init=False, repr=False)

    metrics: ClassVar[tuple[Metric, ...]] = (
        *metrics(ROWS),
        *metrics(SLOW_ROWS),
        CPU_SECONDS,
        WORKER_CPU_SECONDS,
        OOM_TIME,
        OOM_RESIDENT,
        OOM_LIMIT,
    )

    def __post_init__(self) -> None:
        self._engine = Engine(self.root)

    def sample(self, node: Node) -> Iterator[Sample]:
        now = time.monotonic()
        self._deaths.shift(self._follower.moved(node.clock.offset))
        files = Files(self.root)
        if self._log is None:
            self._log = KernelLog(self.root)
        everyone = [rank for run in tuple(node.runs.values()) for rank in tuple(run.ranks.values())]
        ranks = [rank for rank in everyone if rank.goodbye is None]
        found = [(rank, stat) for rank in ranks if (stat := self._finder.find(files, rank.info, now)) is not None]
        self._forget({rank.info.session for rank in everyone})
        if found:
            there = self._family.look(files)
            self._helpers = {pid: known for pid, known in self._helpers.items() if pid in there}
            devices, cpus = Devices(node), Cpus(files)
            for rank, stat in found:
                look = self._look(files, rank, stat, devices, cpus)
                self._deaths.alive(rank.info.session, [each.pid for each in look.tree], look.group, now)
                yield from collect(ROWS, look)
                yield from self._slowly(look, now)
                yield from self._cpu_seconds(look)
        living = {rank.info.session for rank, _ in found}
        ended = {rank.info.session for rank in everyone if rank.goodbye is not None and not _killed(rank.goodbye)}
        log = self._log.read() if self._sees_all(files) else ()
        self._deaths.look(files, living, ended, log, node.clock.now())
        for rank in everyone:
            yield from self._death(rank)

    def _sees_all(self, files: Files) -> bool:
        """Say whether the agent's pids are those of the kernel's log: in a PID namespace they are others."""
        try:
            return files.link("proc/self/ns/pid") == _FIRST_NAMESPACE
        except OSError:
            return True

    def _slowly(self, look: Look, now: float) -> tuple[Sample, ...]:
        """Return the samples of slow rows, as they were read at most half a minute ago."""
        session = look.rank.info.session
        known = self._slow.get(session)
        if known is None or now - known[0] >= _SLOW:
            known = self._slow[session] = (now, tuple(collect(SLOW_ROWS, look)))
        return known[1]

    def _death(self, rank: Rank) -> Iterator[Sample]:
        death = self._deaths.of(rank.info.session)
        if death is not None:
            key = (rank.info.key.run, str(rank.info.key.rank))
            yield Sample(OOM_TIME, death.time, key)
            for metric, amount in ((OOM_RESIDENT, death.resident), (OOM_LIMIT, death.limit)):
                if amount:
                    yield Sample(metric, float(amount), key)

    def _look(self, files: Files, rank: Rank, stat: Stat, devices: Devices, cpus: Cpus) -> Look:
        session = rank.info.session
        own = self._workloads.get(session)
        if own is None:
            own = workload.of_process(files, stat.pid)
            named = self._engine.name(own, time.monotonic())
            if named is not own or not own.container_id or own.pod_uid:
                self._workloads[session] = named  # else asked again: the engine may answer later
            own = named
        pids = self._family.descendants(stat.pid)[1:]
        tree = [stat, *(child for pid in pids if (child := read_stat(files, pid)) is not None)]
        helpers = {child.pid for child in tree[1:] if self._is_helper(files, child)}
        group = cgroup.path_of(files, stat.pid) or "/"
        confined = self._confined.setdefault(session, Confined())
        return Look(files, rank, stat, tree, helpers, devices.of(rank), own, group, cpus, confined)

    def _is_helper(self, files: Files, stat: Stat) -> bool:
        known = self._helpers.get(stat.pid)
        if known is None or known[0] != stat.start:
            try:
                known = (stat.start, "rankscope.sdk" in files.text(f"proc/{stat.pid}/cmdline").replace("\0", " "))
            except OSError:
                known = (stat.start, False)
            self._helpers[stat.pid] = known
        return known[1]

    def _cpu_seconds(self, look: Look) -> Iterable[Sample]:
        """Yield CPU time, which never goes back: the kernel forgets that of a child that nobody waited for."""
        totals = {
            CPU_SECONDS: sum((stat.cpu for stat in look.tree), 0.0),
            WORKER_CPU_SECONDS: sum((stat.cpu for stat in look.workers), look.stat.reaped),
        }
        for metric, total in totals.items():
            key = (look.rank.info.session, metric.name)
            self._cpu[key] = max(total, self._cpu.get(key, 0.0))
            yield Sample(metric, self._cpu[key], look.key)

    def _forget(self, sessions: set[int]) -> None:
        """Drop what is known of sessions that ended."""
        self._finder.keep(sessions)
        self._workloads = {session: own for session, own in self._workloads.items() if session in sessions}
        self._cpu = {key: total for key, total in self._cpu.items() if key[0] in sessions}
        self._confined = {session: known for session, known in self._confined.items() if session in sessions}
        self._slow = {session: known for session, known in self._slow.items() if session in sessions}
        self._deaths.keep(sessions)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()


def _killed(goodbye: Goodbye) -> bool:
    """Say whether a session may have ended because the kernel killed the rank, or a worker that it waited for."""
    if goodbye.end is End.SIGNAL:
        return goodbye.signal in (0, signal.SIGKILL)
    return goodbye.end in (End.VANISHED, End.UNKNOWN) or "DataLoader worker" in goodbye.exception
