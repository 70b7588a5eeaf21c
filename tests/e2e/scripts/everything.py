"""A short training that logs everything that can be logged."""

from __future__ import annotations

import torch
from torch import nn

from rankscope import sdk


def main() -> None:
    sdk.init(
        project="pages", name="everything", config={"lr": 1e-2, "model": {"layers": 3, "dropout": 0.1}, "amp": False}
    )
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    sdk.watch(model, optimizer, every=10)
    sdk.graph("model", model, torch.randn(4, 16))
    for step in range(60):
        x = torch.randn(256, 16)
        with sdk.phase("forward"):
            loss = nn.functional.cross_entropy(model(x), (x.sum(1) > 0).long())
        with sdk.phase("backward"):
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        sdk.log(train_loss=float(loss.detach()))
        if step % 20 == 0:
            sdk.image("samples/noise", x[:, :, None].expand(-1, -1, 3).sigmoid())
            sdk.text("samples/text", f"**Step {step}** of a `small` training")
            sdk.histogram("inputs", x)
            sdk.table("predictions", {"first": x[:5, 0].tolist(), "label": ["yes", "no", "yes", "no", "yes"]})
    sdk.artifact("script", __file__)
    sdk.finish()


if __name__ == "__main__":
    main()
