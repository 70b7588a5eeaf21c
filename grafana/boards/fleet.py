"""All nodes and all runs on one screen; asks recording rules, so that a thousand nodes are no more work than ten."""

from __future__ import annotations

from boards.board import JOB as JOB_VARIABLE
from boards.board import Board
from boards.panel import Column, Query, Row
from boards.queries import grown
from boards.selectors import BAD, CALM, GOOD, JOB, LINE_TO_NODE, LINE_TO_RUN, TO_RUN, WARN
from boards.shapes import amounts, bars, figure, lines, table

GLANCE = Row(
    "At a glance",
    [
        figure(
            "Nodes", "Nodes whose agent answers.", Query(f"count(rankscope_agent_start_time_seconds{{{JOB}}})"), width=3
        ),
        figure(
            "Nodes that do not answer",
            "Agents that Prometheus knows and cannot scrape. Their runs may go on unseen.",
            Query(f"count(up{{{JOB}}} == 0) or vector(0)"),
            width=3,
            steps=((None, GOOD), (1, BAD)),
        ),
        figure(
            "GPUs",
            "GPUs on all nodes.",
            Query(f"sum(rankscope:node_gpus:count{{{JOB}}})"),
            width=3,
            empty="No node has a GPU",
        ),
        figure(
            "Useful GPU time",
            "Share of all GPU time of the last 5 minutes in which GPUs computed: not idle, not waiting for data, for others or for colder chips.",
            Query(
                f'sum(rankscope:node_gpu_state:rate5m{{{JOB},state="working"}}) / sum(rankscope:node_gpu_state:rate5m{{{JOB}}})'
            ),
            unit="percentunit",
            width=4,
            steps=((None, BAD), (0.3, WARN), (0.6, GOOD)),
            empty="No node has a GPU",
        ),
        figure(
            "GPU hours not used",
            "GPU hours of the time range shown in which GPUs did not compute.",
            Query(f"sum(avg_over_time(rankscope:gpus_unused:rate5m{{{JOB}}}[$__range])) * $__range_s / 3600"),
            width=4,
            decimals=1,
            empty="No node has a GPU",
        ),
        figure(
            "Runs that train",
            "Runs with at least one rank that reports.",
            Query(f"count(rankscope:run_ranks_up:sum{{{JOB}}} > 0) or vector(0)"),
            width=3,
            steps=((None, "text"), (1, GOOD)),
        ),
        figure(
            "Alerts that fire",
            "Alerts of all agents that fire now.",
            Query(f"sum(rankscope:alerts_firing:sum{{{JOB}}}) or vector(0)"),
            width=4,
            steps=((None, GOOD), (1, BAD)),
        ),
    ],
)

STATES = ((0, "ended or silent", CALM), (1, "training", GOOD))

RUNS = Row(
    "Runs",
    [
        table(
            "Runs",
            "Every run that an agent knows. `ranks` that report below `world` means that some are gone or have not started. A click on a run opens it.",
            Query(f"max by (run, project, user) (rankscope_run_info{{{JOB}}})"),
            Query(f"rankscope:run_ranks_up:sum{{{JOB}}} > bool 0", name="state"),
            Query(f"rankscope:run_ranks_up:sum{{{JOB}}}", name="ranks"),
            Query(f"rankscope:run_world_size:max{{{JOB}}}", name="world"),
            Query(f"rankscope:run_step:max{{{JOB}}}", name="step"),
            Query(f"rankscope:run_loss:min{{{JOB}}}", name="loss"),
            Query(f"rankscope:run_steps:rate5m{{{JOB}}}", name="steps a second"),
            Query(f"time() - rankscope:run_last_step_timestamp_seconds:max{{{JOB}}}", name="last step"),
            width=24,
            height=9,
            empty="No agent knows a run",
            columns=(
                Column("run", link=TO_RUN),
                Column("state", words=STATES),
                Column("last step", "s"),
                Column("loss", "sishort"),
                Column("steps a second", "ops"),
            ),
        ),
        lines(
            "Loss by run",
            "Lowest loss of the run's ranks; the newest 20 runs at most.",
            Query(f"topk(20, rankscope:run_loss:min{{{JOB}}})", "{{run}}"),
            width=12,
            links=(("Open the run", LINE_TO_RUN),),
            empty="No run logs a loss",
        ),
        amounts(
            "Steps a second by run",
            "Pace of each run over 5 minutes, its fastest rank.",
            Query(f"topk(20, rankscope:run_steps:rate5m{{{JOB}}})", "{{run}}"),
            unit="ops",
            width=12,
            links=(("Open the run", LINE_TO_RUN),),
            empty="No run finishes steps",
        ),
    ],
)

GPUS = Row(
    "GPUs",
    [
        amounts(
            "What the GPUs do",
            "All GPUs by what they do: working, starved (waits for data), communicating, throttled, idle, dead.",
            Query(f"sum by (state) (rankscope:node_gpu_state:rate5m{{{JOB}}})", "{{state}}"),
            width=12,
            stacked=True,
            empty="No node has a GPU",
        ),
        bars(
            "Least used nodes",
            "Share of GPU time that was useful on the 15 nodes where it is least.",
            Query(
                f'bottomk(15, sum by (hostname) (rankscope:node_gpu_state:rate5m{{{JOB},state="working"}}) / sum by (hostname) (rankscope:node_gpu_state:rate5m{{{JOB}}}))',
                "{{hostname}}",
            ),
            unit="percentunit",
            width=6,
            maximum=1,
            steps=((None, BAD), (0.3, WARN), (0.6, GOOD)),
            links=(("Open the node", LINE_TO_NODE),),
            empty="No node has a GPU",
        ),
        amounts(
            "Power",
            "Power of all GPUs.",
            Query(f"sum(rankscope:node_gpu_power_watts:sum{{{JOB}}})", "all GPUs"),
            unit="watt",
            width=6,
            empty="No node has a GPU",
        ),
    ],
)

ALERTS = Row(
    "Alerts",
    [
        table(
            "Alerts that fire",
            "What agents found, one line each. What to do about it stands in the notification and on the agent's page.",
            Query(f"sum by (alert, severity, run) (rankscope:alerts_firing:sum{{{JOB}}})", name="count"),
            width=12,
            empty="No alert fires",
            columns=(Column("run", link=TO_RUN),),
        ),
        amounts(
            "Alerts fired",
            "How many alerts began to fire, by name.",
            Query(
                f"sum by (alert) ({grown(f'rankscope_alerts_total{{{JOB}}}', '$__rate_interval')}) > 0",
                "{{alert}}",
            ),
            width=12,
            bars=True,
            stacked=True,
            empty="No alert fired in this time",
        ),
    ],
)

BOARD = Board(
    "rankscope-fleet", "All nodes, GPUs, runs and alerts on one screen.", [JOB_VARIABLE], [GLANCE, RUNS, GPUS, ALERTS]
)
