"""What the GPUs of a rank have to do with it."""

from __future__ import annotations

from rankscope.agent.model import Cause
from rankscope.agent.rules._causes.around import Around
from rankscope.agent.runs.devices import Devices

NEAR = 60.0  # seconds between a hardware error and the step that count as together


def fault(here: Around) -> Cause | None:
    """A GPU of this rank reported an error within a minute of it."""
    devices = Devices(here.node)
    device = devices.of(here.rank)
    mine = {devices.board(device)} if device is not None else set[str]()
    for labels, when in here.node.latest("gpu_xid_last_timestamp_seconds").items():
        gpu, uuid, xid = labels[0], labels[1], labels[2]
        if (not mine or uuid in mine) and abs(when - here.time) <= NEAR:
            return Cause(
                "the GPU is failing",
                f"GPU {gpu} reported XID {xid} {abs(when - here.time):.0f} s "
                f"{'before' if when <= here.time else 'after'} it",
                "take the node out of service, run the vendor's diagnostics, go on from the last checkpoint elsewhere",
            )
    for labels, series in here.node.windows("gpu_ecc_errors_total"):
        if labels[2] != "uncorrected" or (mine and labels[1] not in mine):
            continue
        recent = series.value[series.time >= here.time - NEAR]
        if len(recent) > 1 and recent[-1] > recent[0]:
            return Cause(
                "the GPU's memory is failing",
                f"GPU {labels[0]} counted {recent[-1] - recent[0]:.0f} uncorrectable memory errors within "
                "a minute of it",
                "reset the GPU; if errors come back, have it replaced",
            )
    return None
