"""Why a loss went up: all at once, or step by step."""

from __future__ import annotations

import numpy as np

from rankscope.agent.model import Cause
from rankscope.agent.rules._causes import gradients, hardware, learning_rate
from rankscope.agent.rules._causes.around import Around, figure, names
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run


def causes(node: Node, run: Run | None, rank: Rank, step: int, time: float, lasting: bool = False) -> tuple[Cause, ...]:
    """Return why the loss of a rank may have gone up at a step, most likely first; `lasting`: and stayed there."""
    here = Around(node, run, rank, step, time)
    rising = learning_rate.rising(here)
    exploding = gradients.exploding(here)
    found = [
        hardware.fault(here),
        restart(here),
        None if lasting else bad_batch(here),
        learning_rate.too_large(here) if rising else None,
        exploding,
        None if rising else learning_rate.too_large(here),
        other_data(here),
    ]
    return tuple(cause for cause in found if cause is not None)


def bad_batch(here: Around) -> Cause | None:
    """One batch is bad. Contradicted where most ranks, each with its own batch, went up together."""
    values = here.over_ranks("loss")
    usual = here.usual("loss")
    at = here.at("loss")
    if at is None or usual is None:
        return None
    fix = (
        f"look at the batch of step {here.step}: wrong labels, unscaled inputs, a broken file; clip "
        "gradients, so that one batch cannot do much"
    )
    if len(values) > 1:
        up = sorted(rank for rank, value in values.items() if value - usual > (at - usual) / 2)
        if len(up) > len(values) / 2:
            return None
        others = float(np.median([value for rank, value in values.items() if rank not in up]))
        return Cause("a bad batch", f"only {names(up)} went up; the others had {figure(others)} at this step", fix)
    before = here.before("grad_norm", 8)
    series = here.rank.role("loss")
    evidence = f"out of the blue: the loss was {figure(usual)} in the median before"
    found = gradients.growth(here)
    if found is not None and len(before) and float(before[-1]) < gradients.MANY_TIMES * found[0]:
        evidence += f", and the gradient norm one step before was {figure(float(before[-1]))}, as usual"
    if series is not None and len(after := series.value[series.step > here.step][:3]):
        if float(np.median(after)) - usual > (at - usual) / 2:
            return Cause("bad batches", f"{evidence}; it stayed up at the next {len(after)} points", fix)
        evidence += f"; it was back at {figure(float(after[0]))} at the next point"
    return Cause("a bad batch", evidence, fix)


def restart(here: Around) -> Cause | None:
    """The run came back from a checkpoint without all of its state."""
    for attempt, at, _ in here.rank.restarts:
        if 0 <= here.step - at <= 50:
            return Cause(
                "the restart lost state",
                f"attempt {attempt} began at step {at}, {here.step - at} steps before",
                "restore optimiser, scheduler, loss scale and the position in the data with the weights",
            )
    return None


def other_data(here: Around) -> Cause | None:
    """The data changed. Contradicted where one rank alone went up."""
    values = here.over_ranks("loss")
    usual, at = here.usual("loss"), here.at("loss")
    if len(values) < 2 or usual is None or at is None:
        return None
    up = [rank for rank, value in values.items() if value - usual > (at - usual) / 2]
    if len(up) <= len(values) / 2:
        return None
    return Cause(
        "the data changed for all ranks",
        f"{len(up)} of {len(values)} ranks went up at the same step",
        "check what the loader gives from this step on: a new shard, a curriculum, lost shuffling",
    )
