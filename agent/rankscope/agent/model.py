"""The values that flow through the agent, from the wire and the machine to whatever comes out."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Severity: TypeAlias = Literal["info", "warning", "critical"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")

Seconds: TypeAlias = Annotated[float, "seconds"]
"""A duration; in a configuration file also as `250ms`, `1s`, `2m`, `4h`, `7d`."""

IntArray: TypeAlias = NDArray[np.int64]
FloatArray: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Span:
    """How long a condition holds: in steps or in seconds (`5 steps`, `2m`); both zero: at once."""

    steps: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.steps} steps" if self.steps else f"{self.seconds:g}s"


# --- metrics: what is exported ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the catalogue: a metric family without its prefix `rankscope_` and its label `hostname`."""

    name: str
    kind: Literal["gauge", "counter", "info", "histogram", "summary"]  # summary: its quantiles alone
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""  # base unit as in the name; "" where there is none
    source: str = ""  # where the value comes from


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by upper bound (cumulative counts are made by the exporter), the sum of all values and their number."""

    bounds: tuple[float, ...]  # ascending, without infinity
    counts: tuple[int, ...]  # one more than bounds: the last counts what lies above all of them
    sum: float


class Sample(NamedTuple):
    """One value of one metric: what samplers, run state, alerts and telemetry give, and exporters take."""

    metric: Metric
    value: float | Histogram
    labels: tuple[str, ...] = ()  # values in the order of metric.labels


# --- what a rank says ------------------------------------------------------------------------------------------------


class RankKey(NamedTuple):
    """Names one rank of one run on this node. `project` and `run` are safe as folder names and label values."""

    project: str
    run: str
    rank: int


@dataclass(frozen=True, slots=True)
class RankInfo:
    """Who a rank is: its hello with the names that it was given (field meanings: proto/rankscope/v1/ingest.proto)."""

    key: RankKey
    session: int
    run_id: str
    name: str = ""
    attempt: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    node_rank: int = 0
    hostname: str = ""
    pid: int = 0
    pid_start_ticks: int = 0
    started: float = 0.0  # Unix seconds
    device_uuids: tuple[str, ...] = ()
    visible_devices: str = ""
    config: Mapping[str, object] = field(default_factory=dict[str, object])
    tags: tuple[str, ...] = ()
    notes: str = ""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    job_id: str = ""
    launch_id: str = ""
    launcher: str = ""
    cgroup: str = ""
    journal: str = ""
    sdk_version: str = ""


class Column(NamedTuple):
    """What a column of a block holds: a scalar of the user's, or the seconds of a phase of the step."""

    name: str
    kind: Literal["scalar", "phase"] = "scalar"


@dataclass(frozen=True, slots=True)
class Block:
    """n rows of k columns, in the order in which they were logged."""

    columns: tuple[Column, ...]
    step: IntArray  # (n,)
    time: FloatArray  # (n,), Unix seconds
    value: FloatArray  # (n, k)
    late: bool = False  # values that became known after their step was logged


@dataclass(frozen=True, slots=True)
class Event:
    """What a rank says beside numbers; `step` is the step at which it was said, `time` is in Unix seconds."""

    step: int
    time: float


@dataclass(frozen=True, slots=True)
class Text(Event):
    tag: str
    value: str


@dataclass(frozen=True, slots=True)
class UserAlert(Event):
    title: str
    text: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class Expect(Event):
    seconds: float  # from `time` on, the next progress may take this long


@dataclass(frozen=True, slots=True)
class Media(Event):
    """A piece of an image, histogram, table, graph or artifact; pieces of one `id` come in order."""

    kind: str
    tag: str
    id: int
    index: int
    last: bool
    data: bytes
    metadata: Mapping[str, object]


class End(enum.Enum):
    """How a session ended."""

    UNKNOWN = "unknown"
    FINISHED = "finished"
    EXCEPTION = "exception"
    SIGNAL = "signal"
    VANISHED = "vanished"


@dataclass(frozen=True, slots=True)
class Goodbye(Event):
    end: End
    exit_code: int = 0
    signal: int = 0
    exception: str = ""
    traceback: str = ""
    memory: Mapping[str, float] = field(default_factory=dict[str, float])  # bytes, by the allocator's names


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a rank's sender says while no step ends; `time` is in Unix seconds."""

    time: float
    step: int = 0
    phase: str = ""
    journal_bytes: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    log_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    overhead_ratio: float = 0.0
    offset: float | None = None  # seconds from the rank's CLOCK_MONOTONIC to its wall clock, by which `time` was made


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one session, `first` to `last` by sequence number, both included."""

    first: int
    last: int
    blocks: tuple[Block, ...] = ()
    events: tuple[Event, ...] = ()
    offset: float | None = None  # seconds from the rank's CLOCK_MONOTONIC to its wall clock, by which times were made


@dataclass(frozen=True, slots=True)
class Stacks:
    """Where a rank is: its stacks as faulthandler writes them, below the kernel's view, or why there are none."""

    text: str = ""
    refused: str = ""


# --- what rules say --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Cause:
    """A likely reason, the evidence for it from this very run, and what to do about it."""

    cause: str
    evidence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a rule found: one problem on one rank or device, or on the run or node as a whole."""

    summary: str  # one line, with the figures
    step: int | None = None  # the step whose point made the rule fire
    time: float = 0.0  # Unix seconds of that point
    value: float | None = None
    rank: int | None = None
    gpu: str | None = None  # index as text
    severity: Severity | None = None  # None: the rule's own
    description: str = ""
    causes: tuple[Cause, ...] = ()  # most likely first
    labels: Mapping[str, str] = field(default_factory=dict[str, str])  # closed sets only: `xid`, `name`, …
    tentative: bool = False  # who could say more of the causes was asked, and has not answered yet


@dataclass(frozen=True, slots=True)
class Incomplete:
    """A rule could not judge: what it lacks, in a few words."""

    reason: str


Verdict: TypeAlias = tuple[Finding, ...] | Incomplete
"""What a rule says of one run or node now: nothing wrong `()`, findings, or that it cannot tell."""
