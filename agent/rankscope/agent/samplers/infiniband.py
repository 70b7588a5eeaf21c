"""InfiniBand and RoCE ports: traffic, state and errors."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._rows import Labelled, Row, collect, each, metrics

_WORD = 4  # bytes: data counters count 32-bit words (InfiniBand specification, PortCounters)
# By direction, where a port counts its data, and in bytes how much one is: the first that there is. The second is
# Amazon's adapter.
_BYTES = {
    "rx": {"counters/port_rcv_data": _WORD, "hw_counters/rx_bytes": 1},
    "tx": {"counters/port_xmit_data": _WORD, "hw_counters/tx_bytes": 1},
}
# By type, the counters below a port that mean it; those of hw_counters are the vendors' (RoCE).
_ERRORS = {
    "symbol": ("counters/symbol_error",),
    "receive": ("counters/port_rcv_errors",),
    "discard": ("counters/port_xmit_discards",),
    "recovery": ("counters/link_error_recovery",),
    "sequence": ("hw_counters/packet_seq_err", "hw_counters/out_of_sequence"),
    "timeout": ("hw_counters/local_ack_timeout_err",),
    "retry": ("hw_counters/roce_adp_retrans", "hw_counters/rnr_nak_retry_err"),
}


def _ports(files: Files) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield device and port with the port's folder."""
    for folder in files.glob("sys/class/infiniband/*/ports/*"):
        parts = folder.split("/")
        yield (parts[3], parts[5]), folder


def _bytes(files: Files) -> Labelled:
    for direction, counters in _BYTES.items():
        ports = (((*port, direction), folder) for port, folder in _ports(files))
        yield from each(ports, functools.partial(_counted, files, counters))


def _counted(files: Files, counters: dict[str, int], folder: str) -> float | None:
    for counter, unit in counters.items():
        if files.exists(f"{folder}/{counter}"):
            return files.number(f"{folder}/{counter}") * unit
    return None


def _downs(files: Files) -> Labelled:
    return each(_ports(files), lambda folder: files.number(f"{folder}/counters/link_downed"))


def _up(files: Files) -> Labelled:
    return each(_ports(files), lambda folder: "ACTIVE" in files.text(f"{folder}/state"))


def _errors(files: Files) -> Labelled:
    for kind, paths in _ERRORS.items():
        ports = (((*port, kind), folder) for port, folder in _ports(files))
        yield from each(ports, functools.partial(_errors_of, files, paths))


def _errors_of(files: Files, paths: tuple[str, ...], folder: str) -> float | None:
    there = [path for path in paths if files.exists(f"{folder}/{path}")]
    return sum(files.number(f"{folder}/{path}") for path in there) if there else None


def _speed(files: Files) -> Labelled:
    """Read `400 Gb/sec (4X NDR)`."""
    return each(_ports(files), lambda folder: float(files.text(f"{folder}/rate").split()[0]) * 1e9 / 8)


ROWS: tuple[Row[Files], ...] = (
    Row(
        Metric(
            "system_infiniband_bytes_total",
            "counter",
            "RDMA port bytes; direction=rx|tx.",
            ("device", "port", "direction"),
            "bytes",
            "/sys/class/infiniband/*/ports/*/{counters/port_{xmit,rcv}_data,hw_counters/{tx,rx}_bytes}",
        ),
        _bytes,
    ),
    Row(
        Metric(
            "system_infiniband_link_downs_total",
            "counter",
            "RDMA link downs.",
            ("device", "port"),
            "count",
            "/sys/class/infiniband/*/ports/*/counters/link_downed",
        ),
        _downs,
    ),
    Row(
        Metric(
            "system_infiniband_port_up",
            "gauge",
            "1 when the port is ACTIVE.",
            ("device", "port"),
            "bool",
            "/sys/class/infiniband/*/ports/*/state",
        ),
        _up,
    ),
    Row(
        Metric(
            "system_infiniband_errors_total",
            "counter",
            "RDMA port errors; type=symbol|receive|discard|recovery|sequence|timeout|retry.",
            ("device", "port", "type"),
            "count",
            "/sys/class/infiniband/*/ports/*/{counters,hw_counters}",
        ),
        _errors,
    ),
    Row(
        Metric(
            "system_infiniband_speed_bytes_per_second",
            "gauge",
            "Speed of the port, one direction.",
            ("device", "port"),
            "bytes per second",
            "/sys/class/infiniband/*/ports/*/rate",
        ),
        _speed,
    ),
)


@dataclass
class Infiniband:
    """InfiniBand and RoCE ports: bytes, state, speed, link downs and errors."""

    interval: Seconds = 5.0
    root: str = "/"

    metrics: ClassVar[tuple[Metric, ...]] = metrics(ROWS)

    def sample(self, node: Node) -> Iterable[Sample]:
        return collect(ROWS, Files(self.root))

    def close(self) -> None:
        """Nothing is held."""
