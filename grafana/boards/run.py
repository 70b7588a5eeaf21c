"""One run, or several laid over one another: does it learn, how fast, on what, and what was wrong."""

from __future__ import annotations

from boards._run_pace import GPUS, SPEED
from boards.board import JOB, PROJECT, RUN, Board, Note
from boards.panel import Column, Query, Row
from boards.queries import of_run
from boards.selectors import BAD, CALM, GOOD, LINE_TO_RANKS, TO_NODE, WARN
from boards.selectors import RUN as R
from boards.shapes import amounts, figure, lines, states, table

GLANCE = Row(
    "At a glance",
    [
        figure(
            "Ranks that report",
            "Ranks that report now, of all nodes that are scraped. Fewer than the world size: some are gone, or have ended.",
            of_run("sum", "rankscope_rank_up"),
            width=4,
            steps=((None, CALM), (1, GOOD)),
            links=(("Look at the ranks", LINE_TO_RANKS),),
        ),
        figure(
            "World size", "Ranks that the run was launched with.", of_run("max", "rankscope_run_world_size"), width=3
        ),
        figure(
            "Step",
            "Newest step of any rank.",
            of_run("max", "rankscope_train_step"),
            unit="none",
            width=3,
            empty="No step yet",
        ),
        figure(
            "Left",
            "Time until the planned last step, at the pace of the last 5 minutes.",
            Query(
                f"(max by (run) (rankscope_run_target_steps{{{R}}}) - 1 - max by (run) (rankscope_train_step{{{R}}})) / (max by (run) (rate(rankscope_train_steps_total{{{R}}}[5m])) > 0)",
                "{{run}}",
            ),
            unit="s",
            width=4,
            empty="Not planned, or over",
        ),
        figure(
            "Loss",
            "Newest training loss, mean of the ranks.",
            of_run("avg", "rankscope_train_loss"),
            width=3,
            decimals=4,
            empty="No loss is logged",
        ),
        figure(
            "Validation loss",
            "Newest validation loss.",
            of_run("max", "rankscope_train_val_loss"),
            width=3,
            decimals=4,
            empty="No validation loss is logged",
        ),
        figure(
            "Alerts",
            "Alerts of this run that fire now.",
            Query(
                f"(sum by (run) (rankscope_alert_active{{{R}}} == 1)) or 0 * max by (run) (rankscope_run_info{{{R}}})",
                "{{run}}",
            ),
            width=4,
            steps=((None, GOOD), (1, BAD)),
        ),
    ],
)

LEARNING = Row(
    "Learning",
    [
        lines(
            "Loss",
            "Training loss, mean of the ranks, and validation loss (dashed). A gap in the line is a loss that is no number.",
            of_run("avg", "rankscope_train_loss", " training"),
            of_run("max", "rankscope_train_val_loss", " validation"),
            width=12,
            height=10,
            dashed=".* validation",
            links=(("Look at the ranks", LINE_TO_RANKS),),
            empty="No loss is logged",
        ),
        lines(
            "Gradient norm",
            "Whole gradient before clipping, largest of the ranks. Spikes come before spikes of the loss.",
            of_run("max", "rankscope_train_grad_norm"),
            width=6,
            height=10,
            empty="No gradient norm is logged: sdk.watch(model) or sdk.log(grad_norm=…)",
        ),
        amounts(
            "Learning rate",
            "By parameter group.",
            Query(f"max by (run, group) (rankscope_train_learning_rate{{{R}}})", "{{run}} group {{group}}"),
            width=6,
            height=10,
            unit="sci",
            empty="No learning rate is logged: sdk.log(lr=…)",
        ),
        amounts(
            "Values that are no numbers",
            "NaN and infinities among losses and gradient norms.",
            Query(
                f"sum by (run, quantity) (increase(rankscope_train_nonfinite_total{{{R}}}[$__rate_interval]))",
                "{{run}} {{quantity}}",
            ),
            width=6,
            bars=True,
        ),
        lines(
            "Loss scale",
            "Scale of mixed precision; it collapses when gradients overflow again and again.",
            of_run("max", "rankscope_train_grad_scale"),
            width=6,
            logarithmic=True,
            empty="No loss scale: full precision, or bfloat16",
        ),
        lines(
            "Update ratio",
            "Size of an update over the size of the weights; around 0.001 is usual.",
            of_run("max", "rankscope_train_update_ratio"),
            width=6,
            unit="sci",
            empty="Needs sdk.watch(model, optimizer)",
        ),
        lines(
            "Other values",
            "What the training logs beside the well-known names.",
            Query(f"avg by (run, name) (rankscope_train_value{{{R}}})", "{{run}} {{name}}"),
            width=6,
            empty="Nothing else is logged",
        ),
    ],
)

LIFE = Row(
    "Life of the run",
    [
        states(
            "Alerts",
            "What fired when: red while firing, yellow while the condition is being watched.",
            Query(f"max by (run, alert, severity) (rankscope_alert_active{{{R}}})", "{{alert}} {{run}}"),
            ("watching", WARN),
            ("firing", BAD),
            width=12,
            empty="No alert in this time",
        ),
        amounts(
            "Attempts",
            "Attempt of the launcher: it grows when torchrun restarts the ranks.",
            of_run("max", "rankscope_rank_attempt"),
            width=6,
            decimals=0,
        ),
        figure(
            "Time since the last checkpoint",
            "What would be lost now.",
            Query(f"time() - max by (run) (rankscope_train_last_checkpoint_timestamp_seconds{{{R}}})", "{{run}}"),
            unit="s",
            width=6,
            empty='No checkpoint was timed: with sdk.phase("checkpoint")',
            height=8,
        ),
        table(
            "Where the ranks are",
            "Process, node and GPU of each rank.",
            Query(
                f"max by (run, rank, hostname, gpu, pid, workload_container, workload_pod) (rankscope_rank_info{{{R}}})"
            ),
            width=12,
            columns=(Column("hostname", link=TO_NODE),),
        ),
        table(
            "How ranks ended",
            "finished: by itself; vanished: gone without a word, as after kill -9; exception, signal, failed: what the script told.",
            Query(f"max by (run, rank, attempt, reason) (rankscope_rank_exit_info{{{R}}})"),
            width=12,
            empty="No rank has ended",
        ),
    ],
)

FIRED = Note(
    "Alerts",
    f"(rankscope_alert_active{{{R}}} == 1) unless on (hostname, run, alert, rank, gpu) (rankscope_alert_active{{{R}}} offset 30s == 1)",
    "red",
    "{{alert}}",
    "{{severity}} · {{run}} · node {{hostname}} · rank {{rank}}",
)
RESTARTED = Note(
    "Restarts",
    f"changes(max by (run) (rankscope_rank_attempt{{{R}}})[1m:15s]) > 0",
    "purple",
    "Restart",
    "{{run}} was started again by its launcher",
)

BOARD = Board(
    "rankscope-run",
    "Does a run learn, how fast, on what, and what was wrong. Choose several runs to compare them.",
    [JOB, PROJECT, RUN],
    [GLANCE, LEARNING, SPEED, GPUS, LIFE],
    [FIRED, RESTARTED],
)
