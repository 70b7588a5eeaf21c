"""Small models that really train on a CPU in seconds, and the tasks that they train on."""

from __future__ import annotations

import math
import pydoc_data.topics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = tuple[Tensor, Tensor]


@dataclass
class Task:
    """A model with its data: `batch(n)` gives training samples, `held_out` what it is validated on."""

    model: nn.Module
    batch: Callable[[int], Batch]
    held_out: Batch
    loss: Callable[[Tensor, Tensor], Tensor]
    rate: float  # a learning rate that suits it with Adam


def mixture(
    seed: int, classes: int = 10, width: int = 64, noise: float = 0.0, samples: int = 0, hard: float = 1.6
) -> Task:
    """Classification of Gaussian clusters by an MLP; `samples` limits the training set, `noise` flips labels."""
    torch.manual_seed(seed)
    centres = torch.randn(classes, 32)

    def draw(n: int) -> Batch:
        labels = torch.randint(classes, (n,))
        inputs = centres[labels] + hard * torch.randn(n, 32)
        flip = torch.rand(n) < noise
        return inputs, torch.where(flip, torch.randint(classes, (n,)), labels)

    fixed = draw(samples) if samples else None

    def batch(n: int) -> Batch:
        if fixed is None:
            return draw(n)
        at = torch.randint(samples, (n,))
        return fixed[0][at], fixed[1][at]

    model = nn.Sequential(
        nn.Linear(32, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )
    return Task(model, batch, draw(512), functional.cross_entropy, 2e-3)


def sigmoids(seed: int, depth: int) -> Task:
    """The same clusters before a deep stack of sigmoids, whose first layers get no gradient."""
    task = mixture(seed)
    layers: list[nn.Module] = [nn.Linear(32, 48)]
    for _ in range(depth):
        layers += [nn.Sigmoid(), nn.Linear(48, 48)]
    task.model = nn.Sequential(*layers, nn.Sigmoid(), nn.Linear(48, 10))
    return task


def regression(seed: int, scale: float = 1.0) -> Task:
    """A noisy linear relation with a network that is larger than it need be; `scale` makes losses huge or tiny."""
    torch.manual_seed(seed)
    truth = torch.randn(16, 1)

    def batch(n: int) -> Batch:
        inputs = torch.randn(n, 16)
        return inputs, inputs @ truth + torch.randn(n, 1)

    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    return Task(model, batch, batch(512), lambda out, goal: scale * functional.mse_loss(out, goal), 5e-3)


def density(seed: int) -> Task:
    """A Gaussian whose mean and spread are learned: its negative log-likelihood falls far below 0."""
    torch.manual_seed(seed)
    centre = torch.randn(16)

    class Gaussian(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(16))
            self.log_scale = nn.Parameter(torch.zeros(16))

        def forward(self, inputs: Tensor) -> Tensor:
            standard = (inputs - self.mean) * torch.exp(-self.log_scale)
            return (0.5 * standard**2 + self.log_scale + 0.919).sum(1)

    def batch(n: int) -> Batch:
        return centre + 0.02 * torch.randn(n, 16), torch.zeros(n)

    return Task(Gaussian(), batch, batch(256), lambda out, _: out.mean(), 1e-2)


class _Characters(nn.Module):
    def __init__(self, symbols: int, kind: str, width: int = 48) -> None:
        super().__init__()
        self.kind = kind
        self.embed = nn.Embedding(symbols, width)
        if kind == "transformer":
            self.place = nn.Embedding(32, width)
            layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, batch_first=True, norm_first=True)
            self.body: nn.Module = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        else:
            self.body = (
                nn.GRU(width, width, batch_first=True) if kind == "gru" else nn.RNN(width, width, batch_first=True)
            )
        self.head = nn.Linear(width, symbols)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.embed(inputs)
        if self.kind == "transformer":
            length = inputs.shape[1]
            mask = nn.Transformer.generate_square_subsequent_mask(length)
            hidden = self.body(hidden + self.place(torch.arange(length)), mask=mask, is_causal=True)
        else:
            hidden, _ = self.body(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def text(seed: int, kind: str, samples: int = 0) -> Task:
    """The next character of the English text that ships inside Python; `kind`: transformer, gru or rnn."""
    torch.manual_seed(seed)
    written = "".join(pydoc_data.topics.topics.values())[:200_000]
    symbols = sorted(set(written))
    codes = torch.tensor([symbols.index(letter) for letter in written])
    split = len(codes) * 9 // 10
    end = samples if samples else split

    def take(n: int, low: int, high: int) -> Batch:
        at = torch.randint(low, high - 33, (n,))
        rows = torch.stack([codes[i : i + 33] for i in at])
        return rows[:, :-1], rows[:, 1:]

    def loss(out: Tensor, goal: Tensor) -> Tensor:
        return functional.cross_entropy(out.flatten(0, 1), goal.flatten())

    return Task(_Characters(len(symbols), kind), lambda n: take(n, 0, end), take(64, split, len(codes)), loss, 3e-3)


def schedule(kind: str, steps: int) -> Iterator[float]:
    """Yield the factor of the learning rate at each step."""
    warm = max(1, steps // 20)
    for step in range(steps):
        up = min(1.0, (step + 1) / warm)
        if kind == "constant":
            yield 1.0
        elif kind == "cosine":
            yield up * 0.5 * (1 + math.cos(math.pi * step / steps))
        elif kind == "drops":
            yield 0.1 ** (step // max(1, steps // 3))
        elif kind == "restarts":
            period = max(1, steps // 4)
            yield 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step % period) / period))
        else:
            yield up * (1 - step / steps)
