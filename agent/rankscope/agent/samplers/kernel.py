"""What the kernel says of the node: which it is, since when, its open files, and whether its clock is right."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from rankscope.agent.model import Metric, Sample, Seconds
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._linux.files import Files
from rankscope.agent.samplers._rows import Row, Values, collect, metrics

_STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
_TIME_ERROR = 5


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2)."""

    _fields_ = [
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("constant", ctypes.c_long),
        ("precision", ctypes.c_long),
        ("tolerance", ctypes.c_long),
        ("time", ctypes.c_long * 2),
        ("rest", ctypes.c_char * 128),
    ]


def _clock() -> tuple[bool, float, float]:
    """Return whether the kernel holds its clock for right, its offset and the bound of its error, in seconds."""
    timex = _Timex()
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.byref(timex))
    if state < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    unit = 1e-9 if timex.status & _STA_NANO else 1e-6
    return state != _TIME_ERROR and not timex.status & _STA_UNSYNC, timex.offset * unit, timex.maxerror * 1e-6


def _info(files: Files) -> Values:
    release = dict(line.split("=", 1) for line in files.text("etc/os-release").splitlines() if "=" in line)
    models = [
        line.split(":", 1)[1] for line in files.text("proc/cpuinfo").splitlines() if line.startswith("model name")
    ]
    cloud = ""
    if files.exists("sys/class/dmi/id/sys_vendor") and files.text("sys/class/dmi/id/sys_vendor") == "Amazon EC2":
        cloud = files.text("sys/class/dmi/id/product_name")
    labels = (
        files.text("proc/sys/kernel/osrelease"),
        release.get("PRETTY_NAME", "").strip('"'),
        models[0].strip() if models else "",
        cloud,
    )
    return [(labels, 1.0)]


def _limit(files: Files) -> Values:
    limit = files.number("proc/sys/fs/file-max")
    return limit if limit < 1 << 62 else None  # the kernel's way to say that there is none


ROWS: tuple[Row[Files], ...] = (
    Row(
        Metric(
            "system_info",
            "info",
            "Host facts.",
            ("kernel", "os", "cpu_model", "cloud_instance"),
            source="/proc, /etc/os-release, DMI",
        ),
        _info,
    ),
    Row(
        Metric("system_boot_time_seconds", "gauge", "Host boot, unix time.", unit="s", source="/proc/stat btime"),
        lambda files: files.table("proc/stat")["btime"],
    ),
    Row(
        Metric(
            "system_open_files", "gauge", "Open files of all processes.", unit="count", source="/proc/sys/fs/file-nr"
        ),
        lambda files: files.number("proc/sys/fs/file-nr"),
    ),
    Row(
        Metric(
            "system_open_files_limit",
            "gauge",
            "Files that all processes together may have open.",
            unit="count",
            source="/proc/sys/fs/file-max",
        ),
        _limit,
    ),
    Row(
        Metric(
            "system_clock_synchronized",
            "gauge",
            "1 when the kernel's clock is held by NTP or PTP.",
            unit="bool",
            source="adjtimex",
        ),
        lambda files: _clock()[0],
    ),
    Row(
        Metric(
            "system_clock_offset_seconds",
            "gauge",
            "Clock's offset that is still being corrected.",
            unit="s",
            source="adjtimex offset",
        ),
        lambda files: _clock()[1],
    ),
    Row(
        Metric(
            "system_clock_error_seconds",
            "gauge",
            "Bound of the clock's error.",
            unit="s",
            source="adjtimex maxerror",
        ),
        lambda files: _clock()[2],
    ),
)


@dataclass
class Kernel:
    """Facts of the host, its start, open files, and whether its clock is synchronised."""

    interval: Seconds = 30.0
    root: str = "/"

    metrics: ClassVar[tuple[Metric, ...]] = metrics(ROWS)

    def sample(self, node: Node) -> Iterable[Sample]:
        return collect(ROWS, Files(self.root))

    def close(self) -> None:
        """Nothing is held."""
