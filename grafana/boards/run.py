"""One run, or several laid over one another: does it learn, how fast, on what, and what was wrong."""

from __future__ import annotations

from boards.board import JOB, PROJECT, RUN, Board, Note
from boards.panel import Column, Panel, Query, Row
from boards.selectors import BAD, CALM, GOOD, LINE_TO_RANKS, TO_NODE, WARN, of_ranks
from boards.selectors import JOB as J
from boards.selectors import RUN as R

PER_STEP = f"sum by (run) (rate(rankscope_train_steps_total{{{R}}}[$__rate_interval]))"

GLANCE = Row(
    "At a glance",
    [
        Panel(
            "Ranks that report",
            "Ranks that report now, of all nodes that are scraped. Fewer than the world size: some are gone, or have ended.",
            [Query(f"sum by (run) (rankscope_rank_up{{{R}}})", "{{run}}")],
            "stat",
            width=4,
            height=4,
            steps=((None, CALM), (1, GOOD)),
            links=(("Look at the ranks", LINE_TO_RANKS),),
        ),
        Panel(
            "World size",
            "Ranks that the run was launched with.",
            [Query(f"max by (run) (rankscope_run_world_size{{{R}}})", "{{run}}")],
            "stat",
            width=3,
            height=4,
        ),
        Panel(
            "Step",
            "Newest step of any rank.",
            [Query(f"max by (run) (rankscope_train_step{{{R}}})", "{{run}}")],
            "stat",
            "none",
            width=3,
            height=4,
            empty="No step yet",
        ),
        Panel(
            "Left",
            "Time until the planned last step, at the pace of the last 5 minutes.",
            [
                Query(
                    f"(max by (run) (rankscope_run_target_steps{{{R}}}) - 1 - max by (run) (rankscope_train_step{{{R}}})) / (max by (run) (rate(rankscope_train_steps_total{{{R}}}[5m])) > 0)",
                    "{{run}}",
                )
            ],
            "stat",
            "s",
            width=4,
            height=4,
            empty="Not planned, or over",
        ),
        Panel(
            "Loss",
            "Newest training loss, mean of the ranks.",
            [Query(f"avg by (run) (rankscope_train_loss{{{R}}})", "{{run}}")],
            "stat",
            width=3,
            height=4,
            decimals=4,
            empty="No loss is logged",
        ),
        Panel(
            "Validation loss",
            "Newest validation loss.",
            [Query(f"max by (run) (rankscope_train_val_loss{{{R}}})", "{{run}}")],
            "stat",
            width=3,
            height=4,
            decimals=4,
            empty="No validation loss is logged",
        ),
        Panel(
            "Alerts",
            "Alerts of this run that fire now.",
            [
                Query(
                    f"(sum by (run) (rankscope_alert_active{{{R}}} == 1)) or 0 * max by (run) (rankscope_run_info{{{R}}})",
                    "{{run}}",
                )
            ],
            "stat",
            width=4,
            height=4,
            steps=((None, GOOD), (1, BAD)),
        ),
    ],
)

LEARNING = Row(
    "Learning",
    [
        Panel(
            "Loss",
            "Training loss, mean of the ranks, and validation loss (dashed). A gap in the line is a loss that is no number.",
            [
                Query(f"avg by (run) (rankscope_train_loss{{{R}}})", "{{run}} training"),
                Query(f"max by (run) (rankscope_train_val_loss{{{R}}})", "{{run}} validation"),
            ],
            width=12,
            height=10,
            dashed=".* validation",
            links=(("Look at the ranks", LINE_TO_RANKS),),
            empty="No loss is logged",
        ),
        Panel(
            "Gradient norm",
            "Whole gradient before clipping, largest of the ranks. Spikes come before spikes of the loss.",
            [Query(f"max by (run) (rankscope_train_grad_norm{{{R}}})", "{{run}}")],
            width=6,
            height=10,
            empty="No gradient norm is logged: sdk.watch(model) or sdk.log(grad_norm=…)",
        ),
        Panel(
            "Learning rate",
            "By parameter group.",
            [Query(f"max by (run, group) (rankscope_train_learning_rate{{{R}}})", "{{run}} group {{group}}")],
            width=6,
            height=10,
            minimum=0,
            unit="sci",
            empty="No learning rate is logged: sdk.log(lr=…)",
        ),
        Panel(
            "Values that are no numbers",
            "NaN and infinities among losses and gradient norms.",
            [
                Query(
                    f"sum by (run, quantity) (increase(rankscope_train_nonfinite_total{{{R}}}[$__rate_interval]))",
                    "{{run}} {{quantity}}",
                )
            ],
            width=6,
            minimum=0,
            bars=True,
        ),
        Panel(
            "Loss scale",
            "Scale of mixed precision; it collapses when gradients overflow again and again.",
            [Query(f"max by (run) (rankscope_train_grad_scale{{{R}}})", "{{run}}")],
            width=6,
            logarithmic=True,
            empty="No loss scale: full precision, or bfloat16",
        ),
        Panel(
            "Update ratio",
            "Size of an update over the size of the weights; around 0.001 is usual.",
            [Query(f"max by (run) (rankscope_train_update_ratio{{{R}}})", "{{run}}")],
            width=6,
            unit="sci",
            empty="Needs sdk.watch(model, optimizer)",
        ),
        Panel(
            "Other values",
            "What the training logs beside the well-known names.",
            [Query(f"avg by (run, name) (rankscope_train_value{{{R}}})", "{{run}} {{name}}")],
            width=6,
            empty="Nothing else is logged",
        ),
    ],
)

SPEED = Row(
    "Speed",
    [
        Panel(
            "Steps a second",
            "Pace of the run.",
            [Query(f"max by (run) (rate(rankscope_train_steps_total{{{R}}}[$__rate_interval]))", "{{run}}")],
            unit="ops",
            width=6,
            minimum=0,
        ),
        Panel(
            "Samples and tokens a second",
            "Throughput as the training logs it, all ranks together.",
            [
                Query(
                    f'sum by (run, name) (rankscope_train_value{{{R},name=~"samples_per_second|tokens_per_second"}})',
                    "{{run}} {{name}}",
                )
            ],
            width=6,
            minimum=0,
            empty="Neither samples_per_second nor tokens_per_second is logged",
        ),
        Panel(
            "Time of a step by phase",
            "Mean seconds of a rank's step by phase. Time in `data` is time that GPUs wait.",
            [
                Query(
                    f"sum by (run, phase) (rate(rankscope_train_step_phase_seconds_total{{{R}}}[$__rate_interval])) / on (run) group_left () {PER_STEP}",
                    "{{run}} {{phase}}",
                )
            ],
            unit="s",
            width=12,
            minimum=0,
            stacked=True,
            empty="No phases are timed: sdk.phase(…), sdk.batches(…)",
        ),
        Panel(
            "Duration of steps",
            "How many steps took how long, all ranks.",
            [
                Query(
                    f"sum by (le) (increase(rankscope_train_step_duration_seconds_bucket{{{R}}}[$__rate_interval]))",
                    "{{le}}",
                )
            ],
            "heatmap",
            "s",
            width=12,
        ),
        Panel(
            "Slow steps",
            "Half of all steps are faster than the lower line, one in twenty is slower than the upper.",
            [
                Query(
                    f"histogram_quantile(0.5, sum by (run, le) (rate(rankscope_train_step_duration_seconds_bucket{{{R}}}[$__rate_interval])))",
                    "{{run}} median",
                ),
                Query(
                    f"histogram_quantile(0.95, sum by (run, le) (rate(rankscope_train_step_duration_seconds_bucket{{{R}}}[$__rate_interval])))",
                    "{{run}} 95 %",
                ),
            ],
            unit="s",
            width=6,
            minimum=0,
            empty="No step was finished lately",
        ),
        Panel(
            "Model FLOPS used",
            "Share of the peak, as the training reports it (MFU).",
            [Query(f"avg by (run) (rankscope_train_flops_utilization_ratio{{{R}}})", "{{run}}")],
            unit="percentunit",
            width=6,
            minimum=0,
            maximum=1,
            empty="No mfu is logged",
        ),
    ],
)


def gpu(metric: str) -> str:
    return of_ranks(metric)


NO_GPU = "No rank of this run is known to be on a GPU"
RANK_NAME = "{{run}} rank {{rank}}"

GPUS = Row(
    "GPUs of this run",
    [
        Panel(
            "Busy",
            "Share of time with a kernel on the GPU, by rank.",
            [Query(gpu(f"rankscope_gpu_utilization_ratio{{{J}}}"), RANK_NAME)],
            unit="percentunit",
            width=6,
            minimum=0,
            maximum=1,
            empty=NO_GPU,
        ),
        Panel(
            "Memory used",
            "Framebuffer memory in use, by rank.",
            [Query(gpu(f"rankscope_gpu_memory_used_bytes{{{J}}}"), RANK_NAME)],
            unit="bytes",
            width=6,
            minimum=0,
            empty=NO_GPU,
        ),
        Panel(
            "Power",
            "Board power, by rank.",
            [Query(gpu(f"rankscope_gpu_power_watts{{{J}}}"), RANK_NAME)],
            unit="watt",
            width=6,
            minimum=0,
            empty=NO_GPU,
        ),
        Panel(
            "Temperature",
            "Temperature of the chip, by rank.",
            [Query(gpu(f'rankscope_gpu_temperature_celsius{{{J},sensor="gpu"}}'), RANK_NAME)],
            unit="celsius",
            width=6,
            empty=NO_GPU,
        ),
        Panel(
            "What the GPUs of the run do",
            "GPUs of this run by what they do.",
            [
                Query(
                    f'sum by (run, state) (max by (job, uuid, run) (rankscope_rank_info{{{R},uuid!=""}}) * on (job, uuid) group_right (run) (sum by (job, uuid, state) (rate(rankscope_gpu_state_seconds_total{{{J}}}[$__rate_interval]))))',
                    "{{run}} {{state}}",
                )
            ],
            width=12,
            minimum=0,
            stacked=True,
            empty=NO_GPU,
        ),
        Panel(
            "Memory of the framework",
            "What torch has allocated, and the most that it had.",
            [
                Query(f"rankscope_train_gpu_memory_allocated_bytes{{{R}}}", RANK_NAME),
                Query(f"rankscope_train_gpu_memory_peak_bytes{{{R}}}", f"{RANK_NAME} peak"),
            ],
            unit="bytes",
            width=12,
            minimum=0,
            dashed=".* peak",
            empty="Not reported by this run",
        ),
    ],
)

LIFE = Row(
    "Life of the run",
    [
        Panel(
            "Alerts",
            "What fired when: red while firing, yellow while the condition is being watched.",
            [Query(f"max by (run, alert, severity) (rankscope_alert_active{{{R}}})", "{{alert}} {{run}}")],
            "timeline",
            width=12,
            steps=((None, WARN), (1, BAD)),
            words=((0, "watching", WARN), (1, "firing", BAD)),
            empty="No alert in this time",
        ),
        Panel(
            "Attempts",
            "Attempt of the launcher: it grows when torchrun restarts the ranks.",
            [Query(f"max by (run) (rankscope_rank_attempt{{{R}}})", "{{run}}")],
            width=6,
            minimum=0,
            decimals=0,
        ),
        Panel(
            "Time since the last checkpoint",
            "What would be lost now.",
            [Query(f"time() - max by (run) (rankscope_train_last_checkpoint_timestamp_seconds{{{R}}})", "{{run}}")],
            "stat",
            "s",
            width=6,
            empty='No checkpoint was timed: with sdk.phase("checkpoint")',
        ),
        Panel(
            "Where the ranks are",
            "Process, node and GPU of each rank.",
            [
                Query(
                    f"max by (run, rank, hostname, gpu, pid, workload_container, workload_pod) (rankscope_rank_info{{{R}}})"
                )
            ],
            "table",
            width=12,
            columns=(Column("hostname", link=TO_NODE),),
        ),
        Panel(
            "How ranks ended",
            "finished: by itself; vanished: gone without a word, as after kill -9; exception, signal, failed: what the script told.",
            [Query(f"max by (run, rank, attempt, reason) (rankscope_rank_exit_info{{{R}}})")],
            "table",
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
