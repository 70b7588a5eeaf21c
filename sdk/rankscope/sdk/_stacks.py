"""Where a rank is right now: its sender sends the signal on which the rank writes its stacks, and reads them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import Counter
from pathlib import Path

from rankscope.sdk._traces import FILE, SIGNAL

PATIENCE = 3.0  # seconds for the handler to write
_LOOK = 0.05
MAX_TEXT = 256 * 1024
_STATES = {"R": "running", "S": "sleeping", "D": "blocked in the kernel", "T": "stopped", "t": "traced", "Z": "dead"}


class Unknown(Exception):
    """Where the rank is cannot be said; the text says why."""


async def ask(folder: Path, pid: int) -> str:
    """Return the stacks of all threads of the rank `pid`, below a line of what the kernel knows of them.

    Raises Unknown.
    """
    path = folder / FILE
    kernel = seen_by_kernel(pid)
    if not (path.exists() and catches(pid)):
        raise Unknown(f"the rank does not listen to signal {SIGNAL}: another library has it, or the rank ends now")
    try:
        before = size = path.stat().st_size
        os.kill(pid, SIGNAL)
        end = asyncio.get_running_loop().time() + PATIENCE
        while asyncio.get_running_loop().time() < end:
            await asyncio.sleep(_LOOK)
            grown = path.stat().st_size
            if grown == size > before:
                break
            size = grown
        with path.open("rb") as file:
            file.seek(before)
            text = file.read(MAX_TEXT).decode("utf-8", "replace")
        os.truncate(path, 0)
    except OSError as error:
        raise Unknown(f"{error.strerror}: {path}") from None
    if not text:
        raise Unknown(f"no answer within {PATIENCE:g} s; {kernel}")
    return f"{kernel}\n{text}"


def catches(pid: int) -> bool:
    """True where the process has a handler for the signal: to any other one it would be the end."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (SIGNAL - 1) & 1)


def seen_by_kernel(pid: int) -> str:
    """Return in one line what the kernel says of a process' threads: the main one's state, then the others'."""
    main = _state(pid, pid)
    others: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        others.update(_state(pid, int(name)) for name in os.listdir(f"/proc/{pid}/task") if int(name) != pid)
    rest = ", ".join(f"{count} {state}" for state, count in others.most_common(6))
    return f"main thread: {main}" + (f"; others: {rest}" if rest else "")


def _state(pid: int, thread: int) -> str:
    """Return `sleeping in futex_wait`; without the place where the kernel does not tell."""
    place = Path(f"/proc/{pid}/task/{thread}")
    try:
        letter = (place / "stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "gone"
    where = ""
    with contextlib.suppress(OSError):
        where = (place / "wchan").read_text().strip()
    return _STATES.get(letter, letter) + (f" in {where}" if where not in ("", "0") else "")
