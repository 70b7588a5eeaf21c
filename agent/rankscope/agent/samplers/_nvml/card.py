"""One device, read row by row: what fails costs its own value, what is unsupported is never asked for again."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

from rankscope.agent.samplers._nvml.api import ODD, nvml
from rankscope.agent.samplers._nvml.fields import field_number
from rankscope.agent.samplers._nvml.reads import Field, Gpm, Read
from rankscope.agent.samplers._nvml.row import Row

Value = tuple[str, str, float]
"""Metric, label value ("" without), value."""

UNSUPPORTED = frozenset(
    (
        nvml.NVML_ERROR_INVALID_ARGUMENT,
        nvml.NVML_ERROR_NOT_SUPPORTED,
        nvml.NVML_ERROR_NO_PERMISSION,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
        nvml.NVML_ERROR_DEPRECATED,
    )
)
_LOST = frozenset((nvml.NVML_ERROR_GPU_IS_LOST, nvml.NVML_ERROR_GPU_NOT_FOUND))
_DRIVER = frozenset(
    (
        nvml.NVML_ERROR_UNINITIALIZED,
        nvml.NVML_ERROR_DRIVER_NOT_LOADED,
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND,
    )
)
_VALUE_MEMBERS = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t
_BLANK32 = 0x7FFFFFF0  # and the 15 above it: blank, not found, not supported, no permission … (dcgm_structs.h)
_BLANK64 = 0x7FFFFFFFFFFFFFF0
_BLANK_DOUBLE = 140737488355328.0  # and the 15 above it
_NO_VALUE = frozenset((0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, -1))  # NVML_VALUE_NOT_AVAILABLE
MAX_LINKS = 36


class LostError(Exception):
    """The device does not answer any more; the text is the driver's."""


class DriverError(Exception):
    """NVML as a whole does not answer any more, as after the driver was replaced; the text is the driver's."""


class Profile(Protocol):
    """Gives the profiling metrics of a device since it was last asked, by their number."""

    def read(self, metrics: Iterable[int]) -> dict[int, float]: ...


def check(error: Any) -> None:
    """Raise LostError or DriverError when an error means more than one value."""
    if error.value in _LOST:
        raise LostError(str(error)) from None
    if error.value in _DRIVER:
        raise DriverError(str(error)) from None


def number(got: object) -> float | None:
    """Return a number that NVML gave, or None where it stands for "none"."""
    if not isinstance(got, (int, float)):
        return None
    if isinstance(got, float) and (not math.isfinite(got) or _BLANK_DOUBLE <= got <= _BLANK_DOUBLE + 15):
        return None
    if _BLANK32 <= got <= 0x7FFFFFFF or got >= _BLANK64 or got in _NO_VALUE:
        return None
    return float(got)


class Card:
    """A GPU or a MIG instance. `api` is nvidia-ml-py, or what stands in for it; `driver` the driver's version."""

    def __init__(
        self, api: Any, handle: object, rows: tuple[Row, ...], profile: Profile | None, driver: str = ""
    ) -> None:
        self._api = api
        self._handle = handle
        self._rows = rows
        self._profile = profile
        self._dead: set[object] = set()  # calls and fields that are unsupported
        self._kept: dict[str, list[Value]] = {}  # of slow rows
        self._links: list[int] | None = None
        self._field_ids: dict[Field, tuple[int, int]] = {}
        self._gpm_ids: dict[Gpm, int] = {}
        for row in rows:
            for each in row.reads.values():
                for read in each if isinstance(each, tuple) else (each,):
                    if isinstance(read, Field) and (field := field_number(read.name, driver)) is not None:
                        self._field_ids[read] = (field, read.scope)
                    elif isinstance(read, Gpm) and (metric := getattr(nvml, read.name, None)) is not None:
                        self._gpm_ids[read] = metric
        self._calls: dict[tuple[object, ...], Any] = {}
        self._fields: dict[Field, float | None] | None = None
        self._metrics: dict[int, float] | None = None

    number = staticmethod(number)

    def read(self, slow: bool) -> list[Value]:
        """Return what can be read now; slow rows only if asked, else as they were. Raises LostError, DriverError."""
        self._calls.clear()
        self._fields = self._metrics = None
        found: list[Value] = []
        readable: set[str] = set()
        for row in self._rows:
            if row.unless in readable:
                continue
            if row.slow and not slow and row.name in self._kept:
                found.extend(self._kept[row.name])
                continue
            values = [
                (row.name, label, value)
                for label, each in row.reads.items()
                if (value := self._value(row, each)) is not None
            ]
            if values:
                readable.add(row.name)
            if row.slow:
                self._kept[row.name] = values
            found.extend(values)
        return found

    def _value(self, row: Row, reads: Read | tuple[Read, ...]) -> float | None:
        for read in reads if isinstance(reads, tuple) else (reads,):
            try:
                value = read.read(self)
            except nvml.NVMLError as error:
                if error.value not in UNSUPPORTED:
                    return None  # what fails for once is not read in another way: that may mean another thing
                continue
            except ODD:
                continue
            if value is not None:
                return row.plausible(value * read.scale / read.per)
        return None

    def call(self, function: str, *arguments: int | str) -> object:
        """Return what a function gives for this device, asked once a collection.

        Raises NVMLError when it fails, LostError, DriverError, and AttributeError where there is no such function.
        """
        key = (function, *arguments)
        if key in self._dead:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        if key in self._calls:
            got = self._calls[key]
            if isinstance(got, nvml.NVMLError):
                raise got
            return got
        numbers: list[int] = [each if isinstance(each, int) else getattr(nvml, each) for each in arguments]
        try:
            got = self._calls[key] = getattr(self._api, function)(self._handle, *numbers)
        except nvml.NVMLError as error:
            check(error)
            if error.value in UNSUPPORTED:
                self._dead.add(key)
            self._calls[key] = error
            raise
        return got

    def field(self, field: Field) -> float | None:
        if self._fields is None:
            self._fields = self._read_fields()
        return self._fields.get(field)

    def _read_fields(self) -> dict[Field, float | None]:
        asked = [(field, ids) for field, ids in self._field_ids.items() if field not in self._dead]
        if not asked:
            return {}
        try:
            answers = self._api.nvmlDeviceGetFieldValues(self._handle, [ids for _, ids in asked])
        except nvml.NVMLError as error:
            check(error)
            if error.value in UNSUPPORTED:
                self._dead.update(field for field, _ in asked)
            return {}
        found: dict[Field, float | None] = {}
        answer: Any
        for (field, _), answer in zip(asked, answers, strict=True):
            if answer.nvmlReturn == nvml.NVML_SUCCESS:
                if int(answer.valueType) < len(_VALUE_MEMBERS):
                    found[field] = number(getattr(answer.value, _VALUE_MEMBERS[int(answer.valueType)]))
            elif answer.nvmlReturn in UNSUPPORTED:
                self._dead.add(field)
            else:
                check(nvml.NVMLError(answer.nvmlReturn))
        return found

    def gpm(self, gpm: Gpm) -> float | None:
        if self._profile is None or gpm not in self._gpm_ids:
            return None
        if self._metrics is None:
            self._metrics = self._profile.read(self._gpm_ids.values())
        return number(self._metrics.get(self._gpm_ids[gpm]))

    def links_up(self) -> float | None:
        """Count the links that are up; None for a card without any, and while one does not tell."""
        known = self._links
        states: dict[int, bool] = {}
        for link in range(MAX_LINKS) if known is None else known:
            try:
                state = self._api.nvmlDeviceGetNvLinkState(self._handle, link)
                if state not in (nvml.NVML_FEATURE_ENABLED, nvml.NVML_FEATURE_DISABLED):
                    return None
                states[link] = state == nvml.NVML_FEATURE_ENABLED
            except nvml.NVMLError as error:  # noqa: PERF203
                check(error)
                if known is not None or error.value not in UNSUPPORTED:
                    return None
        self._links = list(states)
        return float(sum(states.values())) if states else None
