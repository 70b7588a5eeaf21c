"""Times the parts of a step: what runs inside a phase counts for the innermost one alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic
from types import TracebackType

from rankscope.sdk._live import Live

_thread = threading.get_ident


class Phases:
    """Seconds by phase since the last row. Only the thread that began with phases is timed, while it lives."""

    __slots__ = ("live", "owner", "page", "since", "spent", "stack", "thread")

    def __init__(self, live: Live) -> None:
        self.live = live
        self.page = live.page
        self.spent: dict[str, float] = {}
        self.stack: list[Phase] = []
        self.since = 0.0  # when the innermost phase began or went on
        self.owner = 0
        self.thread: threading.Thread | None = None  # the owner's

    def own(self, thread: int) -> bool:
        """Make the present thread the owner, unless there is one."""
        if self.owner < 0 or (self.thread is not None and self.thread.is_alive()):
            return False
        self.owner, self.thread = thread, threading.current_thread()
        self.stack.clear()
        return True

    def take(self) -> dict[str, float] | None:
        """Return what the owner thread spent since the last call; an open phase goes on into the next step."""
        if self.owner != _thread() or not (self.spent or self.stack):
            return None
        if self.stack:
            now = monotonic()
            name = self.stack[-1].name
            self.spent[name] = self.spent.get(name, 0.0) + now - self.since
            self.since = now
        spent, self.spent = self.spent, {}
        return spent


class Phase:
    """`with sdk.phase("forward"):` — holds no state of its own, so that one object serves all uses of a name."""

    __slots__ = ("byte", "name", "phases")

    def __init__(self, phases: Phases, name: str) -> None:
        self.phases = phases
        self.name = name
        self.byte = phases.live.phase(name)

    def __reduce__(self) -> tuple[Callable[[str], AbstractContextManager[None]], tuple[str]]:
        return _again, (self.name,)  # a copy, here or in another process, belongs to the session that is there

    def __enter__(self) -> None:
        phases = self.phases
        thread = _thread()
        if phases.owner != thread and not phases.own(thread):
            return
        now = monotonic()
        stack = phases.stack
        if stack:
            name = stack[-1].name
            phases.spent[name] = phases.spent.get(name, 0.0) + now - phases.since
        stack.append(self)
        phases.since = now
        phases.page[0] = self.byte

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        phases = self.phases
        stack = phases.stack
        if phases.owner != _thread() or not stack:
            return
        now = monotonic()
        top = stack[-1]
        spent = phases.spent
        spent[top.name] = spent.get(top.name, 0.0) + now - phases.since
        phases.since = now
        if top is self:
            stack.pop()
        elif self in stack:  # phases that overlap, as in asyncio tasks
            stack.remove(self)
        phases.page[0] = stack[-1].byte if stack else 0


def _again(name: str) -> AbstractContextManager[None]:
    from rankscope import sdk

    return sdk.phase(name)


class NoPhase:
    """A phase while there is no session."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None
