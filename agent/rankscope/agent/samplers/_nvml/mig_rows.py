"""What is read of a MIG instance: one row, one metric."""

from __future__ import annotations

from rankscope.agent.samplers._nvml.reads import Gpm
from rankscope.agent.samplers._nvml.row import Row, memory_part, ratio

MIG_ROWS: tuple[Row, ...] = (
    Row(
        "mig_memory_used_bytes", "gauge", "bytes", "Framebuffer memory of a MIG instance in use.",
        {"": memory_part("used")}, high=1 << 44,
    ),
    Row(
        "mig_memory_size_bytes", "gauge", "bytes", "Framebuffer memory of a MIG instance.",
        {"": memory_part("total")}, low=1, high=1 << 44,
    ),
    ratio(
        "mig_engine_active_ratio", "Activity of a MIG instance's compute engine (Hopper+ GPM).",
        Gpm("NVML_GPM_METRIC_GRAPHICS_UTIL", 100),
    ),
    ratio(
        "mig_sm_active_ratio", "SM activity of a MIG instance (Hopper+ GPM).", Gpm("NVML_GPM_METRIC_SM_UTIL", 100)
    ),
    ratio(
        "mig_tensor_active_ratio", "Tensor pipe activity of a MIG instance (Hopper+ GPM).",
        Gpm("NVML_GPM_METRIC_ANY_TENSOR_UTIL", 100),
    ),
    ratio(
        "mig_dram_active_ratio", "Share of a MIG instance's memory bandwidth in use (Hopper+ GPM).",
        Gpm("NVML_GPM_METRIC_DRAM_BW_UTIL", 100),
    ),
)  # fmt: skip
