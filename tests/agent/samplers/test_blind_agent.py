"""A whole agent beside a driver that hangs: it goes on, says that it is blind, sees again, and what it sees is told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from rankscope.agent.demo.stage import agent
from tests.agent.samplers.conftest import Driver
from tests.nvml import build
from tests.waiting import wait_for


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


@pytest.mark.e2e
def test_an_agent_outlives_a_driver_that_hangs(driver: Driver, library: Path, tmp_path: Path) -> None:
    driver.load(build.scenario("h100"))
    config: dict[str, object] = {
        "samplers": {"gpu": {"source": "nvml", "library": str(library), "deadline": "500ms", "interval": "200ms"}},
        "rules": {"AgentBlind": {"for": "1s"}},
    }
    with agent(tmp_path / "runs", config, port=0) as running:

        def value(pattern: str) -> float | None:
            found = re.search(rf"^rankscope_{pattern} (\S+)$", fetch(f"{running.url}/metrics"), re.MULTILINE)
            return float(found[1]) if found else None

        def alerts() -> set[str]:
            return {
                alert["labels"]["alertname"] for alert in json.loads(fetch(f"{running.url}/api/v1/alerts"))["alerts"]
            }

        wait_for(lambda: value(r"gpu_power_watts\{[^}]*\}") == 629.45)
        assert value(r'sampler_up\{[^}]*sampler="gpu"[^}]*\}') == 1
        driver.answer("nvmlDeviceGetPowerUsage", "hang")
        wait_for(lambda: value(r"gpu_up\{[^}]*\}") == 0)
        start = time.monotonic()
        assert value(r"gpu_power_watts\{[^}]*\}") is None, "what cannot be read is absent, not stale"
        assert value(r"system_load1\{[^}]*\}") is not None
        assert time.monotonic() - start < 2
        wait_for(lambda: "AgentBlind" in alerts())
        driver.answer("nvmlDeviceGetPowerUsage", "120000")
        wait_for(lambda: value(r"gpu_power_watts\{[^}]*\}") == 120)
        wait_for(lambda: "AgentBlind" not in alerts())
        driver.load(driver.path.read_text() + "xid 79\n")
        wait_for(lambda: "GpuHardwareError" in alerts())
        assert value(r'gpu_xid_errors_total\{[^}]*xid="79"[^}]*\}') == 1


@pytest.mark.e2e
def test_an_agent_starts_beside_a_driver_that_hangs(driver: Driver, library: Path, tmp_path: Path) -> None:
    """It takes and judges what a rank says, says that it is blind, sees when the driver does, and ends when asked."""
    driver.load("nvmlInit hang\n" + build.scenario("h100"))
    config: dict[str, object] = {
        "samplers": {"gpu": {"source": "nvml", "library": str(library), "deadline": "500ms", "interval": "200ms"}},
        "rules": {"AgentBlind": {"for": "1s"}},
    }
    with agent(tmp_path / "runs", config, port=0) as running:

        def page() -> str:
            return fetch(f"{running.url}/metrics")

        def shows(line: str) -> bool:
            return re.search(f"^{line}", page(), re.MULTILINE) is not None

        def alerts() -> set[str]:
            return {
                alert["labels"]["alertname"] for alert in json.loads(fetch(f"{running.url}/api/v1/alerts"))["alerts"]
            }

        code = "from rankscope import sdk; sdk.init(project='p'); sdk.log(loss=float('nan')); sdk.finish()"
        spool = {"RANKSCOPE_AGENT": f"unix:{running.socket}", "RANKSCOPE_SPOOL": str(tmp_path / "spool")}
        subprocess.run([sys.executable, "-c", code], env=os.environ | spool, check=True, timeout=60)
        wait_for(lambda: {"LossNaN", "AgentBlind"} <= alerts())
        text = page()
        assert shows(r'rankscope_sampler_up\{[^}]*sampler="gpu"[^}]*\} 0')
        assert "rankscope_system_load1{" in text
        assert "rankscope_train_loss{" in text
        assert "rankscope_gpu_" not in re.sub("^#.*$", "", text, flags=re.MULTILINE), "nothing is known of any card"
        driver.load(build.scenario("h100"))
        for each in psutil.Process(running.process.pid).children():
            if any("_nvml.child" in word for word in each.cmdline()):
                each.kill()  # as the agent does after a minute
        wait_for(lambda: shows(r"rankscope_gpu_power_watts\{[^}]*\} 629.45"))
        wait_for(lambda: "AgentBlind" not in alerts())
        driver.answer("nvmlDeviceGetPowerUsage", "hang")
        wait_for(lambda: shows(r"rankscope_gpu_up\{[^}]*\} 0"))
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(30) == 0
