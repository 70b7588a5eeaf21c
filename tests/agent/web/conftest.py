"""A web application over a node of known state."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import httpx
import numpy as np
import pytest

from rankscope.agent.alerts.silences import Silences
from rankscope.agent.exporters.prometheus import Prometheus
from rankscope.agent.model import Batch, Block, Column, Metric, RankInfo, RankKey, Sample, Stacks
from rankscope.agent.runs import metrics
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node, Run
from rankscope.agent.stacks import Whereabouts
from rankscope.agent.telemetry import Telemetry
from rankscope.agent.web.app import View, create

NOW = 1_790_000_000.0
RUN = "exp-1-0a1b2c3d"


class Alerts:
    """The alert engine as far as the web needs it: one alert, and the real silences."""

    def __init__(self) -> None:
        self.silences = Silences()

    def recent(self) -> list[dict[str, object]]:
        return []

    def active(self) -> list[dict[str, object]]:
        return [{"labels": {"alertname": "LossNaN", "run": RUN}, "status": "firing", "value": float("nan")}]


class Agent:
    """What the application is told to show."""

    def __init__(self, runs_dir: Path) -> None:
        self.node = Node("host-a")
        self.alerts = Alerts()
        self.ready = True
        self.refusal: str | None = None
        self.reloads = 0
        self.now = NOW
        self._prometheus = Prometheus(hostname="host-a")
        self.view = View(
            node=self.node,
            alerts=self.alerts,
            telemetry=Telemetry(started=NOW - 100),
            runs_dir=runs_dir,
            render=self._render,
            reload=self._reload,
            ready=lambda: self.ready,
            where=self._where,
            now=lambda: self.now,
        )
        self.application = create(self.view)

    async def _where(self, run: Run, ranks: Collection[int]) -> list[Whereabouts]:
        asked = [rank for number, rank in run.ranks.items() if not ranks or number in ranks]
        return [Whereabouts(rank, Stacks(f"rank {rank.info.key.rank} is here")) for rank in asked]

    def _render(self, accept: str) -> tuple[bytes, str]:
        return self._prometheus.render(metrics.samples(self.node, self.now), accept)

    def _reload(self) -> str | None:
        self.reloads += 1
        return self.refusal

    def attach(self, rank: int = 0, config: dict[str, object] | None = None) -> Rank:
        key = RankKey("demo", RUN, rank)
        info = RankInfo(key, rank + 1, "run-7", "exp-1", local_rank=rank, world_size=2, config=config or {})
        return self.node.attach(info, self.now)

    def log(self, rank: Rank, loss: Sequence[float], first: int = 0) -> None:
        n = len(loss)
        steps = np.arange(first, first + n)
        block = Block(
            (Column("loss"),), steps, NOW - n + np.arange(n, dtype=float), np.array(loss, float).reshape(n, 1)
        )
        rank.apply(Batch(1, n, (block,)), self.now)

    def gpus(self, count: int) -> None:
        info = Metric("gpu_info", "info", "Facts.", ("gpu", "uuid", "name", "simulated"))
        utilization = Metric("gpu_utilization_ratio", "gauge", "Busy.", ("gpu", "uuid"), "ratio")
        samples = [Sample(info, 1.0, (str(i), f"GPU-{i}", "Simulated", "true")) for i in range(count)]
        samples += [Sample(utilization, i / 10, (str(i), f"GPU-{i}")) for i in range(count)]
        self.node.observe("gpu", samples, self.now)


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


@pytest.fixture
async def client(agent: Agent) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(agent.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:9780") as client:
        yield client
