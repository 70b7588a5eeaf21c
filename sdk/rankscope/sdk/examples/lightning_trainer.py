# pyright: basic, reportMissingImports=false
"""A small classifier trained with Lightning; a logger and a callback are all that is added.

python lightning_trainer.py --steps 50 --devices 2
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rankscope.sdk.integrations.lightning import RankscopeCallback, RankscopeLogger


class Parity(lightning.LightningModule):  # type: ignore[misc]
    """Learns whether the sum of some numbers is positive."""

    def __init__(self, width: int = 64, lr: float = 1e-2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 2))

    def training_step(self, batch: Any, _index: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, _index: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams["lr"])


def data(size: int) -> DataLoader[tuple[Tensor, ...]]:
    x = torch.randn(size, 16, generator=torch.Generator().manual_seed(size))
    return DataLoader(TensorDataset(x, (x.sum(1) > 0).long()), batch_size=32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    trainer = lightning.Trainer(
        max_steps=options.steps,
        accelerator="auto" if torch.cuda.is_available() else "cpu",
        devices=options.devices,
        logger=RankscopeLogger(project="examples", name="parity"),
        callbacks=[RankscopeCallback()],
        log_every_n_steps=5,
        val_check_interval=20,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Parity(), data(4000), data(256))


if __name__ == "__main__":
    main()
