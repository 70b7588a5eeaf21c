# pyright: basic
"""Trains a small transformer on English text with plain torchrun and DDP, on GPUs or CPUs; copy it and go on from here.

    torchrun --nproc-per-node 2 torchrun_ddp.py --steps 300

The text is the help that ships inside Python itself (`pydoc_data.topics`), read byte by byte: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import math
import os
import pydoc_data.topics

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from rankscope import sdk
from rankscope.sdk.examples import faults

CONTEXT = 64  # bytes that the model sees at once


class Text(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pieces of the text: each byte's target is the byte after it."""

    def __init__(self, data: bytes) -> None:
        self.data = torch.frombuffer(bytearray(data), dtype=torch.uint8).long()

    def __len__(self) -> int:
        return (len(self.data) - 1) // CONTEXT

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        piece = self.data[index * CONTEXT : index * CONTEXT + CONTEXT + 1]
        return piece[:-1], piece[1:]


class Transformer(nn.Module):
    """A causal transformer over bytes."""

    def __init__(self, width: int = 96, layers: int = 2, heads: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.byte = nn.Embedding(256, width)
        self.place = nn.Embedding(CONTEXT, width)
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)
        self.head = nn.Linear(width, 256)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.byte(x) + self.place(torch.arange(x.shape[1], device=x.device))
        # No buffer: DDP would broadcast it, and every forward would wait for the slowest rank, and hide it.
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device)
        logits: torch.Tensor = self.head(self.blocks(hidden, mask=mask, is_causal=True))
        return logits


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[tuple[torch.Tensor, torch.Tensor]], device: torch.device) -> float:
    model.eval()
    losses = [loss_of(model, x.to(device), y.to(device)).item() for x, y in loader]
    model.train()
    return sum(losses) / len(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16, help="pieces of text per rank and step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=30, help="steps")
    parser.add_argument("--eval-every", type=int, default=50, help="steps")
    parser.add_argument("--project", default="examples")
    parser.add_argument("--name", default="torchrun-ddp")
    parser.add_argument("--fault", default="none", choices=faults.NAMES, help="let something really go wrong")
    args = parser.parse_args()

    dist.init_process_group()  # gloo on CPU, NCCL on GPUs
    rank, local_rank = dist.get_rank(), int(os.environ["LOCAL_RANK"])
    device = torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 2) // int(os.environ["LOCAL_WORLD_SIZE"])))
    torch.manual_seed(0)

    sdk.init(project=args.project, name=args.name, config=vars(args))

    text = "\n".join(pydoc_data.topics.topics.values()).encode()
    split = int(len(text) * 0.9)
    fault = faults.Fault(args.fault, rank=rank, steps=args.steps)
    train = Text(text[: fault.training_bytes(split)])
    sampler: DistributedSampler[tuple[torch.Tensor, torch.Tensor]] = DistributedSampler(train, seed=0)
    loader = DataLoader(train, args.batch_size, sampler=sampler, drop_last=True)
    validation = DataLoader(Text(text[split : split + 64 * CONTEXT]), batch_size=64)

    model = DistributedDataParallel(Transformer().to(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)

    def schedule(step: int) -> float:
        """Linear warm-up, then a cosine down to a tenth."""
        if step < args.warmup:
            return float((step + 1) / args.warmup)
        done = (step - args.warmup) / max(1, args.steps - args.warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, done)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step) * fault.lr_factor(step))

    step = epoch = 0
    while step < args.steps:
        sampler.set_epoch(epoch)
        epoch += 1
        for x, y in sdk.batches(fault.loader(loader)):
            x, y = fault.batch(step, x.to(device), y.to(device))
            with sdk.phase("forward"):
                fault.before_forward(step)
                loss = loss_of(model, x, y)
            with sdk.phase("backward"):
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
            with sdk.phase("optimizer"):
                norm = nn.utils.clip_grad_norm_(model.parameters(), fault.clip(1.0))
                if torch.isfinite(norm):  # a bad batch costs one step, not the weights
                    optimizer.step()
                scheduler.step()
            scalars = {"loss": loss, "lr": scheduler.get_last_lr()[0], "grad_norm": norm}
            if rank == 0 and (step + 1) % args.eval_every == 0:
                with sdk.phase("eval"):
                    scalars["val_loss"] = evaluate(model.module, validation, device)
            sdk.log(scalars, step=step)
            step += 1
            if step >= args.steps:
                break

    sdk.finish()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
