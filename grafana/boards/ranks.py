"""The ranks of a run beside one another: who is slow, who waits for whom, who is stuck."""

from __future__ import annotations

from boards.board import JOB, PROJECT, RANK, RUN, Board
from boards.panel import Column, Panel, Query, Row
from boards.selectors import BAD, CALM, GOOD, TO_NODE, WARN
from boards.selectors import RANK as K
from boards.shapes import amounts, bars, lines, states, table

NAME = "rank {{rank}} {{run}}"
SLOW = ((None, GOOD), (1.05, WARN), (1.2, "orange"), (1.5, BAD))


def per_step(phases: str) -> str:
    """Return seconds a step of some phases, by rank."""
    return (
        f'sum by (run, rank) (rate(rankscope_train_step_phase_seconds_total{{{K},phase=~"{phases}"}}[$__rate_interval]))'
        f" / sum by (run, rank) (rate(rankscope_train_steps_total{{{K}}}[$__rate_interval]))"
    )


NO_PHASES = "No phases are timed: sdk.phase(…), sdk.batches(…)"
AHEAD = "data|forward|optimizer"
WORK = per_step(AHEAD)

STRAGGLERS = Row(
    "Who holds up the others",
    [
        Panel(
            "Own work against the slowest half of the ranks",
            "Time of data, forward and optimizer, which a rank spends by itself, over the median of the run's ranks. Red is the rank that the others wait for. The 32 slowest.",
            [Query(f"topk(32, ({WORK}) / on (run) group_left () quantile by (run) (0.5, {WORK}))", NAME)],
            "timeline",
            "none",
            width=16,
            height=11,
            steps=SLOW,
            decimals=2,
            empty=NO_PHASES,
        ),
        bars(
            "Own work of a step",
            "Seconds of a step that each rank works by itself: the longest bar is waited for.",
            Query(f"topk(32, {WORK})", NAME),
            unit="s",
            width=8,
            height=11,
            steps=((None, CALM),),
            empty=NO_PHASES,
        ),
        Panel(
            "Step time against the other ranks of the node",
            "Median step time over that of the node's ranks, last 50 steps. Ranks that wait for one another have the same step time: look above, too.",
            [Query(f"topk(32, rankscope_rank_step_time_ratio{{{K}}})", NAME)],
            "timeline",
            "none",
            width=12,
            steps=SLOW,
            decimals=2,
        ),
        amounts(
            "Steps behind the fastest rank",
            "More than one or two: the ranks are out of step, or some are stuck.",
            Query(
                f"topk(32, max by (run) (rankscope_train_step{{{K}}}) - on (run) group_right () max by (run, rank) (rankscope_train_step{{{K}}}))",
                NAME,
            ),
            width=12,
            steps=((None, GOOD), (5, BAD)),
        ),
    ],
)


def phases(title: str, description: str, names: str) -> Panel:
    return amounts(title, description, Query(f"topk(16, {per_step(names)})", NAME), unit="s", width=6, empty=NO_PHASES)


WAITING = Row(
    "Where the time of a step goes",
    [
        phases("Data", "Seconds of a step that a rank waits for its batch.", "data"),
        phases("Forward", "Seconds of a step in the forward pass.", "forward"),
        phases(
            "Backward",
            "Seconds of a step in the backward pass; with data parallelism it ends with waiting for the slowest rank, so the rank with the *shortest* is the slow one.",
            "backward",
        ),
        phases("Everything else", "Seconds of a step in other phases.", "optimizer|comm|checkpoint|eval|other"),
        amounts(
            "Skew",
            "Slowest rank's own work over the median's, minus 1: what the whole run would gain if that rank were like the others.",
            Query(f"max by (run) ({WORK}) / quantile by (run) (0.5, {WORK}) - 1", "{{run}}"),
            unit="percentunit",
            width=12,
            empty=NO_PHASES,
        ),
        amounts(
            "Step time",
            "Mean seconds between two steps of a rank.",
            Query(
                f"topk(16, sum by (run, rank) (rate(rankscope_train_step_duration_seconds_sum{{{K}}}[$__rate_interval])) / sum by (run, rank) (rate(rankscope_train_step_duration_seconds_count{{{K}}}[$__rate_interval])))",
                NAME,
            ),
            unit="s",
            width=12,
        ),
    ],
)

LIFE = Row(
    "Who lives",
    [
        states(
            "Ranks that report",
            "Green while a rank reports; blue once it is silent or has ended.",
            Query(f"bottomk(64, max by (run, rank) (rankscope_rank_up{{{K}}}))", NAME),
            ("silent or ended", CALM),
            ("reports", GOOD),
            unit="none",
            width=12,
        ),
        bars(
            "Time since the last step",
            "Ranks that have ended count on until the agent forgets the run.",
            Query(f"topk(16, time() - max by (run, rank) (rankscope_rank_last_step_timestamp_seconds{{{K}}}))", NAME),
            unit="s",
            width=12,
            steps=((None, CALM),),
            empty="No step yet",
        ),
        states(
            "Held for a straggler",
            "Ranks that the rule Straggler points at.",
            Query(f"topk(32, max by (run, rank) (rankscope_rank_straggler{{{K}}}))", NAME),
            ("keeps up", GOOD),
            ("straggler", BAD),
            unit="none",
            width=12,
            empty="The rule Straggler is off",
        ),
        table(
            "Ranks",
            "Where each rank is and how far it got.",
            Query(f"max by (run, rank, hostname, gpu, pid) (rankscope_rank_info{{{K}}})"),
            Query(f"max by (run, rank, hostname) (rankscope_train_step{{{K}}})", name="step"),
            Query(f"max by (run, rank, hostname) (rankscope_train_loss{{{K}}})", name="loss"),
            width=12,
            columns=(Column("hostname", link=TO_NODE),),
        ),
    ],
)

MACHINE = Row(
    "What the ranks use",
    [
        lines(
            "Loss by rank",
            "Each rank sees other data; one that drifts away has left the others.",
            Query(f"topk(16, rankscope_train_loss{{{K}}})", NAME),
            width=6,
            empty="No loss is logged",
        ),
        amounts(
            "CPU",
            "Processors in use by the rank and its loaders.",
            Query(
                f"topk(16, sum by (run, rank) (rate(rankscope_rank_cpu_seconds_total{{{K}}}[$__rate_interval])))", NAME
            ),
            width=6,
            empty="No rank lives on these nodes",
        ),
        amounts(
            "Memory",
            "Memory of the rank's processes.",
            Query(f"topk(16, sum by (run, rank) (rankscope_rank_resident_memory_bytes{{{K}}}))", NAME),
            unit="bytes",
            width=6,
            empty="No rank lives on these nodes",
        ),
        amounts(
            "Points that wait",
            "Bytes on the rank's disk that the agent has not taken.",
            Query(f"topk(16, rankscope_sdk_journal_bytes{{{K}}})", NAME),
            unit="bytes",
            width=6,
            empty="No rank has reported",
        ),
    ],
)

BOARD = Board(
    "rankscope-ranks",
    "The ranks of a run beside one another: who is slow, who waits for whom, who is stuck.",
    [JOB, PROJECT, RUN, RANK],
    [STRAGGLERS, WAITING, LIFE, MACHINE],
    span="now-30m",
)
