"""Journals that dead ranks left behind: found, delivered by the SDK's own program, and only when nobody holds them."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from pathlib import Path
from typing import cast

import pytest

from rankscope.agent.component import Intake
from rankscope.agent.receivers import journals
from rankscope.agent.receivers.journals import Journals


def journal(spool: Path, name: str) -> Path:
    folder = spool / name
    folder.mkdir(parents=True)
    (folder / "hello.json").write_text("{}")
    (folder / "writer.lock").touch()
    (folder / "sender.lock").touch()
    return folder


@pytest.fixture
def deliverer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A deliverer in the SDK's place: notes what it was told, and removes the journal unless it is called stuck."""
    noted = tmp_path / "noted"
    (tmp_path / "deliverer.py").write_text(
        "import os, shutil, sys\n"
        f"open({str(noted)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "sys.exit(3) if 'stuck' in sys.argv[1] else shutil.rmtree(sys.argv[1])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(journals, "DELIVERER", "deliverer")
    noted.touch()
    return noted


def told(deliverer: Path) -> str:
    return deliverer.read_text()


async def until(condition: object, seconds: float = 10.0) -> None:
    assert callable(condition)

    async def poll() -> None:
        while not condition():  # noqa: ASYNC110 (what is waited for is a file)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), seconds)


async def test_a_journal_that_nobody_holds_is_delivered(tmp_path: Path, deliverer: Path) -> None:
    folder = journal(tmp_path / "spool", "a")
    receiver = Journals(folders=[str(tmp_path / "sp*")], interval=0.05)
    receiver.agent = "unix:///x"
    await receiver.start(cast("Intake", None))
    try:
        await until(lambda: not folder.exists())
        later = journal(tmp_path / "spool", "b")
        await until(lambda: not later.exists())
    finally:
        await receiver.stop()
    assert told(deliverer) == f"{folder} --agent unix:///x --if-there\n{later} --agent unix:///x --if-there\n"


@pytest.mark.parametrize("held", ["writer.lock", "sender.lock"])
async def test_a_journal_that_a_rank_or_sender_holds_is_left_alone(tmp_path: Path, deliverer: Path, held: str) -> None:
    folder = journal(tmp_path / "spool", "a")
    free = journal(tmp_path / "spool", "b")
    ready, release = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:  # POSIX locks belong to a process: it must be another one
        file = os.open(folder / held, os.O_RDWR)
        fcntl.lockf(file, fcntl.LOCK_EX)
        os.write(ready[1], b"x")
        os.read(release[0], 1)
        os._exit(0)
    os.read(ready[0], 1)
    receiver = Journals(folders=[str(tmp_path / "spool")], interval=0.05)
    await receiver.start(cast("Intake", None))
    try:
        await until(lambda: not free.exists())
        assert folder.exists()
        os.write(release[1], b"x")
        await asyncio.to_thread(os.waitpid, pid, 0)
        await until(lambda: not folder.exists())
    finally:
        await receiver.stop()
        for end in (*ready, *release):
            os.close(end)


async def test_a_journal_that_cannot_be_delivered_is_tried_again_later_and_blocks_no_other(
    tmp_path: Path, deliverer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "RETRY_FIRST", 0.2)
    journal(tmp_path / "spool", "stuck")
    receiver = Journals(folders=[str(tmp_path / "spool")], interval=0.02, parallel=1)
    await receiver.start(cast("Intake", None))
    try:
        await until(lambda: deliverer.read_text().count("stuck") >= 1)
        other = journal(tmp_path / "spool", "other")
        await until(lambda: not other.exists())
        await until(lambda: deliverer.read_text().count("stuck") >= 3)
    finally:
        await receiver.stop()


async def test_what_is_no_journal_is_not_touched(tmp_path: Path, deliverer: Path) -> None:
    spool = tmp_path / "spool"
    (spool / "folder").mkdir(parents=True)
    (spool / "file").touch()
    (spool / "link").symlink_to(journal(tmp_path / "elsewhere", "a"))
    good = journal(spool, "good")
    receiver = Journals(folders=[str(spool)], interval=0.05)
    await receiver.start(cast("Intake", None))
    await until(lambda: not good.exists())
    await receiver.stop()
    assert (tmp_path / "elsewhere" / "a").exists()
    assert told(deliverer).count("\n") == 1


@pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"), reason="needs root, and a Python that anyone may run"
)
@pytest.mark.parametrize("user", [65534, 4_000_001])  # the second has no entry in /etc/passwd
async def test_another_users_journal_is_delivered_with_that_users_rights(
    anyones_path: Path, monkeypatch: pytest.MonkeyPatch, user: int
) -> None:
    """What lies in a user's folder could be anything: root does not follow it."""
    program = (
        f"import os\nopen({str(anyones_path / 'out')!r}, 'w').write(f'{{os.geteuid()}} {{os.environ.get(\"SECRET\")}}')"
    )
    (anyones_path / "whoami.py").write_text(program)
    monkeypatch.setenv("SECRET", "what a configuration may have in the environment")
    (anyones_path / "out").touch(mode=0o666)
    (anyones_path / "out").chmod(0o666)
    monkeypatch.setenv("PYTHONPATH", str(anyones_path))
    monkeypatch.setattr(journals, "DELIVERER", "whoami")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")  # this one may be in a folder of root's
    monkeypatch.chdir("/")
    folder = journal(anyones_path / "spool", "a")
    os.chown(folder, user, user)
    os.chown(folder.parent, user, user)
    receiver = Journals(folders=[str(anyones_path / "spool")], interval=0.05)
    await receiver.start(cast("Intake", None))
    await until(lambda: (anyones_path / "out").read_text() != "")
    await receiver.stop()
    assert (anyones_path / "out").read_text() == f"{user} None"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_root_follows_nobodys_link_to_what_is_roots(
    tmp_path: Path, deliverer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By the time that the deliverer runs, the link may lead elsewhere."""
    mine = journal(tmp_path / "of-root", "a")
    (tmp_path / "spool-link").symlink_to(mine.parent)
    os.chown(tmp_path / "spool-link", 65534, 65534, follow_symlinks=False)
    theirs = journal(tmp_path / "spool-b", "b")  # a folder of theirs among those of root
    os.chown(theirs, 65534, 65534)
    good = journal(tmp_path / "spool-c", "c")
    receiver = Journals(folders=[str(tmp_path / "spool-*")], interval=0.05)
    await receiver.start(cast("Intake", None))
    try:
        await until(lambda: not good.exists() and caplog.text.count("not a folder of its owner's") == 2)
    finally:
        await receiver.stop()
    assert told(deliverer).count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_users_deliverers_that_hang_hold_up_nobody_else_and_end(
    anyones_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (anyones_path / "hangs.py").write_text(
        "import shutil, sys\n'hang' in sys.argv[1] and open(sys.argv[1] + '/pipe')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(anyones_path))
    monkeypatch.setattr(journals, "DELIVERER", "hangs")
    monkeypatch.setattr(journals, "MOST", 1.0)
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    folders = [journal(anyones_path / "spool-a", f"hang{number}") for number in range(3)]
    for folder in folders:
        os.mkfifo(folder / "pipe", 0o644)
        os.chown(folder, 65534, 65534)
    os.chown(anyones_path / "spool-a", 65534, 65534)
    other = journal(anyones_path / "spool-b", "other")
    receiver = Journals(folders=[str(anyones_path / "spool-*")], interval=0.05)
    await receiver.start(cast("Intake", None))
    try:
        await until(lambda: other in receiver._retry or other in receiver._running)
        assert len(receiver._running) <= 3
        await until(lambda: sum(folder in receiver._retry for folder in folders) >= 2)  # ended, and left for later
    finally:
        await receiver.stop()


async def test_a_hello_that_is_no_file_is_no_journal(tmp_path: Path, deliverer: Path) -> None:
    """Whoever opened a pipe would wait for ever."""
    odd = journal(tmp_path / "spool", "odd")
    (odd / "hello.json").unlink()
    os.mkfifo(odd / "hello.json")
    good = journal(tmp_path / "spool", "good")
    receiver = Journals(folders=[str(tmp_path / "spool")], interval=0.05)
    await receiver.start(cast("Intake", None))
    try:
        await until(lambda: not good.exists())
    finally:
        await receiver.stop()
    assert "odd" not in told(deliverer)


async def test_stopping_ends_deliverers_that_hang(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hangs.py").write_text(
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nopen('/proc/self/comm')\ntime.sleep(60)"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(journals, "DELIVERER", "hangs")
    monkeypatch.setattr(journals, "GRACE", 0.2)
    journal(tmp_path / "spool", "a")
    receiver = Journals(folders=[str(tmp_path / "spool")], interval=0.05)
    await receiver.start(cast("Intake", None))
    await until(lambda: bool(receiver._running))
    (process,) = receiver._running.values()
    await receiver.stop()
    assert await asyncio.wait_for(process.wait(), 60) != 0
