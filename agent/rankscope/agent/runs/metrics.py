"""What is exported of runs and ranks: the rows of the catalogue, and how each is read from the state."""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Iterable, Iterator

from rankscope.agent.model import Histogram, Metric, Sample
from rankscope.agent.runs import readings
from rankscope.agent.runs.devices import RANK_INFO, Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.readings import Context, Readings, Selection
from rankscope.agent.runs.rows import RANK, RUN, RankRow, RunRow, one, rank_row, role_row, run_row
from rankscope.agent.runs.state import Node


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
    for quantile, seconds in rank.heartbeat.log_seconds.items() if rank.heartbeat else ():
        if re.fullmatch(r"0\.\d{1,6}", quantile):
            yield (quantile,), seconds


def _dropped(rank: Rank, at: Context) -> Readings:
    if rank.heartbeat is not None:
        yield from (((reason,), float(points)) for reason, points in rank.heartbeat.dropped.items())


def _nonfinite(rank: Rank, at: Context) -> Readings:
    yield from (((quantity,), float(count)) for quantity, count in rank.nonfinite.items())


RUN_ROWS = (
    RunRow(
        Metric(
            "run_info",
            "info",
            "Facts of a run as its ranks report them; 1 while it is known.",
            (*RUN, "run_id", "project", "framework", "model", "parallelism", "user", "job_id"),
            source="rank hello",
        ),
        lambda run, at: iter([(readings.facts(run), 1.0)]),
    ),
    run_row("run_world_size", "", "Ranks of the run on all nodes.", lambda run, at: run.info.world_size, "rank hello"),
    run_row("run_local_ranks", "", "Ranks of the run alive on this node.", lambda run, at: len(run.live(at.now))),
    run_row("run_start_time_seconds", "seconds", "Unix time of the run's first event.", lambda run, at: run.started),
    run_row(
        "run_last_event_timestamp_seconds",
        "seconds",
        "Unix time of the newest event of any rank on this node.",
        lambda run, at: run.last_event,
    ),
    run_row(
        "run_target_steps",
        "",
        "Planned steps, where the configuration says.",
        lambda run, at: readings.target_steps(run),
    ),
)

RANK_ROWS = (
    RankRow(RANK_INFO, _device),
    rank_row(
        "rank_up",
        "",
        "1 while the rank reports; 0 when it is silent or has ended.",
        lambda rank, at: float(rank.state(at.now) == "running"),
        "heartbeat",
    ),
    rank_row(
        "rank_attempt",
        "",
        "Attempt of the rank: 0 at first, 1 more with each restart by the launcher.",
        lambda rank, at: rank.info.attempt,
        "rank hello",
    ),
    rank_row(
        "rank_last_step_timestamp_seconds",
        "seconds",
        "Unix time of the newest finished step.",
        lambda rank, at: rank.last_step_time or None,
    ),
    rank_row(
        "rank_step_time_ratio",
        "ratio",
        "Median step time of the rank over that of the run's ranks on this node, newest 50 steps.",
        _ratio,
        "agent",
    ),
    rank_row("rank_straggler", "", "1 while the agent holds the rank for a straggler.", _straggler, "rules"),
    RankRow(
        Metric("rank_exit_info", "info", "How a rank ended.", (*RANK, "attempt", "reason"), source="goodbye"), _exit
    ),
    rank_row("train_step", "", "Newest finished step; may go back after a restart.", lambda rank, at: rank.step),
    rank_row(
        "train_steps_total", "", "Steps finished since the agent first saw the rank.", lambda rank, at: rank.steps
    ),
    role_row("train_epoch", "epoch", "", "Current epoch, may be fractional."),
    role_row("train_samples_total", "samples", "", "Samples consumed, as the trainer counts them."),
    role_row("train_tokens_total", "tokens", "", "Tokens consumed, as the trainer counts them."),
    role_row("train_loss", "loss", "", "Newest training loss; NaN and infinities are values."),
    role_row("train_val_loss", "val_loss", "", "Newest evaluation loss.", "eval event"),
    RankRow(
        Metric(
            "train_learning_rate",
            "gauge",
            "Learning rate by parameter group, the first four.",
            (*RANK, "group"),
            source="step event",
        ),
        lambda rank, at: readings.learning_rates(rank),
    ),
    role_row("train_grad_norm", "grad_norm", "", "Newest global gradient norm."),
    role_row(
        "train_grad_norm_share",
        "grad_norm_share",
        "",
        "Newest share of a rank in the gradient norm of a sharded model: squares add up to the whole's.",
        "watch()",
    ),
    role_row("train_grad_scale", "grad_scale", "", "Newest loss scale of mixed precision."),
    RankRow(
        Metric(
            "train_nonfinite_total",
            "counter",
            "Values that were no finite number.",
            (*RANK, "quantity"),
            source="agent",
        ),
        _nonfinite,
    ),
    role_row("train_skipped_steps_total", "skipped_steps", "", "Optimizer steps skipped because of overflow."),
    RankRow(
        Metric("train_step_duration_seconds", "histogram", "Wall time of a step.", RANK, "seconds", "step event"),
        lambda rank, at: one(rank.step_histogram()),
    ),
    RankRow(
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
    role_row("train_gpu_memory_allocated_bytes", "gpu_memory_allocated", "bytes", "Memory that torch has allocated."),
    role_row("train_gpu_memory_peak_bytes", "gpu_memory_peak", "bytes", "Most memory that torch had allocated."),
    rank_row(
        "train_checkpoint_duration_seconds",
        "seconds",
        "Duration of the newest checkpoint.",
        lambda rank, at: _checkpoint(rank, at, "value"),
        "phase checkpoint",
    ),
    rank_row(
        "train_last_checkpoint_timestamp_seconds",
        "seconds",
        "Unix time at which the newest checkpoint ended.",
        lambda rank, at: _checkpoint(rank, at, "time"),
        "phase checkpoint",
    ),
    role_row(
        "train_flops_utilization_ratio", "flops_utilization", "ratio", "Share of peak FLOPS, as the trainer reports."
    ),
    RankRow(
        Metric("train_value", "gauge", "Newest value of a scalar of the user's own.", (*RANK, "name"), source="log()"),
        lambda rank, at: readings.values(rank, at.values),
    ),
    role_row(
        "train_update_ratio", "update_ratio", "ratio", "Size of the update over the size of the weights.", "watch()"
    ),
    RankRow(
        Metric(
            "sdk_log_seconds",
            "summary",
            "What one log() costs the training thread.",
            (*RANK, "quantile"),
            "seconds",
            "heartbeat",
        ),
        _log_seconds,
    ),
    rank_row(
        "sdk_overhead_ratio",
        "ratio",
        "The SDK's time over the time of the steps.",
        lambda rank, at: rank.heartbeat.overhead_ratio if rank.heartbeat else None,
        "heartbeat",
    ),
    RankRow(
        Metric(
            "sdk_dropped_points_total",
            "counter",
            "Points that the SDK had to drop.",
            (*RANK, "reason"),
            source="heartbeat",
        ),
        _dropped,
    ),
    rank_row(
        "sdk_journal_bytes",
        "bytes",
        "Points on the rank's disk that wait to be sent.",
        lambda rank, at: rank.heartbeat.journal_bytes if rank.heartbeat else None,
        "heartbeat",
    ),
    rank_row("ingest_points_total", "", "Points taken from the rank.", lambda rank, at: rank.points, "receiver"),
    rank_row(
        "ingest_lag_seconds",
        "seconds",
        "From log() to the agent's state, newest batch.",
        lambda rank, at: rank.lag if rank.points else None,
        "receiver",
    ),
)

METRICS: tuple[Metric, ...] = (*(row.metric for row in RUN_ROWS), *(row.metric for row in RANK_ROWS))


EVERYTHING = Selection()


def samples(
    node: Node,
    now: float,
    selection: Selection = EVERYTHING,
    stragglers: Collection[tuple[str, int]] | None = None,
) -> Iterator[Sample]:
    """Yield every sample of the runs and ranks that the node knows, at `now` (Unix seconds).

    `selection`: which scalars of the user's own are exported. `stragglers`: runs and ranks that a rule holds for
    stragglers now; None while no rule judges, and then nothing is said of it.
    """
    devices = Devices(node)
    sampled = readings.sampled(node)
    for run in tuple(node.runs.values()):
        if not run.ranks:
            continue
        at = Context(now, devices, selection.of(run), stragglers, readings.medians(run))
        for row in RUN_ROWS:
            yield from _labelled(row.metric, (run.name,), row.read(run, at))
        for number, rank in sorted(run.ranks.items()):
            for each in RANK_ROWS:
                if (each.metric.name, run.name, str(number)) in sampled:
                    continue
                yield from _labelled(each.metric, (run.name, str(number)), each.read(rank, at))


def _labelled(
    metric: Metric, first: tuple[str, ...], found: Iterable[tuple[tuple[str, ...], float | Histogram]]
) -> Iterator[Sample]:
    for labels, value in found:
        yield Sample(metric, value, (*first, *labels))
