"""What XID errors mean and what to do about them: the codes that concern a training."""

from __future__ import annotations

from typing import NamedTuple


class Meaning(NamedTuple):
    text: str
    fix: str


_DIAGNOSE = "drain the node and run NVIDIA's field diagnostics; replace the card if it fails them"
_RESET = "end what runs on the GPU, reset it (nvidia-smi --gpu-reset), and watch whether it comes back"
_REBOOT = "reboot the node; if it comes back, have the card replaced"
_REPORT = "collect nvidia-bug-report.sh, reboot the node, and update the driver if it comes back"

_LINK = Meaning("an NVLink error", "check the other end of the link and the fabric manager; reset the GPUs of the link")

# Source: docs.nvidia.com/deploy/xid-errors, in words of our own.
MEANINGS: dict[int, Meaning] = {
    13: Meaning(
        "a kernel accessed memory that it may not", "run under compute-sanitizer: it is the program's in most cases"
    ),
    31: Meaning("a page fault of the GPU", "run under compute-sanitizer: it is the program's in most cases"),
    43: Meaning("the GPU stopped a faulty program", "look for the first error in the program's log"),
    45: Meaning("the driver ended a program's channel", "look for what ended the program before"),
    48: Meaning("a double-bit memory error", _RESET),
    62: Meaning("the power controller stopped", _RESET),
    63: Meaning(
        "a memory row was marked for remapping", "reset the GPU at the next chance, so that the row is remapped"
    ),
    64: Meaning("a memory row could not be remapped", _DIAGNOSE),
    74: _LINK,
    79: Meaning("the GPU fell off the bus", _REBOOT),
    92: Meaning("many single-bit memory errors", _DIAGNOSE),
    94: Meaning(
        "a contained memory error: the program that hit it is lost, others are not",
        "start the program again; " + _RESET,
    ),
    95: Meaning("an uncontained memory error: nothing on the GPU can be trusted", _RESET),
    109: Meaning("a context switch timed out", _RESET),
    119: Meaning("the GPU's system processor does not answer", _REPORT),
    120: Meaning("the GPU's system processor failed", _REPORT),
    136: Meaning("link training failed", _RESET),
    140: Meaning("an unrecovered memory error", _RESET),
    143: Meaning("the GPU could not be initialised", _REBOOT),
    **dict.fromkeys(range(144, 151), _LINK),  # parts of NVLink 5: SAW, RLW, TLW, TREX, NVLPW, NETIR, MSE
    154: Meaning("the driver asks for another recovery", "see gpu_recovery_action for what it asks"),
    156: Meaning(
        "a part of the memory was marked for retirement", "reset the GPU at the next chance, so that it is retired"
    ),
    157: Meaning("a part of the memory could not be retired", _DIAGNOSE),
    158: Meaning("the GPU timed out fatally", _REBOOT),
    167: Meaning("the PCIe link timed out fatally", _REBOOT),
    171: Meaning("an uncorrectable error in the GPU's memory", _RESET),
    172: Meaning("an uncorrectable error inside the GPU", _RESET),
}


def meaning(code: int) -> Meaning:
    return MEANINGS.get(code, Meaning("see NVIDIA's list of XID errors", _REPORT))
