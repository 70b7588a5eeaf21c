"""The rights that the systemd unit and the Kubernetes manifest leave to the agent are all that its work takes."""

from __future__ import annotations

import grp
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import yaml

from rankscope.agent.demo import stage
from tests.waiting import wait_for

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
pytestmark = pytest.mark.e2e

NOBODY = 65534
AS_NOBODY: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
PLACES = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path and not path.startswith(sys.base_prefix))}
RANK = """
import sys
from rankscope import sdk
sdk.init(project="rights", name=sys.argv[1])
for step in range(20):
    sdk.log(loss=1.0 / (step + 1))
sys.stdin.read()
sdk.finish()
"""


def unit() -> str:
    text = (DEPLOY / "systemd" / "rankscope.service").read_text()
    [found] = re.findall(r"^CapabilityBoundingSet=(.*)$", text, flags=re.MULTILINE)
    return str(found).replace("CAP_", "")


def daemonset() -> str:
    manifest = yaml.safe_load((DEPLOY / "kubernetes" / "daemonset.yaml").read_text())
    [container] = manifest["spec"]["template"]["spec"]["containers"]
    capabilities = container["securityContext"]["capabilities"]
    assert capabilities["drop"] == ["ALL"]
    return " ".join(capabilities["add"])


def test_both_leave_the_same_rights_and_say_what_for() -> None:
    """All but the kernel's log: the device of it is denied to a container, whatever its capabilities."""
    assert set(unit().split()) == {*daemonset().split(), "SYSLOG"}
    for file, rights in (("systemd/rankscope.service", unit()), ("kubernetes/daemonset.yaml", daemonset())):
        said = " ".join(line for line in (DEPLOY / file).read_text().splitlines() if line.startswith("#"))
        assert set(rights.split()) <= set(re.findall(r"[A-Z_]+", said.replace("CAP_", ""))), file


@pytest.fixture(scope="module")
def python() -> str:
    """Return a Python that anybody may run and that has what this one has; its environment must say where."""
    if os.geteuid() != 0:
        pytest.skip("only root can be left with a part of root's rights")
    for found in (sys.executable, f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"):
        command = ["/bin/sh", "-c", f"exec {found} -c 'import grpc, yaml, rankscope.sdk'"]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL, env=PLACES, **AS_NOBODY).returncode == 0:
            return found
    pytest.skip("no Python here that another user may run")


@pytest.mark.parametrize("rights", [unit(), daemonset()], ids=["systemd", "kubernetes"])
def test_ranks_of_other_users_are_seen_and_what_they_left_is_delivered(
    rights: str, anyones_path: Path, require: Callable[..., str], python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    setpriv = require("setpriv")
    monkeypatch.setenv("PYTHONPATH", PLACES["PYTHONPATH"])
    folder = anyones_path
    spool = folder / "rankscope-nobody"
    spool.mkdir()
    os.chown(spool, NOBODY, NOBODY)
    (folder / "rank.py").write_text(RANK)

    def rank(name: str) -> subprocess.Popen[bytes]:
        surroundings = {
            "HOME": str(spool),
            "RANKSCOPE_AGENT": f"unix:{folder}/run/agent.sock",
            "RANKSCOPE_SPOOL": str(spool),
        }
        command = [python, str(folder / "rank.py"), name]
        return subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", env=os.environ | surroundings, **AS_NOBODY)

    early = rank("early")  # nobody is there yet to take what it logs
    early.communicate(timeout=60)
    assert any(spool.iterdir())
    address = f"127.0.0.1:{stage.free_port()}"
    config = {
        "http": {"listen": address},
        "grpc": {"listen": f"unix://{folder}/run/agent.sock", "group": grp.getgrgid(NOBODY).gr_name},
        "runs": {"dir": str(folder / "runs")},
        "journals": {"folders": [str(folder / "rankscope-*")], "interval": "200ms"},
        "samplers": {"process": {"interval": "500ms"}},
    }
    (folder / "rankscope.yaml").write_text(json.dumps(config))
    bounds = "--bounding-set=-all" + "".join(f",+{right.lower()}" for right in rights.split())
    command = [setpriv, "--no-new-privs", "--inh-caps=-all", bounds, python, "-m", "rankscope.agent", "agent"]
    command += ["--config", str(folder / "rankscope.yaml")]
    with stage.server("the agent", command, f"http://{address}", folder / "log"):

        def runs() -> set[str]:
            said = cast("dict[str, Any]", httpx.get(f"http://{address}/api/v1/runs").json())
            return {run["name"] for run in said["runs"]}

        wait_for(lambda: "early" in runs(), what="what a rank left behind")
        wait_for(lambda: not list(spool.glob("*/hello.json")), what="the journal to be removed")
        live = rank("live")
        try:
            wait_for(lambda: "live" in runs(), what="a rank of another user's")
            wait_for(
                lambda: "rankscope_rank_open_files{" in httpx.get(f"http://{address}/metrics").text,
                what="what its process is like",
            )
        finally:
            live.communicate(timeout=60)
