"""The host's own figures, from the kernel's files as they are on real machines."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from rankscope.agent.component import discover
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers.cpu import Cpu
from rankscope.agent.samplers.disk import Disk
from rankscope.agent.samplers.infiniband import Infiniband
from rankscope.agent.samplers.kernel import Kernel
from rankscope.agent.samplers.memory import Memory
from rankscope.agent.samplers.network import Network
from rankscope.agent.samplers.pressure import Pressure
from tests.agent.samplers.conftest import Root, declared, values
from tests.waiting import wait_for

STAT = """cpu  4705 356 584 3699176 23060 10 277 43 900 0
cpu0 2350 170 290 1849588 11530 5 138 21 450 0
cpu1 2355 186 294 1849588 11530 5 139 22 450 0
btime 1790000000
procs_blocked 3
"""


def test_cpu_time_by_mode_with_steal(node: Node, root: Root) -> None:
    root.write({"proc/stat": STAT, "proc/loadavg": "2.75 1.10 0.90 3/812 4711"})
    found = values(Cpu(root=str(root)).sample(node))
    assert found["system_cpu_seconds_total", "user"] == 47.05
    assert found["system_cpu_seconds_total", "steal"] == 0.43
    assert found["system_cpus",] == 2
    assert found["system_load1",] == 2.75
    assert found["system_processes_blocked",] == 3


def test_time_that_the_kernel_takes_back_is_none(node: Node, root: Root) -> None:
    """Prometheus takes a fall for a new beginning: the rate would be all that ever was."""
    sampler = Cpu(root=str(root))
    for iowait, expected in ((23060, 230.60), (23055, 230.60), (23061, 230.61), (17, 0.17)):
        root.write({"proc/stat": STAT.replace("23060", str(iowait))})
        assert values(sampler.sample(node))["system_cpu_seconds_total", "iowait"] == expected


def test_cpu_slow_downs_count_each_package_once(node: Node, root: Root) -> None:
    for cpu, package, core_count, package_count in ((0, 0, 5, 100), (1, 0, 2, 100), (2, 1, 1, 7)):
        base = f"sys/devices/system/cpu/cpu{cpu}"
        root.write(
            {
                f"{base}/thermal_throttle/core_throttle_count": f"{core_count}\n",
                f"{base}/thermal_throttle/package_throttle_count": f"{package_count}\n",
                f"{base}/topology/physical_package_id": f"{package}\n",
            }
        )
    found = values(Cpu(root=str(root)).sample(node))
    assert found == {("system_cpu_throttles_total", "core"): 8, ("system_cpu_throttles_total", "package"): 107}


def test_memory_swap_shm_numa_and_oom_kills(node: Node, root: Root) -> None:
    root.write(
        {
            "proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 400 kB\nSwapTotal: 50 kB\nSwapFree: 30 kB\n",
            "proc/vmstat": "oom_kill 4\n",
            "dev/shm/.keep": "",
            "sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 500 kB\nNode 0 MemFree:  120 kB\n",
            "sys/devices/system/node/node0/numastat": "numa_hit 900\nnuma_miss 17\n",
        }
    )
    found = values(Memory(root=str(root)).sample(node))
    assert found["system_memory_size_bytes",] == 1000 * 1024
    assert found["system_memory_available_bytes",] == 400 * 1024
    assert found["system_swap_used_bytes",] == 20 * 1024
    assert found["system_oom_kills_total",] == 4
    assert found["system_numa_memory_free_bytes", "0"] == 120 * 1024
    assert found["system_numa_misses_total", "0"] == 17
    assert found["system_shm_size_bytes",] > 0


def test_an_old_kernel_costs_the_values_that_it_does_not_have(node: Node, root: Root) -> None:
    root.write({"proc/meminfo": "MemTotal: 1000 kB\nMemFree: 400 kB\n", "proc/vmstat": "pgfault 4\n"})
    assert values(Memory(root=str(root)).sample(node)) == {("system_memory_size_bytes",): 1024000.0}


def test_traffic_of_real_interfaces_only(node: Node, root: Root) -> None:
    line = "{}: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0\n"
    pods = (
        "cali123",
        "eni4f21a0b3c9d",
        "gke0123456789a",
        "azv0a1b2c3d4e5",
        "3b6e0a7c5d5c4f2",
        "cilium_host",
        "vxlan.calico",
    )
    names = (
        "lo",
        "eth0",
        "docker0",
        "veth12ab",
        "ib0",
        "br-0a1b",
        "bond0",
        "eth0.100",
        "vlan7",
        "wg0",
        "enp3s0f0",
        "eno1",
        *pods,
    )
    root.write(
        {
            "proc/net/dev": "Inter-| Receive\n face |bytes\n" + "".join(line.format(name) for name in names),
            "proc/net/snmp": "Tcp: RtoAlgorithm RetransSegs InErrs\nTcp: 1 55 0\n",
            "sys/class/net/eth0/speed": "100000\n",
            "sys/class/net/ib0/speed": "-1\n",
        }
    )
    found = values(Network(root=str(root)).sample(node))
    assert {key[1] for key in found if key[0] == "system_network_bytes_total"} == {"eth0", "ib0", "enp3s0f0", "eno1"}
    assert found["system_network_bytes_total", "eth0", "rx"] == 1000
    assert found["system_network_errors_total", "eth0", "tx"] == 7
    assert found["system_network_speed_bytes_per_second", "eth0"] == 12.5e9
    assert ("system_network_speed_bytes_per_second", "ib0") not in found
    assert found["system_tcp_retransmits_total",] == 55


DISKSTATS = """ 259 0 nvme0n1 100 5 2048 300 50 2 4096 900 1 700 1200 0 0 0 0 0 0
 259 1 nvme0n1p1 100 5 2048 300 50 2 4096 900 0 700 1200 0 0 0 0 0 0
   7 0 loop0 9 0 18 1 0 0 0 0 0 4 1 0 0 0 0 0 0
 253 0 dm-0 9 0 18 1 0 0 0 0 0 4 1 0 0 0 0 0 0
   9 127 md127 9 0 18 1 0 0 0 0 0 4 1 0 0 0 0 0 0
 252 0 bcache0 9 0 18 1 0 0 0 0 0 4 1 0 0 0 0 0 0
 230 0 zd0 9 0 18 1 0 0 0 0 0 4 1 0 0 0 0 0 0
"""


def test_disks_count_bytes_operations_and_how_long_they_take(node: Node, root: Root) -> None:
    """What lies on other disks (LVM, RAID, caches, ZFS volumes) is counted with those."""
    root.write({"proc/diskstats": DISKSTATS})
    for name in ("nvme0n1", "loop0", "dm-0", "md127", "bcache0", "zd0"):
        root.write({f"sys/block/{name}/x": ""})
    assert values(Disk(root=str(root)).sample(node)) == {
        ("system_disk_bytes_total", "nvme0n1", "read"): 2048 * 512,
        ("system_disk_bytes_total", "nvme0n1", "write"): 4096 * 512,
        ("system_disk_operations_total", "nvme0n1", "read"): 100,
        ("system_disk_operations_total", "nvme0n1", "write"): 50,
        ("system_disk_operation_seconds_total", "nvme0n1", "read"): 0.3,
        ("system_disk_operation_seconds_total", "nvme0n1", "write"): 0.9,
        ("system_disk_busy_seconds_total", "nvme0n1"): 0.7,
    }


def test_how_long_operations_take_goes_on_where_the_kernel_begins_anew(node: Node, root: Root) -> None:
    """It counts milliseconds in 32 bits: with a hundred operations at a time, for half a day."""
    root.write({"sys/block/sda/x": ""})
    sampler, found = Disk(root=str(root)), list[float | None]()
    for operations, waited in ((100, 4294967000), (200, 704), (300, 1704), (5, 10)):
        root.write({"proc/diskstats": f"8 0 sda {operations} 0 0 {waited} 0 0 0 0 0 0 0\n"})
        found.append(values(sampler.sample(node)).get(("system_disk_operation_seconds_total", "sda", "read")))
    assert found == [4294967.0, 4294968.0, 4294969.0, 0.01], "the last one is another disk"
    root.write({"proc/diskstats": ""})
    assert not [key for key in values(sampler.sample(node)) if "disk" in key[0]], "a disk that is gone is absent"


MOUNTS = """/dev/nvme0n1p1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
/dev/nvme0n1p1 /var/lib/docker/overlay ext4 rw 0 0
/dev/nvme1n1 /data xfs ro,noatime 0 0
/dev/nvme1n1 /data/again xfs ro,noatime 0 0
nas:/export /home nfs4 rw 0 0
"""


def test_local_file_systems_are_seen_once_and_network_ones_when_named(node: Node, root: Root) -> None:
    """Asking a network file system whose server is gone blocks for ever."""
    root.write({"proc/self/mounts": MOUNTS, "data/x": "", "home/x": ""})
    found = values(Disk(root=str(root)).sample(node))
    assert {key[1] for key in found if key[0] == "system_filesystem_size_bytes"} == {"/", "/data"}
    assert found["system_filesystem_readonly", "/data"] == 1
    assert found["system_filesystem_readonly", "/"] == 0
    found = values(Disk(root=str(root), mountpoints=("/home",)).sample(node))
    assert {key[1] for key in found if key[0] == "system_filesystem_size_bytes"} == {"/home"}


def test_a_file_system_that_must_not_be_asked_costs_no_other(node: Node, root: Root) -> None:
    """As one below a folder that the agent may not enter."""
    root.write({"proc/self/mounts": f"/dev/sdb /closed/scratch ext4 rw 0 0\n{MOUNTS}", "data/x": ""})
    found = values(Disk(root=str(root)).sample(node))
    for name in ("size_bytes", "avail_bytes"):
        assert {key[1] for key in found if key[0] == f"system_filesystem_{name}"} == {"/", "/data"}


@pytest.fixture
def hung(root: Root) -> Iterator[Callable[[], None]]:
    """Mount a file system on /hung whose server never answers; what is yielded ends the waiting for it."""
    folder, libc = root.path / "hung", ctypes.CDLL(None, use_errno=True)
    folder.mkdir(parents=True)
    if os.geteuid() != 0 or not os.access("/dev/fuse", os.W_OK):
        pytest.skip("only root may mount, and only where the kernel has FUSE")
    with open("/dev/fuse", "r+b", buffering=0) as server:
        options = f"fd={server.fileno()},rootmode=40000,user_id=0,group_id=0"
        if libc.mount(b"hung", bytes(folder), b"fuse", 0, options.encode()):
            pytest.skip(f"nothing can be mounted here: {os.strerror(ctypes.get_errno())}")
        yield server.close
    libc.umount2(bytes(folder), 2)


def hanging() -> int:
    return sum(thread.name == "file systems" for thread in threading.enumerate())


def test_a_file_system_that_never_answers_holds_up_nobody(node: Node, root: Root, hung: Callable[[], None]) -> None:
    """As NFS whose server is gone: the others are seen, one thread hangs and no more, and it ends with the trouble."""
    root.write({"proc/self/mounts": MOUNTS + "nas:/export /hung nfs4 rw 0 0\n", "home/x": ""})
    sampler = Disk(root=str(root), mountpoints=("/", "/hung", "/home"))
    sampler._spaces.patience = 0.2
    for _ in range(3):
        found = values(sampler.sample(node))
        assert {key[1] for key in found if key[0] == "system_filesystem_avail_bytes"} == {"/", "/home"}
        assert found["system_filesystem_readonly", "/hung"] == 0
        assert hanging() == 1
    hung()
    wait_for(lambda: not hanging())


IN_CONTAINER = """overlay / overlay rw,relatime 0 0
/dev/sda1 /usr/bin/nvidia-smi ext4 ro,nosuid,nodev 0 0
/dev/sda1 /host ext4 ro,relatime 0 0
/dev/sda1 /var/lib/runs\\040of\\011mine ext4 rw,relatime 0 0
broken
"""


def test_in_a_container_the_drivers_files_are_no_file_systems(node: Node, root: Root) -> None:
    """They are the host's disk, file by file: the folder that can be written stands for it."""
    root.write(
        {"proc/self/mounts": IN_CONTAINER, "usr/bin/nvidia-smi": "", "host/x": "", "var/lib/runs of\tmine/x": ""}
    )
    found = values(Disk(root=str(root)).sample(node))
    readonly = {key[1]: value for key, value in found.items() if key[0] == "system_filesystem_readonly"}
    assert readonly == {"/": 0, "/var/lib/runs of\tmine": 0}
    assert ("system_filesystem_avail_bytes", "/var/lib/runs of\tmine") in found


def test_what_zfs_caches_is_available(node: Node, root: Root) -> None:
    """The kernel counts it as used, and gets it when it asks."""
    arc = "13 1 0x01 123 33456 1 2\nname type data\nsize 4 614400\nc_min 4 102400\nc_max 4 900000\n"
    root.write({"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 40 kB\n", "proc/spl/kstat/zfs/arcstats": arc})
    assert values(Memory(root=str(root)).sample(node))["system_memory_available_bytes",] == 540 * 1024


def test_pressure_is_a_counter_of_seconds(node: Node, root: Root) -> None:
    root.write(
        {"proc/pressure/memory": "some avg10=0.00 avg60=0.61 avg300=0.43 total=11964877\nfull avg10=0 total=500000\n"}
    )
    assert values(Pressure(root=str(root)).sample(node)) == {
        ("system_pressure_seconds_total", "memory", "some"): 11.964877,
        ("system_pressure_seconds_total", "memory", "full"): 0.5,
    }


def test_pressure_that_the_kernel_does_not_measure_is_absent(node: Node, root: Root) -> None:
    """With psi=0 the files are not there, or are there and cannot be read, as this one's own memory at 0."""
    root.write({"proc/pressure/x": ""})
    assert values(Pressure(root=str(root)).sample(node)) == {}
    for resource in ("cpu", "memory", "io"):
        (root.path / f"proc/pressure/{resource}").symlink_to("/proc/self/mem")
        assert values(Pressure(root=str(root)).sample(node)) == {}


def test_infiniband_ports_with_the_counters_they_have(node: Node, root: Root) -> None:
    port = "sys/class/infiniband/mlx5_0/ports/1"
    root.write(
        {
            f"{port}/state": "4: ACTIVE\n",
            f"{port}/rate": "400 Gb/sec (4X NDR)\n",
            f"{port}/counters/port_rcv_data": "250\n",
            f"{port}/counters/port_xmit_data": "500\n",
            f"{port}/counters/link_downed": "2\n",
            f"{port}/counters/symbol_error": "9\n",
            f"{port}/hw_counters/packet_seq_err": "3\n",
            f"{port}/hw_counters/out_of_sequence": "4\n",
        }
    )
    root.write({"sys/class/infiniband/mlx5_1/ports/1/state": "1: DOWN\n"})
    found = values(Infiniband(root=str(root)).sample(node))
    assert found["system_infiniband_bytes_total", "mlx5_0", "1", "rx"] == 1000
    assert found["system_infiniband_bytes_total", "mlx5_0", "1", "tx"] == 2000
    assert found["system_infiniband_link_downs_total", "mlx5_0", "1"] == 2
    assert found["system_infiniband_port_up", "mlx5_0", "1"] == 1
    assert found["system_infiniband_port_up", "mlx5_1", "1"] == 0
    assert found["system_infiniband_errors_total", "mlx5_0", "1", "sequence"] == 7
    assert found["system_infiniband_errors_total", "mlx5_0", "1", "symbol"] == 9
    assert found["system_infiniband_speed_bytes_per_second", "mlx5_0", "1"] == 50e9


def test_a_port_that_lacks_a_counter_costs_no_other(node: Node, root: Root) -> None:
    """Amazon's adapters have other counters than Mellanox'."""
    ports = "sys/class/infiniband"
    root.write(
        {
            f"{ports}/bad_0/ports/1/state": "1: DOWN\n",
            f"{ports}/efa_0/ports/1/state": "4: ACTIVE\n",
            f"{ports}/efa_0/ports/1/hw_counters/rx_bytes": "700\n",
            f"{ports}/efa_0/ports/1/hw_counters/tx_bytes": "900\n",
            f"{ports}/mlx5_0/ports/1/rate": "400 Gb/sec (4X NDR)\n",
            f"{ports}/mlx5_0/ports/1/counters/port_rcv_data": "250\n",
            f"{ports}/mlx5_0/ports/1/counters/link_downed": "2\n",
        }
    )
    found = values(Infiniband(root=str(root)).sample(node))
    assert found["system_infiniband_bytes_total", "efa_0", "1", "rx"] == 700
    assert found["system_infiniband_bytes_total", "efa_0", "1", "tx"] == 900
    assert found["system_infiniband_bytes_total", "mlx5_0", "1", "rx"] == 1000
    assert found["system_infiniband_link_downs_total", "mlx5_0", "1"] == 2
    assert found["system_infiniband_speed_bytes_per_second", "mlx5_0", "1"] == 50e9


def test_facts_of_the_host(node: Node, root: Root) -> None:
    root.write(
        {
            "proc/stat": STAT,
            "proc/cpuinfo": "processor : 0\nmodel name\t: AMD EPYC 9654\n",
            "proc/sys/kernel/osrelease": "6.8.0-45-generic\n",
            "proc/sys/fs/file-nr": "1024 0 9223372036854775807\n",
            "proc/sys/fs/file-max": "9223372036854775807\n",
            "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04 LTS"\n',
            "sys/class/dmi/id/sys_vendor": "Amazon EC2\n",
            "sys/class/dmi/id/product_name": "p5.48xlarge\n",
        }
    )
    samples = list(Kernel(root=str(root)).sample(node))
    info = next(sample for sample in samples if sample.metric.name == "system_info")
    assert info.labels == ("6.8.0-45-generic", "Ubuntu 24.04 LTS", "AMD EPYC 9654", "p5.48xlarge")
    found = values(samples)
    assert found["system_boot_time_seconds",] == 1790000000
    assert found["system_open_files",] == 1024
    assert ("system_open_files_limit",) not in found, "the kernel's way to say that there is none"
    assert found["system_clock_synchronized",] in (0, 1)


def test_every_sampler_reads_this_very_machine(node: Node) -> None:
    """Nothing is declared that is not named as the catalogue wants it, and nothing undeclared is given."""
    for name, sampler in discover("rankscope.agent.samplers").items():
        if name == "gpu":
            continue
        made = sampler()
        samples = list(made.sample(node))
        assert declared(made.metrics, samples), name
        made.close()


def test_metrics_are_named_by_the_rules_of_prometheus() -> None:
    """Counters end in _total and nothing else does; no label is one that Kubernetes sets by itself."""
    taken = {"node", "instance", "job", "pod", "namespace", "container", "service", "endpoint", "hostname"}
    seen: set[str] = set()
    for sampler in discover("rankscope.agent.samplers").values():
        for metric in sampler.metrics:  # type: ignore[attr-defined]
            assert metric.name not in seen, f"{metric.name} is given twice"
            seen.add(metric.name)
            assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
            assert metric.name.endswith("_info") == (metric.kind == "info"), metric.name
            assert not taken & set(metric.labels), metric.name
            assert len(metric.labels) <= 9, metric.name
            assert metric.help.endswith("."), metric.name
            assert metric.source, metric.name
