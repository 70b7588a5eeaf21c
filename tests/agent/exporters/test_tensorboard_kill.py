"""Killed at any moment, the record holds every acknowledged point, and every point once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.agent.exporters.tensorboard import Tensorboard
from rankscope.agent.model import Batch, End, Goodbye

from .record import losses, rank, scalars

CALLS = ("open", "ftruncate", "pwrite", "fdatasync", "fsync", "replace", "close")


def folder(root: Path) -> Path:
    return root / "project" / "run-1" / "rank_0000"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(call: int, torn: bool) -> None:
    """Die before the system call number `call` from now on; `torn`: half-way through the one before, if it writes."""
    left = call

    def wrap(real: Callable[..., object], name: str) -> Callable[..., object]:
        def counted(*args: object, **kwargs: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                die()
            if torn and left == 1 and name == "pwrite":
                fd, data, offset = args
                os_pwrite(fd, bytes(data)[: len(bytes(data)) // 2], offset)  # type: ignore[arg-type, call-overload]
                die()
            return real(*args, **kwargs)

        return counted

    os_pwrite = os.pwrite
    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name), name))


def session(root: Path, batches: int, acknowledge: Callable[[int], None]) -> None:
    """Write what is not yet safe of 10 × `batches` points, 10 a commit, and the goodbye."""
    record = Tensorboard(dir=str(root))
    info = rank(config={"lr": 1})
    safe = record.begin(info)
    while safe < 10 * batches:
        record.write(info, losses(safe + 1, 10))
        record.commit()
        safe += 10
        acknowledge(safe)
    if safe == 10 * batches:
        record.write(info, Batch(safe + 1, safe + 1, (), (Goodbye(0, 1.0, End.FINISHED),)))
    record.close()
    acknowledge(10 * batches + 1)


@pytest.mark.parametrize("torn", [False, True])
def test_killed_at_each_system_call_of_a_session(tmp_path: Path, torn: bool) -> None:
    call = 0
    finished = False
    while not finished:
        call += 1
        assert call < 500
        root = tmp_path / str(call)
        root.mkdir()
        acknowledged, finished = killed_at(call, torn, root)
        safe = Tensorboard(dir=str(root)).begin(rank())
        assert safe >= max(acknowledged, default=0), f"killed in call {call}: acknowledged, and not there"
        session(root, 3, lambda safe: None)
        assert [step for step, _ in scalars(folder(root), "loss")] == list(range(1, 31)), f"killed in call {call}"
    assert call > 30  # else the calls were not seen


def killed_at(call: int, torn: bool, root: Path) -> tuple[list[int], bool]:
    """Run a session in a child that dies at a system call; return what it acknowledged and whether it lived."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        arm(call, torn)
        session(root, 3, lambda safe: (os.write(writer, b"%d\n" % safe), None)[1])
        os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        acknowledged = [int(line) for line in pipe]
    return acknowledged, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.agent.exporters.test_tensorboard_kill import session
session(Path(sys.argv[2]), int(sys.argv[3]), lambda safe: print(safe, flush=True))
"""


def killed_at_random(root: Path, rounds: int) -> None:
    """Kill a writer again and again, each time some moments after it acknowledged something."""
    chance = random.Random(0)
    acknowledged = 0
    total = 40 * rounds
    top = Path(__file__).parents[3]
    for _ in range(rounds):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(top), str(root), str(total)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(chance.randint(1, 30)):
                line = writer.stdout.readline()
                assert line, "the writer ended by itself"
                acknowledged = max(acknowledged, int(line))
            for _ in range(chance.randint(0, 20_000)):
                pass
            writer.kill()
            acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
        assert Tensorboard(dir=str(root)).begin(rank()) >= acknowledged
    session(root, total, lambda safe: None)
    assert [step for step, _ in scalars(folder(root), "loss")] == list(range(1, 10 * total + 1))


@pytest.mark.e2e
def test_killed_at_random_moments(tmp_path: Path) -> None:
    killed_at_random(tmp_path, 8)


@pytest.mark.long
def test_killed_at_random_moments_many_times(tmp_path: Path) -> None:
    killed_at_random(tmp_path, 150)
