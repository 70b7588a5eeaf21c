"""GPU performance monitoring: profiling figures of Hopper and later, without locking a profiler out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from rankscope.agent.samplers._nvml.api import nvml
from rankscope.agent.samplers._nvml.card import check


class GpmProfile:
    """Two samples of a device's counters, taken in turn; the metrics are what happened between them.

    Source: nvmlGpmMetricsGet in NVML's API reference. Unlike DCGM's profiling it takes no lock, so that Nsight and
    CUPTI go on working beside it.
    """

    def __init__(self, api: Any, handle: object, instance: int | None = None) -> None:
        """`instance`: id of the MIG GPU instance to look at, `handle` being its GPU's. Raises NVMLError."""
        self._api = api
        self._handle = handle
        self._instance = instance
        self._old = api.nvmlGpmSampleAlloc()
        self._new = api.nvmlGpmSampleAlloc()
        self._primed = False

    def __del__(self) -> None:
        """MIG instances come and go as long as the process lives; their samples are NVML's memory."""
        for sample in (getattr(self, "_old", None), getattr(self, "_new", None)):
            if sample is not None:
                with contextlib.suppress(nvml.NVMLError):
                    self._api.nvmlGpmSampleFree(sample)

    @staticmethod
    def supported(api: Any, handle: object) -> bool:
        try:
            return bool(api.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice)
        except nvml.NVMLError:
            return False

    def read(self, metrics: Iterable[int]) -> dict[int, float]:
        """Return metrics by number since the last call; nothing the first time."""
        try:
            if self._instance is None:
                self._api.nvmlGpmSampleGet(self._handle, self._new)
            else:
                self._api.nvmlGpmMigSampleGet(self._handle, self._instance, self._new)
            self._old, self._new = self._new, self._old
            if not self._primed:
                self._primed = True
                return {}
            return self._between(list(dict.fromkeys(metrics)))
        except nvml.NVMLError as error:
            check(error)
            return {}

    def _between(self, metrics: list[int]) -> dict[int, float]:
        question = self._api.c_nvmlGpmMetricsGet_t()
        question.version = nvml.NVML_GPM_METRICS_GET_VERSION
        question.numMetrics = len(metrics)
        question.sample1, question.sample2 = self._new, self._old  # the older first
        for i, metric in enumerate(metrics):
            question.metrics[i].metricId = metric
        answer = self._api.nvmlGpmMetricsGet(question)
        return {
            metric: answer.metrics[i].value
            for i, metric in enumerate(metrics)
            if answer.metrics[i].nvmlReturn == nvml.NVML_SUCCESS
        }
