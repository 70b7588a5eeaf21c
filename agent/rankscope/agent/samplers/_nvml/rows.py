"""What is read of a GPU: one row, one metric.

This table is all there is to a metric: the process that holds NVML reads by it, and the agent exports by it.
"""

from __future__ import annotations

from rankscope.agent.samplers._nvml.reads import ALL_LINKS, MODULE, Call, Field, Gpm, Links, Read
from rankscope.agent.samplers._nvml.row import Row, memory_part, ratio

_FI = "NVML_FI_DEV_"


def _reason(bit: int) -> tuple[Read, ...]:
    """Drivers before 535 know it by its old name."""
    return (
        Call("nvmlDeviceGetCurrentClocksEventReasons", bit=bit),
        Call("nvmlDeviceGetCurrentClocksThrottleReasons", bit=bit),
    )


def _ecc(severity: str, counter: str) -> Read:
    return Call("nvmlDeviceGetTotalEccErrors", (f"NVML_MEMORY_ERROR_TYPE_{severity}", f"NVML_{counter}_ECC"))


_UTILIZATION = "nvmlDeviceGetUtilizationRates"
_REMAPPED = "nvmlDeviceGetRemappedRows"

ROWS: tuple[Row, ...] = (
    ratio(
        "gpu_utilization_ratio",
        "Share of the last sample period with a kernel resident (nvidia-smi utilization.gpu).",
        Call(_UTILIZATION, part="gpu", per=100),
    ),
    ratio(
        "gpu_memory_copy_utilization_ratio",
        "Share of the sample period the memory interface was busy.",
        Call(_UTILIZATION, part="memory", per=100),
    ),
    ratio("gpu_sm_active_ratio", "SM activity (Hopper+ GPM).", Gpm("NVML_GPM_METRIC_SM_UTIL", 100)),
    ratio(
        "gpu_sm_occupancy_ratio", "Warps resident, of what the SMs hold (Hopper+ GPM).",
        Gpm("NVML_GPM_METRIC_SM_OCCUPANCY", 100),
    ),
    ratio(
        "gpu_engine_active_ratio", "Activity of the graphics and compute engine (Hopper+ GPM).",
        Gpm("NVML_GPM_METRIC_GRAPHICS_UTIL", 100),
    ),
    ratio(
        "gpu_tensor_active_ratio", "Tensor pipe activity (Hopper+ GPM).",
        Gpm("NVML_GPM_METRIC_ANY_TENSOR_UTIL", 100),
    ),
    ratio(
        "gpu_dram_active_ratio", "Share of the memory bandwidth in use (Hopper+ GPM).",
        Gpm("NVML_GPM_METRIC_DRAM_BW_UTIL", 100),
    ),
    Row(
        "gpu_pipe_active_ratio", "gauge", "ratio", "Activity of a pipe (Hopper+ GPM); pipe=fp16|fp32|fp64|integer.",
        {
            "fp16": Gpm("NVML_GPM_METRIC_FP16_UTIL", 100),
            "fp32": Gpm("NVML_GPM_METRIC_FP32_UTIL", 100),
            "fp64": Gpm("NVML_GPM_METRIC_FP64_UTIL", 100),
            "integer": Gpm("NVML_GPM_METRIC_INTEGER_UTIL", 100),
        },
        "pipe", high=1.0,
    ),
    Row(
        "gpu_memory_used_bytes", "gauge", "bytes", "Framebuffer memory in use (without reserved).",
        {"": memory_part("used")}, high=1 << 44,
    ),
    Row(
        "gpu_memory_reserved_bytes", "gauge", "bytes", "Framebuffer memory that driver and firmware keep.",
        {"": Call("nvmlDeviceGetMemoryInfo", ("nvmlMemory_v2",), "reserved")}, high=1 << 44,
    ),
    Row(
        "gpu_memory_size_bytes", "gauge", "bytes", 'Framebuffer memory size ("_total" is reserved for counters).',
        {"": memory_part("total")}, low=1, high=1 << 44,
    ),
    Row(
        "gpu_power_watts", "gauge", "watts", "Board power draw.",
        {"": (Call("nvmlDeviceGetPowerUsage", per=1000), Field(_FI + "POWER_INSTANT", per=1000))}, high=10_000,
    ),
    Row(
        "gpu_module_power_watts", "gauge", "watts",
        "Power draw of the module that the GPU is a part of, with its other GPUs and CPU (Grace).",
        {"": Field(_FI + "POWER_INSTANT", MODULE, per=1000)}, high=20_000,
    ),
    Row(
        "gpu_power_limit_watts", "gauge", "watts", "Enforced power limit.",
        {"": Call("nvmlDeviceGetEnforcedPowerLimit", per=1000)}, low=1, high=10_000, slow=True,
    ),
    Row(
        "gpu_energy_joules_total", "counter", "joules", "Energy since driver load.",
        {"": Call("nvmlDeviceGetTotalEnergyConsumption", per=1000)},
    ),
    Row(
        "gpu_temperature_celsius", "gauge", "celsius", "Temperature; sensor=gpu|memory.",
        {
            "gpu": Call("nvmlDeviceGetTemperature", ("NVML_TEMPERATURE_GPU",)),
            "memory": Field(_FI + "MEMORY_TEMP"),
        },
        "sensor", low=1, high=200,
    ),
    Row(
        "gpu_temperature_margin_celsius", "gauge", "celsius", "Degrees left before clocks are cut.",
        {"": Call("nvmlDeviceGetMarginTemperature")}, low=-100, high=200,
    ),
    Row(
        "gpu_temperature_slowdown_celsius", "gauge", "celsius", "Temperature at which clocks are cut.",
        {"": Call("nvmlDeviceGetTemperatureThreshold", ("NVML_TEMPERATURE_THRESHOLD_SLOWDOWN",))},
        low=1, high=200, slow=True,
    ),
    Row(
        "gpu_clock_hertz", "gauge", "hertz", "Current clock; domain=sm|memory.",
        {
            "sm": Call("nvmlDeviceGetClockInfo", ("NVML_CLOCK_SM",), scale=1e6),
            "memory": Call("nvmlDeviceGetClockInfo", ("NVML_CLOCK_MEM",), scale=1e6),
        },
        "domain", high=2e10,
    ),
    Row(
        "gpu_clock_max_hertz", "gauge", "hertz", "Maximum clock; domain=sm|memory.",
        {
            "sm": Call("nvmlDeviceGetMaxClockInfo", ("NVML_CLOCK_SM",), scale=1e6),
            "memory": Call("nvmlDeviceGetMaxClockInfo", ("NVML_CLOCK_MEM",), scale=1e6),
        },
        "domain", low=1, high=2e10, slow=True,
    ),
    Row(
        "gpu_throttle_active", "gauge", "bool",
        "1 when the clock event reason is set; "
        "reason=sw_power_cap|hw_thermal|sw_thermal|hw_power_brake|hw_slowdown|sync_boost.",
        {
            "sw_power_cap": _reason(0x04),
            "hw_thermal": _reason(0x40),
            "sw_thermal": _reason(0x20),
            "hw_power_brake": _reason(0x80),
            "hw_slowdown": _reason(0x08),
            "sync_boost": _reason(0x10),
        },
        "reason", high=1,
    ),
    Row(
        "gpu_throttle_seconds_total", "counter", "s",
        "Time throttled; reason=sw_power_cap|hw_thermal|sw_thermal|hw_power_brake|sync_boost.",
        {
            "sw_power_cap": Field(_FI + "PERF_POLICY_POWER", per=1e9),
            "hw_thermal": Field(_FI + "CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN", per=1e9),
            "sw_thermal": Field(_FI + "CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN", per=1e9),
            "hw_power_brake": Field(_FI + "CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN", per=1e9),
            "sync_boost": Field(_FI + "PERF_POLICY_SYNC_BOOST", per=1e9),
        },
        "reason",
    ),
    Row(
        "gpu_pcie_bytes_total", "counter", "bytes", "PCIe traffic; direction=tx|rx.",
        {"tx": Field(_FI + "PCIE_COUNT_TX_BYTES"), "rx": Field(_FI + "PCIE_COUNT_RX_BYTES")},
        "direction",
    ),
    Row(
        "gpu_pcie_throughput_bytes_per_second", "gauge", "bytes per second",
        "PCIe traffic over the last 20 ms, where there are no counters; direction=tx|rx.",
        {
            "tx": Call("nvmlDeviceGetPcieThroughput", ("NVML_PCIE_UTIL_TX_BYTES",), scale=1000.0),
            "rx": Call("nvmlDeviceGetPcieThroughput", ("NVML_PCIE_UTIL_RX_BYTES",), scale=1000.0),
        },
        "direction", high=1e12, slow=True, unless="gpu_pcie_bytes_total",
    ),
    Row(
        "gpu_pcie_replays_total", "counter", "count", "PCIe replays.",
        {"": Call("nvmlDeviceGetPcieReplayCounter")}, high=1 << 31, slow=True,
    ),
    Row(
        "gpu_pcie_link_width", "gauge", "lanes", "Current PCIe lanes.",
        {"": Call("nvmlDeviceGetCurrPcieLinkWidth")}, low=1, high=32, slow=True,
    ),
    Row(
        "gpu_pcie_link_width_max", "gauge", "lanes", "PCIe lanes that GPU and slot can do.",
        {"": Call("nvmlDeviceGetMaxPcieLinkWidth")}, low=1, high=32, slow=True,
    ),
    Row(
        "gpu_pcie_link_generation", "gauge", "gen", "Current PCIe generation.",
        {"": Call("nvmlDeviceGetCurrPcieLinkGeneration")}, low=1, high=8, slow=True,
    ),
    Row(
        "gpu_pcie_link_generation_max", "gauge", "gen", "PCIe generation that GPU and slot can do.",
        {"": Call("nvmlDeviceGetMaxPcieLinkGeneration")}, low=1, high=8, slow=True,
    ),
    Row(
        "gpu_nvlink_bytes_total", "counter", "bytes", "NVLink data over all links; direction=tx|rx.",
        {
            "tx": Field(_FI + "NVLINK_THROUGHPUT_DATA_TX", ALL_LINKS, scale=1024.0),
            "rx": Field(_FI + "NVLINK_THROUGHPUT_DATA_RX", ALL_LINKS, scale=1024.0),
        },
        "direction",
    ),
    Row(
        "gpu_nvlink_throughput_bytes_per_second", "gauge", "bytes per second",
        "NVLink data over all links (Hopper+ GPM); direction=tx|rx.",
        {
            "tx": Gpm("NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC", scale=1 << 20),
            "rx": Gpm("NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC", scale=1 << 20),
        },
        "direction", high=1e14,
    ),
    Row(
        "gpu_nvlink_errors_total", "counter", "count",
        "NVLink errors over all links; type=crc_flit|crc_data|replay|recovery.",
        {
            "crc_flit": Field(_FI + "NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL"),
            "crc_data": Field(_FI + "NVLINK_CRC_DATA_ERROR_COUNT_TOTAL"),
            "replay": Field(_FI + "NVLINK_REPLAY_ERROR_COUNT_TOTAL"),
            "recovery": (
                Field(_FI + "NVLINK_RECOVERY_ERROR_COUNT_TOTAL"),
                Field(_FI + "NVLINK_COUNT_LINK_RECOVERY_EVENTS", ALL_LINKS),
            ),
        },
        "type", high=1 << 53,
    ),
    Row("gpu_nvlink_links_up", "gauge", "count", "NVLinks that are up.", {"": Links()}, high=128, slow=True),
    Row(
        "gpu_ecc_errors_total", "counter", "count", "Volatile ECC errors; severity=corrected|uncorrected.",
        {"corrected": _ecc("CORRECTED", "VOLATILE"), "uncorrected": _ecc("UNCORRECTED", "VOLATILE")},
        "severity", high=1 << 53, slow=True,
    ),
    Row(
        "gpu_ecc_errors_lifetime_total", "counter", "count",
        "ECC errors over the life of the board; severity=corrected|uncorrected.",
        {"corrected": _ecc("CORRECTED", "AGGREGATE"), "uncorrected": _ecc("UNCORRECTED", "AGGREGATE")},
        "severity", high=1 << 53, slow=True,
    ),
    Row(
        "gpu_remapped_rows", "gauge", "rows",
        "Remapped rows over the life of the board; severity=corrected|uncorrected.",
        {"corrected": Call(_REMAPPED, part=0), "uncorrected": Call(_REMAPPED, part=1)},
        "severity", high=1 << 20, slow=True,
    ),
    Row(
        "gpu_row_remap_pending", "gauge", "bool", "1 when a row remap waits for a reset.",
        {"": Call(_REMAPPED, part=2)}, high=1, slow=True,
    ),
    Row(
        "gpu_row_remap_failed", "gauge", "bool", "1 when row remapping failed.",
        {"": Call(_REMAPPED, part=3)}, high=1, slow=True,
    ),
    Row(
        "gpu_recovery_action", "gauge", "enum",
        "Driver-requested action: 0 none 1 reset 2 reboot 3 drain p2p 4 drain+reset 5 recover IMEX domain 6 bus reset "
        "7 system reboot.",
        {"": Field(_FI + "GET_GPU_RECOVERY_ACTION")}, high=15,
    ),
    ratio(
        "gpu_encoder_utilization_ratio", "Use of the video encoders.",
        Call("nvmlDeviceGetEncoderUtilization", part=0, per=100),
    ),
    ratio(
        "gpu_decoder_utilization_ratio", "Use of the video decoders.",
        Call("nvmlDeviceGetDecoderUtilization", part=0, per=100),
    ),
    ratio(
        "gpu_fan_speed_ratio", "Fan speed, of the fan's maximum.",
        Call("nvmlDeviceGetFanSpeed", per=100), high=2.0,
    ),
    Row(
        "gpu_performance_state", "gauge", "enum", "Performance state, 0 the fastest to 15 the slowest.",
        {"": Call("nvmlDeviceGetPerformanceState")}, high=15,
    ),
)  # fmt: skip
