"""The SDK on every Python from 3.10 to 3.13 and with the protobuf and grpcio that training images pin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.waiting import wait_for

from .server import Agent

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PAIRS = (
    ("protobuf==4.25.*", "grpcio==1.60.*"),
    ("protobuf==5.29.*", "grpcio==1.66.*"),
    ("protobuf==6.*", "grpcio"),
    ("protobuf==7.*", "grpcio"),
)
USUAL = {("3.10", 0), ("3.12", 1), ("3.13", 2), ("3.13", 3)}  # each Python and each pair once

SCRIPT = """
import sys
from rankscope import sdk
from rankscope.sdk.testing import capture
with capture() as sent:
    sdk.log({"a": {"b": 1}}, loss=2.0)
    with sdk.phase("forward"): pass
    sdk.log(loss=float("nan"))
assert sent.scalar("a/b") == [(0, 1.0)], sent.scalars
sdk.init(project="p", name="matrix", config={"python": sys.version})
for number in range(2000):
    with sdk.phase("forward"): pass
    sdk.log(loss=float(number))
sdk.text("tag", "text")
sdk.finish()
"""


def interpreter(version: str) -> str | None:
    """Return an interpreter of a version, from the path or from pyenv."""
    candidates = [shutil.which(f"python{version}"), sys.executable if sys.version.startswith(version) else None]
    candidates += [str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python3")]
    for candidate in filter(None, candidates):
        probe = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(probe, capture_output=True, text=True, check=False)
        if done.stdout.strip() == version:
            return candidate
    return None


def environment(version: str, pair: int) -> Path:
    """Return the Python of an environment with a pair of libraries, made on first use; skip where that cannot be."""
    place = ROOT / ".artifacts" / "matrix" / f"{version}-{pair}"
    python = place / "bin" / "python"
    if (place / "ready").exists():
        return python
    base = interpreter(version)
    if base is None:
        pytest.skip(f"no Python {version} here")
    if base == sys.executable:
        venv.create(place, with_pip=True, clear=True)
    else:
        subprocess.run([base, "-m", "venv", "--clear", place], check=True)
    install: list[str | Path] = [python, "-m", "pip", "install", "-q", "--only-binary=:all:", *PAIRS[pair]]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no wheels of {' and '.join(PAIRS[pair])} for Python {version}")
    (place / "ready").touch()
    return python


CASES = [
    pytest.param(
        version,
        pair,
        id=f"{version}-{'-'.join(PAIRS[pair])}",
        marks=() if (version, pair) in USUAL else pytest.mark.long,
    )
    for version in PYTHONS
    for pair in range(len(PAIRS))
]


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("version", "pair"), CASES)
def test_works_with(version: str, pair: int, agent: Agent, spool: Path) -> None:
    python = environment(version, pair)
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}/sdk{os.pathsep}{ROOT}/proto"}
    done = subprocess.run(
        [python, "-W", "error", "-c", SCRIPT], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    wait_for(lambda: bool(agent.sessions) and agent.only.goodbye is not None)
    assert agent.only.scalar("loss") == [(number, float(number)) for number in range(2000)]
    assert len(agent.only.phases) == 2000
    wait_for(lambda: not list(spool.iterdir()))
