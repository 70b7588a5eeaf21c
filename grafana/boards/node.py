"""Everything of one node: its GPUs, and what feeds them."""

from __future__ import annotations

from boards._node_gpus import HEALTH, NO_GPU, WORK
from boards.board import HOSTNAME, JOB, Board
from boards.panel import Column, Query, Row
from boards.queries import on_nodes, rate_on_nodes
from boards.selectors import BAD, GOOD, WARN
from boards.selectors import NODE as N
from boards.shapes import amounts, bars, figure, shares, table

GLANCE = Row(
    "At a glance",
    [
        table(
            "GPUs",
            "What the node holds, and which ranks are on it.",
            Query(f"max by (hostname, gpu, uuid, name, simulated) (rankscope_gpu_info{{{N}}})"),
            Query(f"max by (hostname, gpu, uuid) ({on_nodes('rankscope_gpu_utilization_ratio')})", name="busy"),
            Query(f"max by (hostname, gpu, uuid) ({on_nodes('rankscope_gpu_memory_used_bytes')})", name="memory used"),
            Query(f"max by (hostname, gpu, uuid) ({on_nodes('rankscope_gpu_power_watts')})", name="power"),
            Query(
                f'max by (hostname, gpu, uuid) (rankscope_gpu_temperature_celsius{{{N},sensor="gpu"}})',
                name="temperature",
            ),
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
        figure(
            "Load",
            "Processes that want a processor, for each processor: above 1, some wait.",
            Query(f"rankscope_system_load1{{{N}}} / on (job, hostname) rankscope_system_cpus{{{N}}}", "{{hostname}}"),
            unit="percentunit",
            width=4,
            height=6,
            steps=((None, GOOD), (1, WARN), (2, BAD)),
        ),
        figure(
            "Memory free",
            "Memory that can be had without swapping.",
            Query(
                f"rankscope_system_memory_available_bytes{{{N}}} / on (job, hostname) rankscope_system_memory_size_bytes{{{N}}}",
                "{{hostname}}",
            ),
            unit="percentunit",
            width=4,
            height=6,
            steps=((None, BAD), (0.05, WARN), (0.15, GOOD)),
        ),
    ],
)

HOST = Row(
    "The machine",
    [
        amounts(
            "CPU",
            "Processors by what they do, without idle.",
            Query(
                f'sum by (hostname, mode) (rate(rankscope_system_cpu_seconds_total{{{N},mode!="idle"}}[$__rate_interval]))',
                "{{hostname}} {{mode}}",
            ),
            stacked=True,
        ),
        amounts(
            "Memory",
            "Memory in use, swap and shared memory.",
            Query(
                f"rankscope_system_memory_size_bytes{{{N}}} - on (job, hostname) rankscope_system_memory_available_bytes{{{N}}}",
                "{{hostname}} in use",
            ),
            Query(f"rankscope_system_swap_used_bytes{{{N}}}", "{{hostname}} swap"),
            Query(f"rankscope_system_shm_used_bytes{{{N}}}", "{{hostname}} shared"),
            unit="bytes",
        ),
        amounts(
            "Pressure",
            "Share of time in which some process waited for CPU, memory or disk.",
            Query(
                f'rate(rankscope_system_pressure_seconds_total{{{N},kind="some"}}[$__rate_interval])',
                "{{hostname}} {{resource}}",
            ),
            unit="percentunit",
            empty="The kernel tells no pressure (PSI)",
        ),
        amounts(
            "Disk",
            "Bytes read and written.",
            Query(rate_on_nodes("rankscope_system_disk_bytes_total"), "{{hostname}} {{device}} {{direction}}"),
            unit="Bps",
            empty="No disk of its own",
        ),
        shares(
            "Disk busy",
            "Share of time with requests in flight.",
            Query(rate_on_nodes("rankscope_system_disk_busy_seconds_total"), "{{hostname}} {{device}}"),
            empty="No disk of its own",
        ),
        bars(
            "Disk space free",
            "Share of each file system that is free.",
            Query(
                f"rankscope_system_filesystem_avail_bytes{{{N}}} / on (job, hostname, mountpoint) rankscope_system_filesystem_size_bytes{{{N}}}",
                "{{hostname}} {{mountpoint}}",
            ),
            unit="percentunit",
            maximum=1,
            steps=((None, BAD), (0.05, WARN), (0.15, GOOD)),
        ),
        amounts(
            "Network",
            "Bytes in and out.",
            Query(rate_on_nodes("rankscope_system_network_bytes_total"), "{{hostname}} {{device}} {{direction}}"),
            unit="Bps",
            empty="No network device",
        ),
        amounts(
            "InfiniBand",
            "Bytes in and out of RDMA ports.",
            Query(
                rate_on_nodes("rankscope_system_infiniband_bytes_total"),
                "{{hostname}} {{device}}:{{port}} {{direction}}",
            ),
            unit="Bps",
            empty="No InfiniBand port",
        ),
        amounts(
            "Killed for lack of memory",
            "Processes that the kernel killed.",
            Query(f"increase(rankscope_system_oom_kills_total{{{N}}}[$__rate_interval])", "{{hostname}}"),
            bars=True,
        ),
    ],
)

OTHERS = Row(
    "From node_exporter and dcgm-exporter",
    [
        amounts(
            "Context switches",
            "From node_exporter, where it runs beside the agent.",
            Query(
                f'label_replace(rate(node_context_switches_total[$__rate_interval]) * on (instance, job) group_left (nodename) node_uname_info, "hostname", "$1", "nodename", "(.+)") and on (hostname) rankscope_system_info{{{N}}}',
                "{{hostname}}",
            ),
            width=12,
            empty="node_exporter is not scraped",
        ),
        shares(
            "Tensor pipe by rank",
            "From dcgm-exporter, where it runs: with the rank that is on the GPU.",
            Query(
                f'rankscope_rank_info{{{N},uuid!=""}} * on (uuid) group_left () max by (uuid) (label_replace(DCGM_FI_PROF_PIPE_TENSOR_ACTIVE, "uuid", "$1", "UUID", "(.+)"))',
                "{{run}} rank {{rank}}",
            ),
            width=12,
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
