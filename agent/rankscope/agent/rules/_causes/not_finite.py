"""Why a loss or a gradient is not a finite number."""

from __future__ import annotations

import math

import numpy as np

from rankscope.agent.model import Cause
from rankscope.agent.rules._causes import gradients, hardware, learning_rate
from rankscope.agent.rules._causes.around import Around, figure, names
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run


def causes(node: Node, run: Run | None, rank: Rank, step: int, time: float, value: float) -> tuple[Cause, ...]:
    """Return why the loss of a rank may have become `value` at a step, most likely first."""
    here = Around(node, run, rank, step, time)
    exploding = gradients.exploding(here)
    losses = here.before("loss", 48)
    losses = losses[np.isfinite(losses)]
    climbing = len(losses) >= 12 and float(np.median(losses[-4:])) > float(np.median(losses[:-4])) + 3 * _spread(
        losses[:-4]
    )
    calm = not exploding and not climbing
    apart = _ranks_apart(here)
    large = learning_rate.too_large(here) if not apart or not calm else None
    found = [
        hardware.fault(here),
        _bad_batch(here, apart) if apart else None,
        exploding,
        large if not calm or learning_rate.rising(here) else None,
        _half_precision(here),
        None if apart else _bad_batch(here, apart),
        _division(here) if calm else None,
        large if calm and not learning_rate.rising(here) else None,
    ]
    return tuple(cause for cause in found if cause is not None)


def _spread(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
    low, high = np.percentile(values, [25, 75])
    return float(high - low) / 1.349


def _half_precision(here: Around) -> Cause | None:
    """An overflow of half precision. Contradicted by a run that says it computes in bf16 or fp32."""
    precision = here.precision
    if precision in ("bf16", "fp32"):
        return None
    scale = here.recent("grad_scale")
    if precision is None and scale is None:
        return None
    evidence = "the run computes in half precision, whose largest number is 65,504"
    if scale is not None:
        evidence += f"; the loss scale was {figure(scale)}"
    return Cause(
        "overflow in half precision",
        evidence,
        "compute in bf16; else use dynamic loss scaling, and keep softmax and losses in fp32",
    )


def _ranks_apart(here: Around) -> str:
    """Say which ranks had it where others had not, "" else. Ranks that share weights differ in their data alone."""
    values = here.over_ranks("loss")
    bad = sorted(rank for rank, value in values.items() if not math.isfinite(value))
    good = len(values) - len(bad)
    if not bad or not good:
        return ""
    others = "other rank" if good == 1 else "other ranks"
    return f"at step {here.step} only {names(bad)} had it; {good} {others} had a finite loss"


def _bad_batch(here: Around, apart: str) -> Cause | None:
    """One batch is bad. Contradicted where every rank has it, or where it goes on for several steps."""
    series = here.rank.role("loss")
    if apart:
        evidence = apart
    elif series is not None and len(after := series.value[series.step > here.step][:4]) and np.isfinite(after).all():
        evidence = f"the loss at the next {'step' if len(after) == 1 else f'{len(after)} steps'} was finite again"
    else:
        return None
    return Cause(
        "a bad batch",
        evidence,
        f"look at the batch of step {here.step} for empty, huge or NaN inputs and labels; skip steps whose "
        "loss is not finite",
    )


def _division(here: Around) -> Cause | None:
    """A logarithm of or a division by zero: out of the blue, with gradients as usual just before."""
    found = gradients.growth(here)
    losses = here.before("loss", 4)
    if found is None and not len(losses):
        return None
    last = float(losses[-1]) if len(losses) else math.nan
    evidence = f"the loss was {figure(last)} one step before, with no rise" if math.isfinite(last) else ""
    before = here.before("grad_norm", 1)
    if found is not None and len(before) and math.isfinite(float(before[-1])):
        evidence += (
            f"{'; ' if evidence else ''}the gradient norm was {figure(float(before[-1]))}, its median "
            f"{figure(found[0])}"
        )
    if not evidence:
        return None
    return Cause(
        "a logarithm of zero or a division by zero",
        evidence,
        "add an epsilon in log, sqrt, norms and divisions (means over masks that may be empty, above "
        "all); find the place with torch.autograd.detect_anomaly",
    )
