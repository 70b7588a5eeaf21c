"""What is exported of runs and ranks: the rows of the catalogue, and how each is read from the state."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

from rankscope.agent.model import Histogram, Metric, Sample
from rankscope.agent.runs import readings
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.readings import Context, Readings, Selection
from rankscope.agent.runs.state import Node, Rank, Run

RUN = ("run",)
RANK = ("run", "rank")


class _RunRow(NamedTuple):
    metric: Metric
    read: Callable[[Run, Context], Readings]


class _RankRow(NamedTuple):
    metric: Metric
    read: Callable[[Rank, Context], Readings]


def _one(value: float | Histogram | None) -> Readings:
    if value is not None:
        yield (), value


def _run(
    name: str, unit: str, help: str, read: Callable[[Run, Context], float | None], source: str = "agent"
) -> _RunRow:
    return _RunRow(Metric(name, "gauge", help, RUN, unit, source), lambda run, at: _one(read(run, at)))


def _rank(
    name: str, unit: str, help: str, read: Callable[[Rank, Context], float | None], source: str = "step event"
) -> _RankRow:
    kind = "counter" if name.endswith("_total") else "gauge"
    return _RankRow(Metric(name, kind, help, RANK, unit, source), lambda rank, at: _one(read(rank, at)))


def _role(name: str, role: str, unit: str, help: str, source: str = "step event") -> _RankRow:
    def read(rank: Rank, at: Context) -> float | None:
        series = rank.role(role)
        return series.last if series is not None and len(series) else None

    return _rank(name, unit, help, read, source)


def _ratio(rank: Rank, at: Context) -> float | None:
    own = at.medians.get(rank.info.key.rank)
    whole = statistics.median(at.medians.values()) if at.medians else 0.0
    return own / whole if own is not None and whole > 0 else None


def _device(rank: Rank, at: Context) -> Readings:
    info = rank.info
    gpu, uuid = at.devices.of(rank) or ("", "")
    environment = info.environment
    workload = tuple(environment.get(key, "") for key in ("container", "kubernetes_namespace", "kubernetes_pod"))
    yield (str(info.local_rank), gpu, uuid, str(info.pid), *workload), 1.0


def _exit(rank: Rank, at: Context) -> Readings:
    if reason := readings.exit_reason(rank):
        yield (str(rank.info.attempt), reason), 1.0


def _straggler(rank: Rank, at: Context) -> float | None:
    if at.stragglers is None:
        return None
    return float((rank.info.key.run, rank.info.key.rank) in at.stragglers)


def _checkpoint(rank: Rank, at: Context, what: str) -> float | None:
    phase = rank.phases.get("checkpoint")
    if phase is None or not len(phase):
        return None
    return float(phase.value[-1] if what == "value" else phase.time[-1])


def _log_seconds(rank: Rank, at: Context) -> Readings:
    if rank.heartbeat is not None:
        yield from (((quantile,), seconds) for quantile, seconds in rank.heartbeat.log_seconds.items())


def _dropped(rank: Rank, at: Context) -> Readings:
    if rank.heartbeat is not None:
        yield from (((reason,), float(points)) for reason, points in rank.heartbeat.dropped.items())


def _nonfinite(rank: Rank, at: Context) -> Readings:
    yield from (((quantity,), float(count)) for quantity, count in rank.nonfinite.items())


RUN_ROWS = (
    _RunRow(
        Metric(
            "run_info",
            "info",
            "Facts of a run as its ranks report them; 1 while it is known.",
            (*RUN, "run_id", "project", "framework", "model", "parallelism", "user", "job_id"),
            source="rank hello",
        ),
        lambda run, at: iter([(readings.facts(run), 1.0)]),
    ),
    _run("run_world_size", "", "Ranks of the run on all nodes.", lambda run, at: run.info.world_size, "rank hello"),
    _run("run_local_ranks", "", "Ranks of the run alive on this node.", lambda run, at: len(run.live(at.now))),
    _run("run_start_time_seconds", "seconds", "Unix time of the run's first event.", lambda run, at: run.started),
    _run(
        "run_last_event_timestamp_seconds",
        "seconds",
        "Unix time of the newest event of any rank on this node.",
        lambda run, at: run.last_event,
    ),
    _run(
        "run_target_steps",
        "",
        "Planned steps, where the configuration says.",
        lambda run, at: readings.target_steps(run),
    ),
)

RANK_ROWS = (
    _RankRow(
        Metric(
            "rank_info",
            "info",
            "Which GPU, process and container a rank runs on.",
            (*RANK, "local_rank", "gpu", "uuid", "pid", "workload_container", "workload_namespace", "workload_pod"),
            source="rank hello, NVML",
        ),
        _device,
    ),
    _rank(
        "rank_up",
        "",
        "1 while the rank reports; 0 when it is silent or has ended.",
        lambda rank, at: float(rank.state(at.now) == "running"),
        "heartbeat",
    ),
    _rank(
        "rank_attempt",
        "",
        "Attempt of the rank: 0 at first, 1 more with each restart by the launcher.",
        lambda rank, at: rank.info.attempt,
        "rank hello",
    ),
    _rank(
        "rank_last_step_timestamp_seconds",
        "seconds",
        "Unix time of the newest finished step.",
        lambda rank, at: rank.last_step_time or None,
    ),
    _rank(
        "rank_step_time_ratio",
        "ratio",
        "Median step time of the rank over that of the run's ranks on this node, newest 50 steps.",
        _ratio,
        "agent",
    ),
    _rank("rank_straggler", "", "1 while the agent holds the rank for a straggler.", _straggler, "rules"),
    _RankRow(
        Metric("rank_exit_info", "info", "How a rank ended.", (*RANK, "attempt", "reason"), source="goodbye"), _exit
    ),
    _rank("train_step", "", "Newest finished step; may go back after a restart.", lambda rank, at: rank.step),
    _rank("train_steps_total", "", "Steps finished since the agent first saw the rank.", lambda rank, at: rank.steps),
    _role("train_epoch", "epoch", "", "Current epoch, may be fractional."),
    _role("train_samples_total", "samples", "", "Samples consumed, as the trainer counts them."),
    _role("train_tokens_total", "tokens", "", "Tokens consumed, as the trainer counts them."),
    _role("train_loss", "loss", "", "Newest training loss; NaN and infinities are values."),
    _role("train_val_loss", "val_loss", "", "Newest evaluation loss.", "eval event"),
    _RankRow(
        Metric(
            "train_learning_rate",
            "gauge",
            "Learning rate by parameter group, the first four.",
            (*RANK, "group"),
            source="step event",
        ),
        lambda rank, at: readings.learning_rates(rank),
    ),
    _role("train_grad_norm", "grad_norm", "", "Newest global gradient norm."),
    _role("train_grad_scale", "grad_scale", "", "Newest loss scale of mixed precision."),
    _RankRow(
        Metric(
            "train_nonfinite_total",
            "counter",
            "Values that were no finite number.",
            (*RANK, "quantity"),
            source="agent",
        ),
        _nonfinite,
    ),
    _role("train_skipped_steps_total", "skipped_steps", "", "Optimizer steps skipped because of overflow."),
    _RankRow(
        Metric("train_step_duration_seconds", "histogram", "Wall time of a step.", RANK, "seconds", "step event"),
        lambda rank, at: _one(rank.step_histogram()),
    ),
    _RankRow(
        Metric(
            "train_step_phase_seconds_total",
            "counter",
            "Time spent in each phase of the steps.",
            (*RANK, "phase"),
            "seconds",
            "step event",
        ),
        lambda rank, at: readings.phases(rank),
    ),
    _role("train_gpu_memory_allocated_bytes", "gpu_memory_allocated", "bytes", "Memory that torch has allocated."),
    _role("train_gpu_memory_peak_bytes", "gpu_memory_peak", "bytes", "Most memory that torch had allocated."),
    _rank(
        "train_checkpoint_duration_seconds",
        "seconds",
        "Duration of the newest checkpoint.",
        lambda rank, at: _checkpoint(rank, at, "value"),
        "phase checkpoint",
    ),
    _rank(
        "train_last_checkpoint_timestamp_seconds",
        "seconds",
        "Unix time at which the newest checkpoint ended.",
        lambda rank, at: _checkpoint(rank, at, "time"),
        "phase checkpoint",
    ),
    _role(
        "train_flops_utilization_ratio", "flops_utilization", "ratio", "Share of peak FLOPS, as the trainer reports."
    ),
    _RankRow(
        Metric("train_value", "gauge", "Newest value of a scalar of the user's own.", (*RANK, "name"), source="log()"),
        lambda rank, at: readings.values(rank, at.values),
    ),
    _role("train_update_ratio", "update_ratio", "ratio", "Size of the update over the size of the weights.", "watch()"),
    _RankRow(
        Metric(
            "sdk_log_seconds",
            "gauge",
            "What one log() costs the training thread.",
            (*RANK, "quantile"),
            "seconds",
            "heartbeat",
        ),
        _log_seconds,
    ),
    _rank(
        "sdk_overhead_ratio",
        "ratio",
        "The SDK's time over the time of the steps.",
        lambda rank, at: rank.heartbeat.overhead_ratio if rank.heartbeat else None,
        "heartbeat",
    ),
    _RankRow(
        Metric(
            "sdk_dropped_points_total",
            "counter",
            "Points that the SDK had to drop.",
            (*RANK, "reason"),
            source="heartbeat",
        ),
        _dropped,
    ),
    _rank(
        "sdk_journal_bytes",
        "bytes",
        "Points on the rank's disk that wait to be sent.",
        lambda rank, at: rank.heartbeat.journal_bytes if rank.heartbeat else None,
        "heartbeat",
    ),
    _rank("ingest_points_total", "", "Points taken from the rank.", lambda rank, at: rank.points, "receiver"),
    _rank(
        "ingest_lag_seconds",
        "seconds",
        "From log() to the agent's state, newest batch.",
        lambda rank, at: rank.lag if rank.points else None,
        "receiver",
    ),
)

METRICS: tuple[Metric, ...] = (*(row.metric for row in RUN_ROWS), *(row.metric for row in RANK_ROWS))


def samples(
    node: Node,
    now: float,
    selection: Selection = Selection(),
    stragglers: Collection[tuple[str, int]] | None = None,
) -> Iterator[Sample]:
    """Yield every sample of the runs and ranks that the node knows, at `now` (Unix seconds).

    `selection`: which scalars of the user's own are exported. `stragglers`: runs and ranks that a rule holds for
    stragglers now; None while no rule judges, and then nothing is said of it.
    """
    devices = Devices(node)
    for run in tuple(node.runs.values()):
        if not run.ranks:
            continue
        at = Context(now, devices, selection.of(run), stragglers, readings.medians(run))
        for row in RUN_ROWS:
            yield from _labelled(row.metric, (run.name,), row.read(run, at))
        for number, rank in sorted(run.ranks.items()):
            for rank_row in RANK_ROWS:
                yield from _labelled(rank_row.metric, (run.name, str(number)), rank_row.read(rank, at))


def _labelled(
    metric: Metric, first: tuple[str, ...], found: Iterable[tuple[tuple[str, ...], float | Histogram]]
) -> Iterator[Sample]:
    for labels, value in found:
        yield Sample(metric, value, (*first, *labels))
