"""A rank ran out of memory: of its GPU's, or of the host's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, End, Finding, Goodbye, Severity, Span, Verdict
from rankscope.agent.rules._filling import gigabytes
from rankscope.agent.rules._out_of_memory import of_gpu
from rankscope.agent.runs.devices import Devices
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

_GONE = (End.VANISHED, End.SIGNAL, End.UNKNOWN)


@dataclass(eq=False)
class RankOutOfMemory:
    """A rank ended for the lack of memory, and which: the GPU's or the host's.

    Host memory is blamed only where the kernel says that it killed a process of this rank, never for an exit status of
    137 or a SIGKILL alone. GPU memory is blamed where the exception says so; the fixes are those that the allocator's
    figures at that moment allow.

    Needs nothing; `rank_oom_kill_timestamp_seconds` comes from the process sampler.

    Defaults: there is nothing to set.
    """

    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ()
    severity: Severity = "critical"
    for_: Span = field(default_factory=Span)

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        assert run is not None
        found: list[Finding] = []
        for rank in run.ranks.values():
            bye = rank.goodbye
            if bye is not None and of_gpu(bye):
                found.append(_of_gpu(node, rank, bye))
            elif (finding := _of_host(node, rank, now)) is not None:
                found.append(finding)
        return tuple(found)


def _of_gpu(node: Node, rank: Rank, bye: Goodbye) -> Finding:
    device = Devices(node).of(rank)
    held, reserved = bye.memory.get("allocated_bytes.all.current"), bye.memory.get("reserved_bytes.all.current")
    size, free = bye.memory.get("device_total_bytes"), bye.memory.get("device_free_bytes")
    causes: list[Cause] = []
    if held is not None and reserved is not None and size and reserved - held > max(2**30, 0.1 * size):
        causes.append(
            Cause(
                "the allocator's cache is fragmented",
                f"{gigabytes(reserved)} are reserved and {gigabytes(reserved - held)} of them in no use",
                "set PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True; pad inputs to a few lengths",
            )
        )
    if (
        size
        and free is not None
        and reserved is not None
        and (others := size - free - reserved) > max(2**31, 0.05 * size)
    ):
        causes.append(
            Cause(
                "others use this GPU too",
                f"{gigabytes(others)} of the card are neither free nor this process's",
                "end them or give the job GPUs of its own; nvidia-smi lists them",
            )
        )
    if not causes or (held and size and held > 0.8 * size):
        evidence = f"{gigabytes(held)} of {gigabytes(size)} were in use" if held and size else bye.exception[:200]
        fix = "a smaller batch with gradient accumulation, activation checkpointing, or sharded optimizer state"
        causes.append(Cause("model, batch and activations need more than the card holds", evidence, fix))
    return Finding(
        f"rank {rank.info.key.rank} ran out of GPU memory at step {bye.step}",
        step=bye.step,
        time=bye.time,
        value=held,
        rank=rank.info.key.rank,
        gpu=device.gpu if device is not None and device.gpu else None,
        description=bye.exception,
        causes=tuple(causes),
        labels={"memory": "gpu"},
    )


def _of_host(node: Node, rank: Rank, now: float) -> Finding | None:
    key = rank.info.key
    killed = node.window("rank_oom_kill_timestamp_seconds", key.run, str(key.rank))
    if killed is None or not len(killed) or now - killed.time[-1] > 60.0 or killed.last < rank.info.started:
        return None
    bye = rank.goodbye
    if bye is not None and bye.end not in _GONE and bye.exit_code == 0:
        return None  # it lost a worker and finished all the same
    resident = node.window("rank_oom_kill_resident_bytes", key.run, str(key.rank))
    limit = node.window("rank_oom_kill_limit_bytes", key.run, str(key.rank))
    held = f" that held {gigabytes(resident.last)}" if resident is not None and len(resident) else ""
    if limit is not None and len(limit):
        whose = f", under its control group's limit of {gigabytes(limit.last)}"
    else:
        whose = ", of the whole node's memory" if held else ""  # a control group's count does not tell
    return Finding(
        f"the kernel killed a process of rank {key.rank}{held}: the host ran out of memory",
        step=rank.step,
        time=killed.last,
        value=resident.last if resident is not None and len(resident) else None,
        rank=key.rank,
        causes=(
            Cause(
                "the rank and its workers need more host memory than there is",
                f"the kernel's own word{whose}",
                "fewer DataLoader workers or a smaller prefetch_factor; do not hold the data set in each worker; "
                "raise the container's or job's memory limit",
            ),
        ),
        labels={"memory": "host"},
    )
