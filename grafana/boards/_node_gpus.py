"""What a node's GPUs do, and whether they are well."""

from __future__ import annotations

from boards.panel import Column, Query, Row
from boards.queries import on_nodes, rate_on_nodes
from boards.selectors import BAD, GOOD, WARN
from boards.selectors import NODE as N
from boards.shapes import amounts, bars, lines, shares, states, table

GPU = "{{hostname}} GPU {{gpu}}"
NO_GPU = "This node has no GPU that is sampled"
NOT_HERE = "Not told by this GPU or driver"

WORK = Row(
    "GPUs at work",
    [
        shares(
            "Busy",
            "Share of time with a kernel on the GPU. It does not tell how much of the GPU the kernel used.",
            Query(on_nodes("rankscope_gpu_utilization_ratio"), GPU),
            empty=NO_GPU,
        ),
        shares(
            "Multiprocessors active",
            "Share of the multiprocessors with work.",
            Query(on_nodes("rankscope_gpu_sm_active_ratio"), GPU),
            empty="Needs Hopper or newer",
        ),
        shares(
            "Tensor cores active",
            "Share of time in which tensor cores computed.",
            Query(on_nodes("rankscope_gpu_tensor_active_ratio"), GPU),
            empty="Needs Hopper or newer",
        ),
        amounts(
            "What the GPUs do",
            "Mean share of each state: working, starved (waits for data), communicating, throttled, idle, dead.",
            Query(
                f"sum by (hostname, state) ({rate_on_nodes('rankscope_gpu_state_seconds_total')})",
                "{{hostname}} {{state}}",
            ),
            stacked=True,
            empty=NO_GPU,
        ),
        amounts(
            "Memory used",
            "Framebuffer memory in use.",
            Query(on_nodes("rankscope_gpu_memory_used_bytes"), GPU),
            unit="bytes",
            empty=NO_GPU,
        ),
        amounts(
            "Memory of processes",
            "Memory by process of a rank; without a run: something else.",
            Query(
                f"max by (hostname, gpu, run, rank) ({on_nodes('rankscope_gpu_process_memory_bytes')})",
                "{{hostname}} GPU {{gpu}} {{run}} rank {{rank}}",
            ),
            unit="bytes",
            empty="No process is on a GPU",
        ),
    ],
)

HEALTH = Row(
    "Health of the GPUs",
    [
        lines(
            "Temperature",
            "Chip and memory.",
            Query(on_nodes("rankscope_gpu_temperature_celsius"), f"{GPU} {{{{sensor}}}}"),
            unit="celsius",
            steps=((None, "text"), (90, BAD)),
            empty=NO_GPU,
        ),
        amounts(
            "Power",
            "Board power; the limit is dashed.",
            Query(on_nodes("rankscope_gpu_power_watts"), GPU),
            Query(on_nodes("rankscope_gpu_power_limit_watts"), f"{GPU} limit"),
            unit="watt",
            dashed=".* limit",
            empty=NO_GPU,
        ),
        shares(
            "Clock",
            "Clock of the multiprocessors over its maximum.",
            Query(
                f'rankscope_gpu_clock_hertz{{{N},domain="sm"}} / on (job, hostname, uuid) rankscope_gpu_clock_max_hertz{{{N},domain="sm"}}',
                "{{hostname}} {{uuid}}",
            ),
            empty=NO_GPU,
        ),
        states(
            "Throttling",
            "Reasons for lower clocks that were seen in this time.",
            Query(
                f"max by (hostname, gpu, reason) (rankscope_gpu_throttle_active{{{N}}} and on (job, hostname, uuid, reason) max_over_time(rankscope_gpu_throttle_active{{{N}}}[$__range]) > 0)",
                f"{GPU} {{{{reason}}}}",
            ),
            ("no", GOOD),
            ("throttled", BAD),
            unit="none",
            empty="No throttling in this time",
        ),
        bars(
            "Errors of memory and bus",
            "ECC errors, remapped rows and PCIe replays in this time.",
            Query(
                f"sum by (hostname, gpu, severity) (increase(rankscope_gpu_ecc_errors_total{{{N}}}[$__range]))",
                f"{GPU} ECC {{{{severity}}}}",
            ),
            Query(
                f"sum by (hostname, gpu) (increase(rankscope_gpu_pcie_replays_total{{{N}}}[$__range]))",
                f"{GPU} PCIe replays",
            ),
            Query(
                f"sum by (hostname, gpu, severity) (rankscope_gpu_remapped_rows{{{N}}})",
                f"{GPU} remapped rows {{{{severity}}}}",
            ),
            steps=((None, GOOD), (1, WARN), (100, BAD)),
            empty=NO_GPU,
        ),
        table(
            "Xid errors",
            "Errors that the driver told, by code, since the agent started.",
            Query(f"max by (hostname, gpu, xid) (rankscope_gpu_xid_errors_total{{{N}}}) > 0", name="count"),
            empty="No Xid error",
            columns=(Column("count", steps=((None, BAD),)),),
        ),
        amounts(
            "PCIe",
            "Traffic over PCIe.",
            Query(rate_on_nodes("rankscope_gpu_pcie_bytes_total"), f"{GPU} {{{{direction}}}}"),
            unit="Bps",
            empty=NOT_HERE,
        ),
        amounts(
            "NVLink",
            "Traffic over all links of a GPU.",
            Query(rate_on_nodes("rankscope_gpu_nvlink_bytes_total"), f"{GPU} {{{{direction}}}}"),
            unit="Bps",
            empty=NOT_HERE,
        ),
        amounts(
            "NVLink errors",
            "Errors on all links of a GPU.",
            Query(f"increase(rankscope_gpu_nvlink_errors_total{{{N}}}[$__rate_interval])", f"{GPU} {{{{type}}}}"),
            empty=NOT_HERE,
        ),
    ],
)
