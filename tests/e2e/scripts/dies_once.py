"""Two ranks that meet; one dies at once, and comes later than the other when both are started again."""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist


def main() -> None:
    again = os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"
    last = os.environ["RANK"] == "1"
    if again and last:
        time.sleep(2)  # the other rank looks for this one's address before there is one
    dist.init_process_group("gloo")
    if last and not again:
        os.kill(os.getpid(), signal.SIGKILL)
    total = torch.ones(1)
    dist.all_reduce(total)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
