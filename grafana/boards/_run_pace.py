"""How fast a run goes, and what it does with its GPUs."""

from __future__ import annotations

from boards.panel import Panel, Query, Row
from boards.queries import of_run
from boards.selectors import JOB as J
from boards.selectors import RUN as R
from boards.selectors import of_ranks
from boards.shapes import amounts, lines, shares

PER_STEP = f"sum by (run) (rate(rankscope_train_steps_total{{{R}}}[$__rate_interval]))"

SPEED = Row(
    "Speed",
    [
        amounts(
            "Steps a second",
            "Pace of the run.",
            Query(f"max by (run) (rate(rankscope_train_steps_total{{{R}}}[$__rate_interval]))", "{{run}}"),
            unit="ops",
            width=6,
        ),
        amounts(
            "Samples and tokens a second",
            "Throughput as the training logs it, all ranks together.",
            Query(
                f'sum by (run, name) (rankscope_train_value{{{R},name=~"samples_per_second|tokens_per_second"}})',
                "{{run}} {{name}}",
            ),
            width=6,
            empty="Neither samples_per_second nor tokens_per_second is logged",
        ),
        amounts(
            "Time of a step by phase",
            "Mean seconds of a rank's step by phase. Time in `data` is time that GPUs wait.",
            Query(
                f"sum by (run, phase) (rate(rankscope_train_step_phase_seconds_total{{{R}}}[$__rate_interval])) / on (run) group_left () {PER_STEP}",
                "{{run}} {{phase}}",
            ),
            unit="s",
            width=12,
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
        amounts(
            "Slow steps",
            "Half of all steps are faster than the lower line, one in twenty is slower than the upper.",
            Query(
                f"histogram_quantile(0.5, sum by (run, le) (rate(rankscope_train_step_duration_seconds_bucket{{{R}}}[$__rate_interval])))",
                "{{run}} median",
            ),
            Query(
                f"histogram_quantile(0.95, sum by (run, le) (rate(rankscope_train_step_duration_seconds_bucket{{{R}}}[$__rate_interval])))",
                "{{run}} 95 %",
            ),
            unit="s",
            width=6,
            empty="No step was finished lately",
        ),
        shares(
            "Model FLOPS used",
            "Share of the peak, as the training reports it (MFU).",
            of_run("avg", "rankscope_train_flops_utilization_ratio"),
            width=6,
            empty="No mfu is logged",
        ),
    ],
)


NO_GPU = "No rank of this run is known to be on a GPU"
RANK_NAME = "{{run}} rank {{rank}}"


def of_gpu(metric: str, more: str = "") -> Query:
    """Return a metric of the GPU that each rank is on."""
    return Query(of_ranks(f"{metric}{{{J}{more}}}"), RANK_NAME)


GPUS = Row(
    "GPUs of this run",
    [
        shares(
            "Busy",
            "Share of time with a kernel on the GPU, by rank.",
            of_gpu("rankscope_gpu_utilization_ratio"),
            width=6,
            empty=NO_GPU,
        ),
        amounts(
            "Memory used",
            "Framebuffer memory in use, by rank.",
            of_gpu("rankscope_gpu_memory_used_bytes"),
            unit="bytes",
            width=6,
            empty=NO_GPU,
        ),
        amounts(
            "Power", "Board power, by rank.", of_gpu("rankscope_gpu_power_watts"), unit="watt", width=6, empty=NO_GPU
        ),
        lines(
            "Temperature",
            "Temperature of the chip, by rank.",
            of_gpu("rankscope_gpu_temperature_celsius", ',sensor="gpu"'),
            unit="celsius",
            width=6,
            empty=NO_GPU,
        ),
        amounts(
            "What the GPUs of the run do",
            "GPUs of this run by what they do.",
            Query(
                f'sum by (run, state) (max by (job, uuid, run) (rankscope_rank_info{{{R},uuid!=""}}) * on (job, uuid) group_right (run) (sum by (job, uuid, state) (rate(rankscope_gpu_state_seconds_total{{{J}}}[$__rate_interval]))))',
                "{{run}} {{state}}",
            ),
            width=12,
            stacked=True,
            empty=NO_GPU,
        ),
        amounts(
            "Memory of the framework",
            "What torch has allocated, and the most that it had.",
            Query(f"rankscope_train_gpu_memory_allocated_bytes{{{R}}}", RANK_NAME),
            Query(f"rankscope_train_gpu_memory_peak_bytes{{{R}}}", f"{RANK_NAME} peak"),
            unit="bytes",
            width=12,
            dashed=".* peak",
            empty="Not reported by this run",
        ),
    ],
)
