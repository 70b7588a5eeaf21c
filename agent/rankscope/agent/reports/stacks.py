"""Reads what Python's faulthandler wrote, and puts the ranks together that stand at the same place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-f]+)(?: \[(.*?)\])? \(most recent call first\):$")
_FRAME = re.compile(r'^  File "(.*)", line (\d+|\?\?\?) in (.*)$')
_LIBRARY = re.compile(r"^.*/(?:site-packages|dist-packages|lib/python\d[\d.]*)/")


@dataclass(frozen=True)
class Frame:
    """One call, as its file, line and function."""

    file: str
    line: int  # 0: unknown
    function: str

    @property
    def library(self) -> bool:
        """True for what the user did not write: Python's own modules, installed packages."""
        return self.file.startswith("<frozen") or bool(_LIBRARY.match(self.file))

    @property
    def short(self) -> str:
        """The file without the folder that libraries are installed in."""
        return _LIBRARY.sub("", self.file)


@dataclass(frozen=True)
class Thread:
    name: str
    frames: tuple[Frame, ...]  # the most recent call first


@dataclass(frozen=True)
class Stack:
    """All threads of one process: the main one, the others, and what the kernel says of them."""

    kernel: str
    main: tuple[Frame, ...]
    others: tuple[Thread, ...] = ()


@dataclass(frozen=True)
class Place:
    """Where some ranks stand: their main threads have the same stack."""

    ranks: tuple[int, ...]
    main: tuple[Frame, ...]


def parse(text: str) -> Stack:
    """Return the threads of a text that begins with a line of the kernel's view; what makes no sense is left out."""
    kernel, _, rest = text.partition("\n")
    threads: list[tuple[str, list[Frame]]] = []
    for line in rest.splitlines():
        if found := _THREAD.match(line):
            threads.append((found[2] or found[1], []))
        elif threads and (found := _FRAME.match(line)):
            threads[-1][1].append(Frame(found[1], int(found[2]) if found[2].isdigit() else 0, found[3]))
    made = [Thread(name, tuple(frames)) for name, frames in threads]
    # faulthandler goes from the newest thread to the oldest, which is the main one
    return Stack(kernel, made[-1].frames if made else (), tuple(made[:-1]))


def places(stacks: Mapping[int, Stack]) -> list[Place]:
    """Return where the ranks stand, the fewest ranks first: in a hang, that is whom the others wait for."""
    together: dict[tuple[Frame, ...], list[int]] = {}
    for rank, stack in sorted(stacks.items()):
        together.setdefault(stack.main, []).append(rank)
    found = [Place(tuple(ranks), main) for main, ranks in together.items()]
    return sorted(found, key=lambda place: (len(place.ranks), place.ranks))


def shown(frames: Sequence[Frame], most: int) -> tuple[list[Frame], int]:
    """Return the frames to show of a stack, and how many are left out: the newest, and the user's own newest one."""
    if len(frames) <= most:
        return list(frames), 0
    kept = list(frames[:most])
    own = next((frame for frame in frames if not frame.library), None)
    if own is not None and own not in kept:
        kept[-1] = own
    return kept, len(frames) - len(kept)
