"""How busy the GPU or the MIG instance of a rank is."""

from __future__ import annotations

from rankscope.agent.runs.devices import Device
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node

_METRICS = ("gpu_utilization_ratio", "mig_engine_active_ratio")  # the whole card's, an instance's (Hopper and later)


def utilization(node: Node, device: Device | None) -> Series | None:
    """Return what was sampled of it, None where it is not known."""
    found = (node.window(metric, *device) for metric in _METRICS) if device is not None else ()
    return next((series for series in found if series is not None and len(series)), None)
