"""What is recorded on a machine with cards is a scenario that gives the same values here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.agent.runs.state import Node
from rankscope.agent.samplers.gpu import Gpu
from tests.agent.samplers.conftest import Driver, values
from tests.nvml import build

CAPTURES = Path(__file__).parents[2] / "captures"
SCENARIOS = [*sorted((build.HERE / "scenarios").glob("*.scenario")), *sorted(CAPTURES.glob("*.scenario"))]


def seen(sampler: Gpu, node: Node) -> dict[tuple[str, ...], float]:
    list(sampler.sample(node))
    own = ("gpu_info", "mig_info", "gpu_state_seconds_total")  # uuids, serial numbers, the time that the test took
    return {key: value for key, value in values(sampler.sample(node)).items() if key[0] not in own}


@pytest.mark.parametrize("path", SCENARIOS, ids=[path.stem for path in SCENARIOS])
def test_a_recording_gives_what_the_cards_gave(
    driver: Driver,
    gpu: Callable[..., Gpu],
    library: Path,
    node: Node,
    path: Path,
) -> None:
    """Captures of real machines that are kept under tests/captures, too."""
    text = path.read_text()
    driver.load(text)
    expected = seen(gpu(), node)
    assert expected["gpu_up", "0"] == 1
    command = [sys.executable, "-m", "tests.nvml.record"]
    environment = os.environ | {"LD_LIBRARY_PATH": str(library)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    driver.load(done.stdout)
    assert seen(gpu(), node) == expected
    secrets = [
        line.split()[1] for line in text.splitlines() if line.startswith(("nvmlDeviceGetUUID", "nvmlDeviceGetSerial"))
    ]
    made_up = ("GPU-00000000", "MIG-00000000", "1650000000000")
    assert not [secret for secret in secrets if secret in done.stdout and not secret.startswith(made_up)]
