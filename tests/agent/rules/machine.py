"""A node that tests fill second by second, for rules that judge what was sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from rankscope.agent.model import Batch, Block, Event, Finding, Metric, RankInfo, RankKey, Sample, Verdict
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run

Key: TypeAlias = "tuple[str, ...]"
"""A metric's name and its label values."""

UUID = "GPU-0"
GPU = ("0", UUID)


def samples(values: Mapping[Any, float]) -> list[Sample]:
    """Make samples of `(metric, label value, …)`: only their names and label values matter to rules."""
    names = {
        "gpu_info": ("gpu", "uuid"),
        "mig_info": ("gpu", "uuid"),
        "gpu_process_memory_bytes": ("gpu", "uuid", "run", "rank"),
    }
    found: list[Sample] = []
    for (name, *labels), value in values.items():
        names_of = names.get(name) or tuple(f"label{i}" for i in range(len(labels)))
        found.append(
            Sample(Metric(name, "info" if name.endswith("_info") else "gauge", "", names_of), value, tuple(labels))
        )
    return found


class Machine:
    """One GPU, unless the values say otherwise, and rank 0 of `exp-1` on it."""

    def __init__(self) -> None:
        self.node = Node("node-1")
        self.now = 0.0
        self.step = 0
        info = RankInfo(RankKey("p", "exp-1", 0), 1, "id", device_uuids=(UUID,))
        self.rank: Rank = self.node.attach(info, 0.0)

    @property
    def run(self) -> Run:
        return self.node.runs["p", "exp-1"]

    def live(
        self,
        seconds: int,
        values: Callable[[float], Mapping[Any, float]],
        steps_per_second: float = 0,
        every: float = 1.0,
        sampler: str = "gpu",
    ) -> Machine:
        """Let time pass; `values(t)` is what is sampled at second `t` of it."""
        for i in range(int(seconds / every)):
            self.now += every
            own = {("gpu_up", *GPU): 1.0, ("gpu_info", *GPU): 1.0} if sampler == "gpu" else {}
            self.node.observe(sampler, samples({**own, **values(i * every)}), self.now)
            if steps_per_second:
                first, self.step = self.step, self.step + int(steps_per_second * every)
                step = np.arange(first, self.step)
                time = np.linspace(self.now - every, self.now, len(step), endpoint=False)
                self.rank.apply(Batch(0, 0, (Block((), step, time, np.empty((len(step), 0))),)), self.now)
            else:
                self.rank.last_seen = self.now
        return self

    def say(self, event: Event) -> Machine:
        self.rank.apply(Batch(0, 0, (), (event,)), self.now)
        return self


def findings(verdict: Verdict) -> list[Finding]:
    assert isinstance(verdict, tuple), verdict
    return list(verdict)
