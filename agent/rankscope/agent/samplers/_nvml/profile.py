"""GPU performance monitoring: profiling figures of Hopper and later, without locking a profiler out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

from rankscope.agent.samplers._nvml.api import nvml
from rankscope.agent.samplers._nvml.card import UNSUPPORTED, check

_NEVER = UNSUPPORTED - {nvml.NVML_ERROR_INVALID_ARGUMENT}  # that is of two samples which do not go together


class GpmProfile:
    """Two samples of a device's counters, taken in turn; the metrics are what happened between them.

    Source: nvmlGpmMetricsGet in NVML's API reference. Unlike DCGM's profiling it takes no lock, so that Nsight and
    CUPTI go on working beside it.
    """

    def __init__(self, api: Any, handle: object, instance: int | None = None) -> None:
        """`instance`: id of the MIG GPU instance to look at, `handle` being its GPU's."""
        self._api = api
        self._handle = handle
        self._instance = instance
        self._supported: bool | None = None  # None until the driver has told
        self._samples: list[Any] = []  # the older first
        self._primed = False

    def __del__(self) -> None:
        """MIG instances come and go as long as the process lives; their samples are NVML's memory."""
        for sample in self._samples:
            with contextlib.suppress(nvml.NVMLError):
                self._api.nvmlGpmSampleFree(sample)

    def read(self, metrics: Iterable[int]) -> dict[int, float]:
        """Return metrics by number since the last call; nothing the first time, and where there is no profiling."""
        if self._supported is False:
            return {}
        try:
            if self._supported is None:
                self._supported = bool(self._api.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice)
                return self.read(metrics)
            while len(self._samples) < 2:
                self._samples.append(self._api.nvmlGpmSampleAlloc())
            self._take(self._samples[0])
            self._samples.reverse()
            if not self._primed:
                self._primed = True
                return {}
            return self._between(list(dict.fromkeys(metrics)))
        except nvml.NVMLError as error:
            check(error)
            if error.value in _NEVER:
                self._supported = False
            return {}

    def _take(self, sample: object) -> None:
        if self._instance is None:
            self._api.nvmlGpmSampleGet(self._handle, sample)
        else:
            self._api.nvmlGpmMigSampleGet(self._handle, self._instance, sample)

    def _between(self, metrics: list[int]) -> dict[int, float]:
        question = self._api.c_nvmlGpmMetricsGet_t()
        question.version = nvml.NVML_GPM_METRICS_GET_VERSION
        question.numMetrics = len(metrics)
        question.sample1, question.sample2 = self._samples
        for i, metric in enumerate(metrics):
            question.metrics[i].metricId = metric
        answer = self._api.nvmlGpmMetricsGet(question)
        return {
            metric: answer.metrics[i].value
            for i, metric in enumerate(metrics)
            if answer.metrics[i].nvmlReturn == nvml.NVML_SUCCESS
        }
