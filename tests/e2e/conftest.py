"""A real agent process for the tests that only talk to one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rankscope.agent.demo.stage import AgentProcess, agent


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("e2e") / "runs"


@pytest.fixture(scope="module")
def running(runs: Path) -> Iterator[AgentProcess]:
    """An agent with its defaults, on a free port and a socket of its own."""
    with agent(runs, {}, port=0) as process:
        yield process
