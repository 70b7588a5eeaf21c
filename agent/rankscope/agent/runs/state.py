"""What the agent knows now: a node with its devices, the runs on it, and their ranks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from rankscope.agent.model import Histogram, RankInfo, RankKey, Sample
from rankscope.agent.runs.clock import Clock, RankClock
from rankscope.agent.runs.rank import Limits, Rank
from rankscope.agent.runs.roles import Roles
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.shares import Shares


@dataclass(slots=True)
class Run:
    """A run as this node sees it: the ranks that are here."""

    project: str
    name: str  # in labels and folders
    run_id: str
    started: float  # Unix seconds of the first hello
    ranks: dict[int, Rank] = field(default_factory=dict[int, Rank])
    shares: Shares = field(default_factory=Shares)

    @property
    def info(self) -> RankInfo:
        """What the lowest rank here said of the run."""
        return self.ranks[min(self.ranks)].info

    @property
    def last_event(self) -> float:
        return max((rank.last_seen for rank in self.ranks.values()), default=self.started)

    def live(self, now: float) -> list[Rank]:
        return [rank for rank in self.ranks.values() if rank.state(now) == "running"]


@dataclass(slots=True)
class Node:
    """This machine: what the samplers read last, what they read before, and the runs."""

    hostname: str
    limits: Limits = field(default_factory=Limits)
    clock: Clock = field(default_factory=Clock)
    roles: Roles = field(default_factory=Roles)
    runs: dict[tuple[str, str], Run] = field(default_factory=dict[tuple[str, str], Run])  # by project and name
    samples: dict[str, tuple[Sample, ...]] = field(default_factory=dict[str, tuple[Sample, ...]])  # by sampler
    sampled: dict[str, float] = field(default_factory=dict[str, float])  # time of the last success, by sampler
    failing: dict[str, str] = field(default_factory=dict[str, str])  # why the newest collection failed, by sampler
    devices: object = None  # what runs/devices.py found in the newest samples, for its next look
    _windows: dict[str, dict[tuple[str, ...], Series]] = field(
        default_factory=dict[str, "dict[tuple[str, ...], Series]"]
    )  # by metric and label values
    _given: dict[str, set[tuple[str, tuple[str, ...]]]] = field(
        default_factory=dict[str, "set[tuple[str, tuple[str, ...]]]"]
    )  # whose windows those are, by sampler

    def observe(self, sampler: str, samples: Iterable[Sample], now: float) -> None:
        """Take one collection of a sampler: it replaces the sampler's last one and lengthens the windows."""
        taken = tuple(samples)
        self.samples[sampler] = taken
        self.sampled[sampler] = now
        self.failing.pop(sampler, None)
        given: set[tuple[str, tuple[str, ...]]] = set()
        for sample in taken:
            if isinstance(sample.value, Histogram) or sample.metric.kind == "info":
                continue
            given.add((sample.metric.name, sample.labels))
            windows = self._windows.setdefault(sample.metric.name, {})
            window = windows.get(sample.labels)
            if window is None:
                window = windows[sample.labels] = Series(sample.metric.name, window=1024)
            window.append(0, now, sample.value)
        for metric, labels in self._given.get(sampler, given) - given:
            self._windows.get(metric, {}).pop(labels, None)
        self._given[sampler] = given

    def fail(self, sampler: str, reason: str) -> None:
        """A collection failed: what the sampler gave before is stale and goes."""
        self.samples.pop(sampler, None)
        self.failing[sampler] = reason

    def forget(self, sampler: str) -> None:
        """A sampler was switched off: nothing of it is left."""
        for metric, labels in self._given.pop(sampler, ()):
            self._windows.get(metric, {}).pop(labels, None)
        for of_samplers in (self.samples, self.sampled, self.failing):
            of_samplers.pop(sampler, None)

    def window(self, metric: str, *labels: str) -> Series | None:
        """Return what was sampled of one metric with these label values, newest last (`step` is 0 throughout)."""
        return self._windows.get(metric, {}).get(labels)

    def windows(self, metric: str) -> Iterator[tuple[tuple[str, ...], Series]]:
        """Yield label values and window of each series of a sampled metric."""
        yield from self._windows.get(metric, {}).items()

    def latest(self, metric: str) -> Mapping[tuple[str, ...], float]:
        """Return the newest values of a sampled metric by label values."""
        return {labels: series.last for labels, series in self.windows(metric)}

    def rank(self, key: RankKey) -> Rank | None:
        run = self.runs.get((key.project, key.run))
        return run.ranks.get(key.rank) if run else None

    def attach(self, info: RankInfo, now: float) -> Rank:
        """A stream of a rank begins; return the rank."""
        key = info.key
        run = self.runs.get((key.project, key.run))
        if run is None:
            run = self.runs[key.project, key.run] = Run(key.project, key.run, info.run_id, info.started or now)
        rank = run.ranks.get(key.rank)
        if rank is None:
            clock = RankClock(self.clock)
            rank = run.ranks[key.rank] = Rank(info, self.roles, self.limits, run.shares, run.ranks, clock)
        rank.attach(info, now)
        return rank

    def ranks(self) -> Iterator[tuple[Run, Rank]]:
        """Yield every rank here with its run; samplers may ask from their threads while ranks come and go."""
        for run in list(self.runs.values()):
            for rank in list(run.ranks.values()):
                yield run, rank

    def shift(self, seconds: float) -> None:
        """The clock was set forward by so many seconds: what was so long ago still is."""
        self.sampled = {sampler: time + seconds for sampler, time in self.sampled.items()}
        for windows in self._windows.values():
            for window in windows.values():
                window.shift(seconds)
        for run in self.runs.values():
            run.started += seconds if any(rank.clock.here for rank in run.ranks.values()) else 0.0
            for rank in run.ranks.values():
                rank.shift(seconds)

    def sweep(self, now: float, grace: float) -> list[Run]:
        """Forget the runs of which nothing was heard for `grace` seconds; return them."""
        gone = [run for run in self.runs.values() if now - run.last_event > grace and not any_connected(run)]
        for run in gone:
            del self.runs[run.project, run.name]
        return gone


def any_connected(run: Run) -> bool:
    return any(rank.connected for rank in run.ranks.values())
