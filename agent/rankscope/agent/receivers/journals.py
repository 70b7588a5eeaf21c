"""Finds journals whose rank and sender are both gone, and has the SDK's own deliverer bring them in."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import glob
import logging
import os
import pwd
import signal
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rankscope.agent.component import Intake
from rankscope.agent.model import Seconds

log = logging.getLogger("rankscope.journals")

DELIVERER = "rankscope.sdk._deliver"  # run as a program, never imported
LOCKS = ("writer.lock", "sender.lock")  # held by the rank, and by whoever delivers
HELLO = "hello.json"
RETRY_FIRST, RETRY_MOST = 5.0, 300.0  # seconds before a journal that could not be delivered is tried again
GRACE = 1.0  # seconds that a deliverer has to end by itself
MOST = 900.0  # seconds for a deliverer: what it has not delivered by then is left for another try
PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "PYTHONHOME",
    "LD_LIBRARY_PATH",
)  # to other users' deliverers


@dataclass
class Journals:
    """Delivers what ranks left on disk when they and their senders died.

    `folders` are patterns of spools. An agent that runs as root takes journals of every user, each with that user's
    rights; any other takes its own user's. At most `parallel` journals of a user are delivered at a time.
    """

    folders: list[str] = field(default_factory=lambda: ["/var/tmp/rankscope-*", "/dev/shm/rankscope-*"])
    interval: Seconds = 3.0
    parallel: int = 2
    agent: str = field(default="", init=False)  # where the deliverers find the agent's gRPC

    def __post_init__(self) -> None:
        self._scan: asyncio.Task[None] | None = None
        self._running: dict[Path, asyncio.subprocess.Process] = {}
        self._owners: dict[Path, int] = {}  # of the journals that are being delivered
        self._retry: dict[Path, tuple[float, float]] = {}  # not before, and the pause after the next failure

    async def start(self, intake: Intake) -> None:
        """Look for journals from now on; what is in them comes in through the gRPC receiver."""
        self._scan = asyncio.create_task(self._run())

    async def stop(self) -> None:
        if self._scan is not None:
            self._scan.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._scan
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(p.wait() for p in self._running.values())), GRACE)
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        self._running.clear()

    async def _run(self) -> None:
        tasks: set[asyncio.Task[None]] = set()
        while True:
            for journal in await asyncio.to_thread(lambda: list(self._left_behind())):
                try:
                    owner = await asyncio.to_thread(_owner, journal)
                    if list(self._owners.values()).count(owner.st_uid) >= self.parallel:
                        continue  # nobody's journals hold up those of others
                    await self._launch(journal, owner, tasks)
                except OSError as error:
                    log.warning("cannot start the deliverer of %s: %s", journal, error)
                    self._later(journal)
            await asyncio.sleep(self.interval)

    def _left_behind(self) -> Iterator[Path]:
        """Yield the journals that nobody holds and that may be tried now, oldest first."""
        found: list[tuple[float, Path]] = []
        for pattern in self.folders:
            for spool in glob.glob(os.path.abspath(pattern)):
                found += [entry for entry in _journals(spool) if self._due(entry[1]) and _free(entry[1])]
        self._retry = {path: entry for path, entry in self._retry.items() if os.path.exists(path)}
        for _, path in sorted(found):
            yield path

    def _due(self, journal: Path) -> bool:
        return journal not in self._running and time.monotonic() >= self._retry.get(journal, (0.0, 0.0))[0]

    def _later(self, journal: Path) -> None:
        pause = self._retry.get(journal, (0.0, RETRY_FIRST))[1]
        self._retry[journal] = (time.monotonic() + pause, min(RETRY_MOST, pause * 2))

    async def _launch(self, journal: Path, owner: os.stat_result, tasks: set[asyncio.Task[None]]) -> None:
        command = [sys.executable, "-m", DELIVERER, str(journal), "--agent", self.agent, "--if-there"]
        rights: dict[str, Any] = {}
        if os.geteuid() == 0 and owner.st_uid != 0:
            # What lies in another user's folder is read and removed with that user's rights, never with ours. That user
            # can read the program's environment: nothing of ours is in it.
            rights = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": _groups(owner)}
            rights["env"] = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            cwd="/",  # -m looks for the program where it is started, first of all
            **rights,
        )
        self._running[journal] = process
        self._owners[journal] = owner.st_uid
        task = asyncio.create_task(self._wait(journal, process))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _wait(self, journal: Path, process: asyncio.subprocess.Process) -> None:
        try:
            status = await asyncio.wait_for(process.wait(), MOST)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            status = await process.wait()
        self._running.pop(journal, None)
        self._owners.pop(journal, None)
        if status == 0:
            self._retry.pop(journal, None)
            log.info("delivered %s, left behind by a rank that is gone", journal)
        else:
            self._later(journal)


def _groups(owner: os.stat_result) -> list[int]:
    """Return the groups of who owns a journal: its own alone where the user is known elsewhere, as in a container."""
    try:
        return os.getgrouplist(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    except KeyError:
        return [owner.st_gid]


def _journals(spool: str) -> Iterator[tuple[float, Path]]:
    """Yield the journals in a spool that this agent may take, with the time of their last change."""
    own = os.geteuid()
    try:
        with os.scandir(spool) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # it may be gone by now, or closed to us
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode) and own in (0, found.st_uid) and _begun(entry.path):
                        yield found.st_mtime, Path(entry.path)
    except OSError:
        return


def _begun(journal: str) -> bool:
    """True where a rank has said who it is."""
    return stat.S_ISREG(os.lstat(os.path.join(journal, HELLO)).st_mode)


def _owner(journal: Path) -> os.stat_result:
    """Return whose journal it is: a folder in a spool of the same user's, for an agent that may act as that user.

    Raises OSError where it could be someone else's: a link, say, that leads into a folder of root's now, and back into
    the folder of who made it once the deliverer runs as root.
    """
    found = journal.lstat()
    if os.geteuid() == 0:
        spool = journal.parent.lstat()
        if stat.S_ISLNK(spool.st_mode) and spool.st_uid == 0:
            spool = journal.parent.stat()
        if not (stat.S_ISDIR(spool.st_mode) and stat.S_ISDIR(found.st_mode) and spool.st_uid == found.st_uid):
            raise PermissionError("its spool is not a folder of its owner's")
    return found


def _free(journal: Path) -> bool:
    """True when neither a rank nor a deliverer holds the journal."""
    for name in LOCKS:
        try:
            file = os.open(journal / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        except OSError:
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        finally:
            os.close(file)
    return True
