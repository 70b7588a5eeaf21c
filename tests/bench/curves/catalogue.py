"""The runs: well ones that look odd, and ones with a fault that is really there, over several seeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from . import models
from .train import Plan


def label(kind: str, onset: int, latest: int, optional: bool = False) -> dict[str, object]:
    return {"kind": kind, "onset": onset, "latest_ok": latest} | ({"optional": True} if optional else {})


def flat(onset: int, end: int) -> list[dict[str, object]]:
    """A run that has converged may be called a plateau."""
    return [label("loss_plateau", onset, end, True)]


def healthy(seed: int) -> Iterator[Plan]:
    rng = random.Random(seed)
    for kind in ("constant", "cosine", "drops", "restarts", "linear"):
        yield Plan(f"h-mixture-{kind}-{seed}", models.mixture(seed), 1200, schedule=kind, labels=flat(300, 1200))
    yield Plan(f"h-sgd-{seed}", models.mixture(seed), 1200, schedule="cosine", optimizer="sgd", labels=flat(300, 1200))
    yield Plan(f"h-noise-{seed}", models.mixture(seed, noise=0.3), 1500, labels=flat(300, 1500))
    yield Plan(f"h-batch1-{seed}", models.mixture(seed, hard=1.0), 3000, batch=1, rate=0.2, labels=flat(600, 3000))
    yield Plan(
        f"h-batch4-long-{seed}",
        models.mixture(seed),
        6000,
        batch=4,
        rate=0.3,
        schedule="cosine",
        labels=flat(1500, 6000),
    )
    yield Plan(f"h-regression-{seed}", models.regression(seed), 1200, labels=flat(200, 1200))
    yield Plan(f"h-huge-{seed}", models.regression(seed, 1e6), 1000, labels=flat(200, 1000))
    yield Plan(f"h-tiny-{seed}", models.regression(seed, 1e-6), 1000, clip=None, rate=1, labels=flat(200, 1000))
    yield Plan(f"h-negative-{seed}", models.density(seed), 1500, labels=flat(600, 1500))
    yield Plan(f"h-transformer-{seed}", models.text(seed, "transformer"), 500, schedule="cosine", labels=flat(400, 500))
    yield Plan(f"h-gru-{seed}", models.text(seed, "gru"), 500, labels=flat(400, 500))
    yield Plan(f"h-every20-{seed}", models.mixture(seed), 6000, every=20, batch=8, rate=0.3, labels=flat(1500, 6000))
    yield Plan(f"h-accumulate-{seed}", models.mixture(seed), 500, accumulate=4, batch=8, labels=flat(250, 500))
    yield Plan(f"h-scaler-{seed}", models.mixture(seed), 1200, scaler=True, labels=flat(300, 1200))
    pauses = {step: rng.uniform(8, 14) for step in range(100, 1200, 100)}
    yield Plan(f"h-pauses-{seed}", models.mixture(seed), 1200, pauses=pauses, labels=flat(300, 1200))
    yield Plan(f"h-restart-{seed}", models.mixture(seed), 900, back={150: 40, 500: 350}, labels=flat(300, 900))
    yield Plan(f"h-memorised-{seed}", models.mixture(seed, samples=200), 1500, evaluate=0, labels=flat(300, 1500))

    def short(step: int, inputs: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        return (inputs[:2], goal[:2]) if step % 60 == 59 else (inputs, goal)

    yield Plan(f"h-lastbatch-{seed}", models.mixture(seed), 1500, edit_batch=short, labels=flat(300, 1500))

    def even(step: int, rng: random.Random) -> list[float]:
        return [0.2 * 2.718 ** (0.15 * rng.gauss(0, 1)) for _ in range(8)]

    yield Plan(f"h-ranks-{seed}", models.mixture(seed), 400, ranks=even, labels=flat(200, 400))


def faulty(seed: int) -> Iterator[Plan]:
    rng = random.Random(seed)
    at = rng.randrange(300, 700)

    def scaled(step: int, inputs: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        return (inputs * -40, goal) if step == at else (inputs, goal)

    def shuffled(step: int, inputs: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        return (inputs, goal[torch.randperm(len(goal))]) if at <= step < at + 3 else (inputs, goal)

    after = [label("loss_plateau", 200, 1200, True)]
    spike = [label("loss_spike", at, at + 20), *after]
    yield Plan(f"f-scaled-{seed}", models.mixture(seed), 1000, edit_batch=scaled, labels=spike)
    yield Plan(f"f-shuffled-{seed}", models.mixture(seed, hard=1.2), 1000, edit_batch=shuffled, labels=spike)
    nan = [label("nan", at, at + 20), *after]
    yield Plan(
        f"f-div0-{seed}",
        models.mixture(seed),
        1000,
        edit_loss=lambda s, x: x * (x - x) / (x - x) if s == at or s > at + 5 else x,
        labels=nan,
    )
    wild = [
        label("divergence", 0, 400),
        *(
            label(k, 0, 999, True)
            for k in (
                "loss_plateau",
                "oscillation",
                "loss_spike",
                "exploding_gradient",
                "frozen_parameters",
                "dead_activations",
                "vanishing_gradient",
            )
        ),
    ]
    yield Plan(f"f-lr300-{seed}", models.mixture(seed), 600, rate=300, clip=None, optimizer="sgd", labels=wild)
    stuck = [
        label("loss_plateau", 0, 1999),
        *(label(k, 0, 1999, True) for k in ("frozen_parameters", "vanishing_gradient")),
    ]
    yield Plan(f"f-lrlow-{seed}", models.mixture(seed), 1500, rate=1e-5, labels=stuck)
    yield Plan(f"f-lrlow-text-{seed}", models.text(seed, "gru"), 600, rate=1e-5, labels=stuck)

    def broken(step: int, inputs: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, goal[torch.randperm(len(goal))]

    yield Plan(
        f"f-labels-{seed}",
        models.mixture(seed),
        1500,
        edit_batch=broken,
        labels=[label("loss_plateau", 0, 1499), label("overfitting", 0, 1499, True)],
    )

    def freeze(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step >= at:
            for group in optimizer.param_groups:
                group["lr"] = 0.0 if step > at + 10**6 else group["lr"]
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            next(iter(reversed(list(model.parameters())))).requires_grad_(True)

    frozen = [
        label("frozen_parameters", at, at + 400),
        *(label(k, at, 1999, True) for k in ("loss_plateau", "vanishing_gradient")),
    ]
    yield Plan(f"f-frozen-{seed}", models.mixture(seed), 1200, edit_model=freeze, labels=[*frozen, *after])
    task = models.mixture(seed)
    with torch.no_grad():
        for module in task.model.modules():
            if isinstance(module, nn.Linear) and module.out_features == 64:
                module.bias.fill_(-30.0)
    dead = [
        label("dead_activations", 0, 300),
        *(label(k, 0, 1999, True) for k in ("loss_plateau", "vanishing_gradient", "frozen_parameters")),
    ]
    yield Plan(f"f-dead-{seed}", task, 800, labels=dead)
    gone = [label("vanishing_gradient", 0, 500), label("loss_plateau", 0, 1999, True)]
    yield Plan(f"f-vanish-{seed}", models.sigmoids(seed, 10), 800, optimizer="sgd", labels=gone)
    over = [
        label("overfitting", 150, 2999),
        *(label(k, 100, 2999, True) for k in ("loss_plateau", "vanishing_gradient")),
    ]
    yield Plan(f"f-overfit-{seed}", models.mixture(seed, samples=60, hard=2.0), 1500, evaluate=25, labels=over)
    yield Plan(f"f-overfit-text-{seed}", models.text(seed, "gru", 800), 700, evaluate=25, labels=over)
    blow = [
        label("exploding_gradient", 0, 899),
        *(label(k, 0, 999, True) for k in ("nan", "loss_spike", "divergence", "oscillation", "loss_plateau")),
    ]

    def swell(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "weight_hh" in name:
                    parameter.mul_(1.008)

    yield Plan(
        f"f-explode-{seed}", models.text(seed, "rnn"), 500, optimizer="sgd", clip=None, edit_model=swell, labels=blow
    )
    edge = [
        label("oscillation", 0, 1499),
        *(
            label(k, 0, 1499, True)
            for k in ("loss_spike", "divergence", "exploding_gradient", "loss_plateau", "dead_activations")
        ),
    ]
    yield Plan(
        f"f-edge-{seed}",
        models.mixture(seed, samples=256, hard=1.0),
        1200,
        batch=256,
        rate=15,
        optimizer="sgd",
        clip=None,
        momentum=0.95,
        labels=edge,
    )

    def timing(data: float, host: float) -> Callable[[int, random.Random], dict[str, float]]:
        def parts(step: int, rng: random.Random) -> dict[str, float]:
            slow = step >= at
            compute = 0.2 * 2.718 ** (0.1 * rng.gauss(0, 1))
            wait, rest = (data if slow else 0.01), (host if slow else 0.02)
            whole = compute + wait + rest
            return {
                "step_s": whole,
                "data_s": wait,
                "forward_s": compute / 3,
                "backward_s": compute / 2,
                "gpu_util": 100 * compute / whole,
                "samples_per_sec": 32 / whole,
            }

        return parts

    late = [label("loss_plateau", 200, 1999, True), label("low_gpu_utilisation", at, 1999, True)]
    yield Plan(
        f"f-loader-{seed}",
        models.mixture(seed),
        1000,
        timing=timing(0.5, 0.02),
        labels=[label("data_bottleneck", at, at + 300), *late],
    )
    yield Plan(
        f"f-host-{seed}",
        models.mixture(seed),
        1000,
        timing=timing(0.01, 0.6),
        labels=[label("low_gpu_utilisation", at, at + 300), *late],
    )

    def uneven(steady: bool) -> object:
        def seconds(step: int, rng: random.Random) -> list[float]:
            found = [0.2 * 2.718 ** (0.12 * rng.gauss(0, 1)) for _ in range(8)]
            if step >= 100 and (steady or step % 3 == 0):
                found[5] *= 1.6 if steady else 2.2
            return found

        return seconds

    lag = [label("straggler", 100, 250), *flat(150, 999)]
    yield Plan(f"f-straggler-{seed}", models.mixture(seed), 400, ranks=uneven(True), labels=lag)  # type: ignore[arg-type]
    yield Plan(f"f-straggler-now-and-then-{seed}", models.mixture(seed), 400, ranks=uneven(False), labels=lag)  # type: ignore[arg-type]
    yield Plan(
        f"f-hang-{seed}",
        models.mixture(seed),
        700,
        pauses={350: 900.0},
        labels=[label("hang", 349, 352), label("low_gpu_utilisation", 340, 360, True), *flat(200, 999)],
    )
