"""Why a loss does not fall."""

from __future__ import annotations

import numpy as np

from rankscope.agent.model import Cause
from rankscope.agent.rules._causes import learning_rate
from rankscope.agent.rules._causes.around import Around, figure


def causes(here: Around, never: bool) -> tuple[Cause | None, ...]:
    """Return why a loss stands still, most likely first; `never`: it has not moved since the start."""
    ended = here.recent("lr") == 0
    return (
        frozen(here),
        dead(here),
        vanishing(here),
        learning_rate.too_small(here) if never or ended or here.usual("update_ratio") is not None else None,
        oscillating(here),
        broken_data(here) if never else None,
        floor(here) if not (never or ended) else None,
    )


def frozen(here: Around) -> Cause | None:
    """Parameters do not change. Contradicted by updates of a usual size."""
    unchanged, ratio = here.usual("unchanged_fraction", 3), here.usual("update_ratio", 3)
    if (unchanged is None or unchanged < 0.5) and (ratio is None or ratio > 0):
        return None
    evidence = f"{unchanged:.0%} of the parameters do not change from step to step" if unchanged is not None else ""
    if ratio == 0:
        evidence += f"{', ' if evidence else ''}the size of the updates is 0"
    adapter = here.setting("lora", "adapter", "peft")
    fix = "check requires_grad, and that the optimiser holds the parameters of the model that runs"
    if adapter is not None:
        evidence += f"; {adapter[0]} is {adapter[1]}"
        fix += "; check that the adapters are enabled and trainable"
    return Cause("parameters are frozen", evidence, fix)


def dead(here: Around) -> Cause | None:
    """Activations are dead."""
    share = here.usual("dead_fraction", 5)
    if share is None or share < 0.5:
        return None
    return Cause(
        "activations are dead",
        f"{share:.0%} of the units give 0 for whole batches",
        "use LeakyReLU or GELU, a smaller learning rate, He initialisation; check the biases",
    )


def vanishing(here: Around) -> Cause | None:
    """The gradient does not reach the first layers."""
    first, last = here.usual("first_layer_grad_norm", 5), here.usual("last_layer_grad_norm", 5)
    norm = here.usual("grad_norm")
    if first is not None and norm is not None and first < 1e-3 * (last if last is not None else norm):
        of = f"{figure(last)} in the last" if last is not None else f"{figure(norm)} over all"
        evidence = f"the gradient norm is {figure(first)} in the first layer and {of}"
    elif norm is not None and norm < 1e-7:
        evidence = f"the gradient norm is {figure(norm)}"
    else:
        return None
    return Cause(
        "the gradient vanishes",
        evidence,
        "use ReLU-like activations, residual connections, normalisation layers or another initialisation",
    )


def oscillating(here: Around) -> Cause | None:
    """The learning rate is so large that the loss jumps about. Contradicted by small updates."""
    ratio, rate = here.usual("update_ratio"), here.recent("lr")
    if ratio is not None and ratio < 1e-3:
        return None
    losses = here.before("loss", 64)
    losses = losses[np.isfinite(losses)]
    if len(losses) < 16:
        return None
    swing = float(np.percentile(losses, 90) - np.percentile(losses, 10))
    if ratio is None and swing < 0.1 * abs(float(np.median(losses))):
        return None
    evidence = f"the loss swings by {figure(swing)} around {figure(float(np.median(losses)))}"
    if ratio is not None:
        evidence += f"; a step changes the weights by {figure(ratio)} of their size, 1e-3 is usual"
    goal = f" to about {figure(rate / 10)}" if rate else ""
    return Cause("the learning rate is too large", evidence, f"lower the learning rate 10 times{goal}")


def broken_data(here: Around) -> Cause | None:
    """Inputs and labels do not belong together."""
    losses = here.before("loss", 64)
    losses = losses[np.isfinite(losses)]
    if not len(losses):
        return None
    level = float(np.median(losses))
    evidence = f"the loss stands at {figure(level)}"
    if 0 < level < 20:
        evidence += f", what guessing among {np.exp(level):.0f} classes gives"
    norm = here.usual("grad_norm")
    if norm is not None:
        evidence += f", with a gradient norm of {figure(norm)}"
    return Cause(
        "inputs and labels do not belong together",
        evidence,
        "let the model overfit one batch; look at inputs and labels as the model gets them (shuffling, "
        "masks, tokenizer)",
    )


def floor(here: Around) -> Cause | None:
    """The run has learned what it can."""
    rate = here.recent("lr")
    evidence = "the loss fell in the beginning"
    if rate is not None:
        evidence += f"; the learning rate is {figure(rate)}"
    return Cause(
        "this model has learned what it can from this data",
        evidence,
        "stop here; else a larger model, other features, or another learning rate",
    )
