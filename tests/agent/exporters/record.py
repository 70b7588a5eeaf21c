"""What the tests of the record share: ranks, blocks, and TensorBoard's own reading of what was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rankscope.agent.model import Batch, Block, Column, RankInfo, RankKey


def rank(
    number: int = 0, *, session: int = 7, attempt: int = 0, node_rank: int = 0, config: dict[str, object] | None = None
) -> RankInfo:
    return RankInfo(
        RankKey("project", "run-1", number),
        session,
        "id",
        name="run",
        attempt=attempt,
        world_size=2,
        node_rank=node_rank,
        started=1_790_000_000.0 + attempt,
        config=config or {},
    )


def block(
    steps: Sequence[int], values: Sequence[Sequence[float]], names: Sequence[str], *, late: bool = False
) -> Block:
    columns = tuple(Column(name) for name in names)
    at = 1_790_000_000.0 + np.arange(len(steps), dtype=np.float64) * 0.25
    return Block(columns, np.array(steps, np.int64), at, np.array(values, np.float64), late)


def losses(first: int, count: int) -> Batch:
    """Return a batch in which record n holds step n and loss n / 8."""
    steps = range(first, first + count)
    return Batch(first, first + count - 1, (block(steps, [[n / 8] for n in steps], ["loss"]),))


def read(folder: Path) -> EventAccumulator:
    """Return what TensorBoard itself reads of a folder, with nothing thinned out."""
    everything = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0, "compressedHistograms": 1, "audio": 0}
    found = EventAccumulator(str(folder), size_guidance=everything)
    found.Reload()
    return found


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    """Return steps and values of a scalar in the order in which they were written."""
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]
