"""Network traffic, errors and retransmissions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._rows import Labelled, Row, Values, collect, metrics

# What carries other interfaces' traffic a second time, or none that leaves the node.
_VIRTUAL = re.compile(
    r"(lo|veth|docker|br-|virbr|cni|cali|cilium|flannel|lxc|tap|tun|dummy|ifb|nerdctl|podman|kube|nodelocal|vnet|vmnet"
    r"|vlan|macv|ipvl|wg\d|.+\.\d+$|vxlan|genev|ovs-|ovn-|antrea|weave|sit\d|ip6tnl|gre\d|gretap|erspan|bond|team"
    r"|(eni|gke|azv|lxd)?[0-9a-f]{8,15}$)"  # a pod's, on EKS, GKE, AKS, OpenShift
)


def _interfaces(files: Files) -> Iterator[tuple[str, list[int]]]:
    """Yield name and the 16 counters of each interface (proc_net_dev: 8 received, 8 sent)."""
    for line in files.text("proc/net/dev").splitlines()[2:]:
        name, _, rest = line.partition(":")
        counters = rest.split()
        if len(counters) >= 16 and not _VIRTUAL.match(name.strip()):
            yield name.strip(), [int(counter) for counter in counters[:16]]


def _bytes(files: Files) -> Labelled:
    for name, counters in _interfaces(files):
        yield (name, "rx"), counters[0]
        yield (name, "tx"), counters[8]


def _errors(files: Files) -> Labelled:
    for name, counters in _interfaces(files):
        yield (name, "rx"), counters[2] + counters[3]
        yield (name, "tx"), counters[10] + counters[11]


def _speed(files: Files) -> Labelled:
    """Give the speed of the links that are up: the kernel says -1 or fails for the rest."""
    for name, _ in _interfaces(files):
        try:
            megabits = files.number(f"sys/class/net/{name}/speed")
        except (OSError, ValueError):
            continue
        if megabits > 0:
            yield (name,), megabits * 125_000.0


def _retransmits(files: Files) -> Values:
    lines = [line.split() for line in files.text("proc/net/snmp").splitlines() if line.startswith("Tcp:")]
    return int(lines[1][lines[0].index("RetransSegs")])


ROWS: tuple[Row[Files], ...] = (
    Row(
        Metric(
            "system_network_bytes_total",
            "counter",
            "NIC bytes; direction=rx|tx.",
            ("device", "direction"),
            "bytes",
            "/proc/net/dev",
        ),
        _bytes,
    ),
    Row(
        Metric(
            "system_network_errors_total",
            "counter",
            "NIC errors and drops; direction=rx|tx.",
            ("device", "direction"),
            "count",
            "/proc/net/dev",
        ),
        _errors,
    ),
    Row(
        Metric(
            "system_network_speed_bytes_per_second",
            "gauge",
            "Speed of the link, one direction.",
            ("device",),
            "bytes per second",
            "/sys/class/net/*/speed",
        ),
        _speed,
    ),
    Row(
        Metric(
            "system_tcp_retransmits_total",
            "counter",
            "TCP segments that were sent again.",
            unit="count",
            source="/proc/net/snmp RetransSegs",
        ),
        _retransmits,
    ),
)


@dataclass
class Network:
    """Bytes, errors and speed of network interfaces, without the virtual ones, and TCP retransmissions."""

    interval: Seconds = 5.0
    root: str = "/"

    metrics: ClassVar[tuple[Metric, ...]] = metrics(ROWS)

    def sample(self, node: Node) -> Iterable[Sample]:
        return collect(ROWS, Files(self.root))

    def close(self) -> None:
        """Nothing is held."""
