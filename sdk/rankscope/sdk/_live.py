"""The page that rank and sender share beside the records: the phase now, the SDK's cost, what was dropped, rates."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

SIZE = 4096
FILE = "live"

REASONS = (
    "journal_full",  # the oldest points made room for new ones
    "disk_full",  # no room for a new segment, or the folder cannot be written
    "not_a_number",
    "too_many_names",
    "bad_argument",
    "late_lost",  # a device tensor whose value never came
    "too_large",
    "internal_error",
    "refused",  # the agent would not take a record
)
RATES = ("histograms", "activations")

_PHASE = 0
_COST = struct.Struct("<QQQ")  # calls, ns spent in the SDK, CLOCK_MONOTONIC ns at that time
_STARTED = struct.Struct("<Q")
_STARTED_AT = 40
_COST_AT = 8
_DROPS = struct.Struct(f"<{len(REASONS)}Q")
_DROPS_AT = 64
_ACKED = struct.Struct("<Q")
_ACKED_AT = 256
_RATES = struct.Struct(f"<{len(RATES)}d")
_RATES_AT = 320
_RING = 64
_SAMPLES = struct.Struct(f"<{_RING}I")
_SAMPLES_AT = 512
_END_AT, _END = 768, 256  # how the rank ended, as JSON, where the journal had no room for it
_NAMES_AT = 1024
_NAME = 48
MAX_PHASES = (SIZE - _NAMES_AT) // _NAME
RETRY_NS = 1_000_000_000  # until a disk that was full is tried again


class Live:
    """The rank's side. On a local disk the page is mapped; elsewhere it is written now and then (`save`)."""

    __slots__ = ("_blocked_until", "_file", "_sample", "drops", "page", "phases")

    def __init__(self, folder: Path, mapped: bool) -> None:
        """Create the page. Raises OSError."""
        self._file = -1
        self._blocked_until = 0
        self.phases: dict[str, int] = {}
        self.drops = [0] * len(REASONS)
        self._sample = 0
        file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if mapped:
            try:
                os.posix_fallocate(file, 0, SIZE)
                self.page: mmap.mmap | bytearray = mmap.mmap(file, SIZE)
            finally:
                os.close(file)
        else:
            os.pwrite(file, bytes(SIZE), 0)
            self._file = file
            self.page = bytearray(SIZE)
        _STARTED.pack_into(self.page, _STARTED_AT, time.monotonic_ns())
        if mapped:
            _RATES.pack_into(self.page, _RATES_AT, *[1.0] * len(RATES))
        else:
            os.pwrite(file, _RATES.pack(*[1.0] * len(RATES)), _RATES_AT)
            self.save()

    def phase(self, name: str) -> int:
        """Return the byte that stands for a phase in `page[0]`; 0 means none, also when there are too many."""
        number = self.phases.get(name)
        if number is None:
            number = len(self.phases) + 1
            if number > MAX_PHASES:
                return 0
            at = _NAMES_AT + (number - 1) * _NAME
            text = name.encode("utf-8", "replace")[: _NAME - 1]
            self.page[at : at + len(text)] = text
            self.phases[name] = number
            self.save()
        return number

    def drop(self, reason: str, points: int) -> None:
        self.drops[REASONS.index(reason)] += points
        _DROPS.pack_into(self.page, _DROPS_AT, *self.drops)
        self.save()

    def cost(self, calls: int, spent: int, now: int, sample: int) -> None:
        """Note the SDK's cost so far, and what one call took (ns)."""
        _COST.pack_into(self.page, _COST_AT, calls, spent, now)
        at = _SAMPLES_AT + 4 * (self._sample % _RING)
        self._sample += 1
        struct.pack_into("<I", self.page, at, min(sample, 0xFFFFFFFF))
        self.save()

    @property
    def acked(self) -> int:
        return int(_ACKED.unpack_from(self._read(), _ACKED_AT)[0])

    def rate(self, what: str) -> float:
        """How often something optional shall be sent, as the agent wishes: 1 as configured, 0 off."""
        return float(_RATES.unpack_from(self._read(), _RATES_AT)[RATES.index(what)])

    def end(self, fields: Mapping[str, object]) -> None:
        """Note how the rank ended, in short: this page has its place on a disk that is full."""
        known = {name: fields[name] for name in ("reason", "exit_code", "signal") if name in fields}
        text = json.dumps(known).encode()[:_END]
        self.page[_END_AT : _END_AT + len(text)] = text
        self._blocked_until = 0
        self.save()

    def save(self) -> None:
        """Write the page where it is not mapped, all but what the sender writes; a full disk is no reason to stop.

        Nor to wait at each call: some file systems take long to find out that they are full.
        """
        if self._file >= 0 and time.monotonic_ns() >= self._blocked_until:
            try:
                os.pwrite(self._file, self.page[:_ACKED_AT], 0)
                os.pwrite(self._file, self.page[_SAMPLES_AT:], _SAMPLES_AT)
            except OSError:
                self._blocked_until = time.monotonic_ns() + RETRY_NS

    def _read(self) -> bytes | mmap.mmap | bytearray:
        if self._file >= 0:
            with contextlib.suppress(OSError):
                return os.pread(self._file, SIZE, 0).ljust(SIZE, b"\0")
        return self.page

    def close(self) -> None:
        """Write the last word and let go of the page."""
        self._blocked_until = 0
        self.save()
        self._forget()

    def _forget(self) -> None:
        """Let go of the page; who still writes to it (a phase that is open) does so into nothing."""
        self.page = bytearray(SIZE)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def abandon(self) -> None:
        """In a forked child: let go of mapping and file, which are the parent's."""
        abandon(self.page)
        self._forget()


def abandon(mapping: mmap.mmap | bytearray) -> None:
    """Unmap in a forked child; what another thread of the parent was writing through at that moment stays mapped."""
    if isinstance(mapping, mmap.mmap):
        with contextlib.suppress(BufferError):
            mapping.close()


def read_end(folder: Path) -> dict[str, object]:
    """Return how the rank said that it ended where the journal had no room for it, else nothing."""
    try:
        found: object = json.loads((folder / FILE).read_bytes()[_END_AT : _END_AT + _END].rstrip(b"\0"))
    except (OSError, ValueError):
        return {}
    return cast("dict[str, object]", found) if isinstance(found, dict) else {}


class Glance:
    """The sender's side: reads the page, writes what the rank is to know."""

    def __init__(self, folder: Path) -> None:
        """Open the page. Raises OSError."""
        self._file = os.open(folder / FILE, os.O_RDWR | os.O_CLOEXEC)
        self.refused = 0
        self.page = b""
        self.look()

    def look(self) -> None:
        page = os.pread(self._file, SIZE, 0)
        self.page = page.ljust(SIZE, b"\0")

    @property
    def phase(self) -> str:
        number = self.page[_PHASE]
        if not 0 < number <= MAX_PHASES:
            return ""
        at = _NAMES_AT + (number - 1) * _NAME
        return self.page[at : at + _NAME].split(b"\0")[0].decode("utf-8", "replace")

    @property
    def dropped(self) -> dict[str, int]:
        counts = dict(zip(REASONS, _DROPS.unpack_from(self.page, _DROPS_AT), strict=True))
        counts["refused"] += self.refused
        return {reason: count for reason, count in counts.items() if count}

    @property
    def cost(self) -> tuple[int, int, int]:
        """Calls, nanoseconds spent in the SDK, and when that was (CLOCK_MONOTONIC, ns)."""
        calls, spent, now = _COST.unpack_from(self.page, _COST_AT)
        return calls, spent, now

    @property
    def started(self) -> int:
        """When the session began, CLOCK_MONOTONIC ns."""
        return int(_STARTED.unpack_from(self.page, _STARTED_AT)[0])

    @property
    def log_seconds(self) -> dict[str, float]:
        samples = sorted(value for value in _SAMPLES.unpack_from(self.page, _SAMPLES_AT) if value)
        if not samples:
            return {}
        at = {"0.5": 0.5, "0.99": 0.99}
        return {name: samples[min(len(samples) - 1, int(q * len(samples)))] * 1e-9 for name, q in at.items()}

    def acked(self, sequence: int) -> None:
        os.pwrite(self._file, _ACKED.pack(sequence), _ACKED_AT)

    def set_rate(self, what: str, factor: float) -> bool:
        """Tell the rank how often to send something; False where it knows no such thing."""
        if what not in RATES:
            return False
        os.pwrite(self._file, struct.pack("<d", factor), _RATES_AT + 8 * RATES.index(what))
        return True

    def close(self) -> None:
        os.close(self._file)
