"""Everything of one node: its GPUs, and what feeds them."""

from __future__ import annotations

from boards.board import HOSTNAME, JOB, Board
from boards.panel import Column, Panel, Query, Row
from boards.selectors import BAD, GOOD, WARN
from boards.selectors import NODE as N

GPU = "{{hostname}} GPU {{gpu}}"
NO_GPU = "This node has no GPU that is sampled"
NOT_HERE = "Not told by this GPU or driver"


def gpus(metric: str, more: str = "") -> str:
    return f"{metric}{{{N}{more}}}"


def rate(metric: str, more: str = "") -> str:
    return f"rate({metric}{{{N}{more}}}[$__rate_interval])"


GLANCE = Row(
    "At a glance",
    [
        Panel(
            "GPUs",
            "What the node holds, and which ranks are on it.",
            [
                Query(f"max by (hostname, gpu, uuid, name, simulated) (rankscope_gpu_info{{{N}}})"),
                Query(f"max by (hostname, gpu, uuid) ({gpus('rankscope_gpu_utilization_ratio')})", name="busy"),
                Query(f"max by (hostname, gpu, uuid) ({gpus('rankscope_gpu_memory_used_bytes')})", name="memory used"),
                Query(f"max by (hostname, gpu, uuid) ({gpus('rankscope_gpu_power_watts')})", name="power"),
                Query(
                    f'max by (hostname, gpu, uuid) (rankscope_gpu_temperature_celsius{{{N},sensor="gpu"}})',
                    name="temperature",
                ),
            ],
            "table",
            width=16,
            height=6,
            empty=NO_GPU,
            hidden=("uuid",),
            columns=(
                Column("busy", "percentunit"),
                Column("memory used", "bytes"),
                Column("power", "watt"),
                Column("temperature", "celsius", steps=((None, GOOD), (80, WARN), (90, BAD))),
            ),
        ),
        Panel(
            "Load",
            "Processes that want a processor, for each processor: above 1, some wait.",
            [Query(f"rankscope_system_load1{{{N}}} / on (job, hostname) rankscope_system_cpus{{{N}}}", "{{hostname}}")],
            "stat",
            "percentunit",
            width=4,
            height=6,
            steps=((None, GOOD), (1, WARN), (2, BAD)),
        ),
        Panel(
            "Memory free",
            "Memory that can be had without swapping.",
            [
                Query(
                    f"rankscope_system_memory_available_bytes{{{N}}} / on (job, hostname) rankscope_system_memory_size_bytes{{{N}}}",
                    "{{hostname}}",
                )
            ],
            "stat",
            "percentunit",
            width=4,
            height=6,
            steps=((None, BAD), (0.05, WARN), (0.15, GOOD)),
        ),
    ],
)

WORK = Row(
    "GPUs at work",
    [
        Panel(
            "Busy",
            "Share of time with a kernel on the GPU. It does not tell how much of the GPU the kernel used.",
            [Query(gpus("rankscope_gpu_utilization_ratio"), GPU)],
            unit="percentunit",
            minimum=0,
            maximum=1,
            empty=NO_GPU,
        ),
        Panel(
            "Multiprocessors active",
            "Share of the multiprocessors with work.",
            [Query(gpus("rankscope_gpu_sm_active_ratio"), GPU)],
            unit="percentunit",
            minimum=0,
            maximum=1,
            empty="Needs Hopper or newer",
        ),
        Panel(
            "Tensor cores active",
            "Share of time in which tensor cores computed.",
            [Query(gpus("rankscope_gpu_tensor_active_ratio"), GPU)],
            unit="percentunit",
            minimum=0,
            maximum=1,
            empty="Needs Hopper or newer",
        ),
        Panel(
            "What the GPUs do",
            "Mean share of each state: working, starved (waits for data), communicating, throttled, idle, dead.",
            [
                Query(
                    f"sum by (hostname, state) ({rate('rankscope_gpu_state_seconds_total')})", "{{hostname}} {{state}}"
                )
            ],
            minimum=0,
            stacked=True,
            empty=NO_GPU,
        ),
        Panel(
            "Memory used",
            "Framebuffer memory in use.",
            [Query(gpus("rankscope_gpu_memory_used_bytes"), GPU)],
            unit="bytes",
            minimum=0,
            empty=NO_GPU,
        ),
        Panel(
            "Memory of processes",
            "Memory by process of a rank; without a run: something else.",
            [
                Query(
                    f"max by (hostname, gpu, run, rank) ({gpus('rankscope_gpu_process_memory_bytes')})",
                    "{{hostname}} GPU {{gpu}} {{run}} rank {{rank}}",
                )
            ],
            unit="bytes",
            minimum=0,
            empty="No process is on a GPU",
        ),
    ],
)

HEALTH = Row(
    "Health of the GPUs",
    [
        Panel(
            "Temperature",
            "Chip and memory.",
            [Query(gpus("rankscope_gpu_temperature_celsius"), f"{GPU} {{{{sensor}}}}")],
            unit="celsius",
            steps=((None, "text"), (90, BAD)),
            empty=NO_GPU,
        ),
        Panel(
            "Power",
            "Board power; the limit is dashed.",
            [
                Query(gpus("rankscope_gpu_power_watts"), GPU),
                Query(gpus("rankscope_gpu_power_limit_watts"), f"{GPU} limit"),
            ],
            unit="watt",
            minimum=0,
            dashed=".* limit",
            empty=NO_GPU,
        ),
        Panel(
            "Clock",
            "Clock of the multiprocessors over its maximum.",
            [
                Query(
                    f'rankscope_gpu_clock_hertz{{{N},domain="sm"}} / on (job, hostname, uuid) rankscope_gpu_clock_max_hertz{{{N},domain="sm"}}',
                    "{{hostname}} {{uuid}}",
                )
            ],
            unit="percentunit",
            minimum=0,
            maximum=1,
            empty=NO_GPU,
        ),
        Panel(
            "Throttling",
            "Reasons for lower clocks that were seen in this time.",
            [
                Query(
                    f"max by (hostname, gpu, reason) (rankscope_gpu_throttle_active{{{N}}} and on (job, hostname, uuid, reason) max_over_time(rankscope_gpu_throttle_active{{{N}}}[$__range]) > 0)",
                    f"{GPU} {{{{reason}}}}",
                )
            ],
            "timeline",
            "none",
            steps=((None, GOOD), (1, BAD)),
            words=((0, "no", GOOD), (1, "throttled", BAD)),
            empty="No throttling in this time",
        ),
        Panel(
            "Errors of memory and bus",
            "ECC errors, remapped rows and PCIe replays in this time.",
            [
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
            ],
            "bars",
            minimum=0,
            steps=((None, GOOD), (1, WARN), (100, BAD)),
            empty=NO_GPU,
        ),
        Panel(
            "Xid errors",
            "Errors that the driver told, by code, since the agent started.",
            [Query(f"max by (hostname, gpu, xid) (rankscope_gpu_xid_errors_total{{{N}}}) > 0", name="count")],
            "table",
            empty="No Xid error",
            columns=(Column("count", steps=((None, BAD),)),),
        ),
        Panel(
            "PCIe",
            "Traffic over PCIe.",
            [Query(rate("rankscope_gpu_pcie_bytes_total"), f"{GPU} {{{{direction}}}}")],
            unit="Bps",
            minimum=0,
            empty=NOT_HERE,
        ),
        Panel(
            "NVLink",
            "Traffic over all links of a GPU.",
            [Query(rate("rankscope_gpu_nvlink_bytes_total"), f"{GPU} {{{{direction}}}}")],
            unit="Bps",
            minimum=0,
            empty=NOT_HERE,
        ),
        Panel(
            "NVLink errors",
            "Errors on all links of a GPU.",
            [Query(f"increase(rankscope_gpu_nvlink_errors_total{{{N}}}[$__rate_interval])", f"{GPU} {{{{type}}}}")],
            minimum=0,
            empty=NOT_HERE,
        ),
    ],
)

HOST = Row(
    "The machine",
    [
        Panel(
            "CPU",
            "Processors by what they do, without idle.",
            [
                Query(
                    f'sum by (hostname, mode) (rate(rankscope_system_cpu_seconds_total{{{N},mode!="idle"}}[$__rate_interval]))',
                    "{{hostname}} {{mode}}",
                )
            ],
            minimum=0,
            stacked=True,
        ),
        Panel(
            "Memory",
            "Memory in use, swap and shared memory.",
            [
                Query(
                    f"rankscope_system_memory_size_bytes{{{N}}} - on (job, hostname) rankscope_system_memory_available_bytes{{{N}}}",
                    "{{hostname}} in use",
                ),
                Query(f"rankscope_system_swap_used_bytes{{{N}}}", "{{hostname}} swap"),
                Query(f"rankscope_system_shm_used_bytes{{{N}}}", "{{hostname}} shared"),
            ],
            unit="bytes",
            minimum=0,
        ),
        Panel(
            "Pressure",
            "Share of time in which some process waited for CPU, memory or disk.",
            [
                Query(
                    f'rate(rankscope_system_pressure_seconds_total{{{N},kind="some"}}[$__rate_interval])',
                    "{{hostname}} {{resource}}",
                )
            ],
            unit="percentunit",
            minimum=0,
            empty="The kernel tells no pressure (PSI)",
        ),
        Panel(
            "Disk",
            "Bytes read and written.",
            [Query(rate("rankscope_system_disk_bytes_total"), "{{hostname}} {{device}} {{direction}}")],
            unit="Bps",
            minimum=0,
            empty="No disk of its own",
        ),
        Panel(
            "Disk busy",
            "Share of time with requests in flight.",
            [Query(rate("rankscope_system_disk_busy_seconds_total"), "{{hostname}} {{device}}")],
            unit="percentunit",
            minimum=0,
            maximum=1,
            empty="No disk of its own",
        ),
        Panel(
            "Disk space free",
            "Share of each file system that is free.",
            [
                Query(
                    f"rankscope_system_filesystem_avail_bytes{{{N}}} / on (job, hostname, mountpoint) rankscope_system_filesystem_size_bytes{{{N}}}",
                    "{{hostname}} {{mountpoint}}",
                )
            ],
            "bars",
            "percentunit",
            minimum=0,
            maximum=1,
            steps=((None, BAD), (0.05, WARN), (0.15, GOOD)),
        ),
        Panel(
            "Network",
            "Bytes in and out.",
            [Query(rate("rankscope_system_network_bytes_total"), "{{hostname}} {{device}} {{direction}}")],
            unit="Bps",
            minimum=0,
            empty="No network device",
        ),
        Panel(
            "InfiniBand",
            "Bytes in and out of RDMA ports.",
            [Query(rate("rankscope_system_infiniband_bytes_total"), "{{hostname}} {{device}}:{{port}} {{direction}}")],
            unit="Bps",
            minimum=0,
            empty="No InfiniBand port",
        ),
        Panel(
            "Killed for lack of memory",
            "Processes that the kernel killed.",
            [Query(f"increase(rankscope_system_oom_kills_total{{{N}}}[$__rate_interval])", "{{hostname}}")],
            minimum=0,
            bars=True,
        ),
    ],
)

OTHERS = Row(
    "From node_exporter and dcgm-exporter",
    [
        Panel(
            "Context switches",
            "From node_exporter, where it runs beside the agent.",
            [
                Query(
                    f'label_replace(rate(node_context_switches_total[$__rate_interval]) * on (instance, job) group_left (nodename) node_uname_info, "hostname", "$1", "nodename", "(.+)") and on (hostname) rankscope_system_info{{{N}}}',
                    "{{hostname}}",
                )
            ],
            width=12,
            minimum=0,
            empty="node_exporter is not scraped",
        ),
        Panel(
            "Tensor pipe by rank",
            "From dcgm-exporter, where it runs: with the rank that is on the GPU.",
            [
                Query(
                    f'rankscope_rank_info{{{N},uuid!=""}} * on (uuid) group_left () max by (uuid) (label_replace(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE, "uuid", "$1", "UUID", "(.+)"))',
                    "{{run}} rank {{rank}}",
                )
            ],
            unit="percentunit",
            width=12,
            minimum=0,
            maximum=1,
            empty="dcgm-exporter is not scraped",
        ),
    ],
)

BOARD = Board(
    "rankscope-node",
    "Everything of one node: its GPUs, their health, and what feeds them.",
    [JOB, HOSTNAME],
    [GLANCE, WORK, HEALTH, HOST, OTHERS],
)
