# pyright: basic, reportMissingImports=false
"""A small language model trained with the Hugging Face Trainer; `report_to="rankscope"` is all that is added.

torchrun --nproc-per-node 2 hf_trainer.py --steps 50
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import rankscope.sdk.integrations.transformers  # noqa: F401 (makes `report_to="rankscope"` known)


class Counting(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sentences that count upwards from a random number, modulo 64: something that can be learned in seconds."""

    def __init__(self, size: int) -> None:
        starts = torch.randint(0, 64, (size, 1), generator=torch.Generator().manual_seed(size))
        self.ids = (starts + torch.arange(16)) % 64

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=64, n_layer=2, n_head=2))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            run_name="counting",
            report_to="rankscope",
            max_steps=options.steps,
            per_device_train_batch_size=16,
            learning_rate=3e-3,
            logging_steps=5,
            eval_strategy="steps",
            eval_steps=20,
            save_strategy="no",
            disable_tqdm=True,
            use_cpu=not torch.cuda.is_available(),
        )
        Trainer(model=model, args=arguments, train_dataset=Counting(2000), eval_dataset=Counting(64)).train()


if __name__ == "__main__":
    main()
