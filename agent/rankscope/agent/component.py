"""How a component is found, configured and built: a folder is a registry, a file is a thing.

A component is a dataclass whose fields are its configuration and whose docstring is its documentation. It is found
by its place: the module `rules/loss_spike.py` holds the class `LossSpike`. Nothing else has to be told about it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from rankscope.agent.model import Batch, Heartbeat, Metric, RankInfo, RankKey, Sample, Severity, Span, Stacks, Verdict

if TYPE_CHECKING:
    from rankscope.agent.runs.state import Node, Run


class Sampler(Protocol):
    """Reads the machine. The loop around it owns interval, deadline, success metrics and logging.

    `sample` may block (it runs in a thread) and may keep state between calls; it yields what it could read and leaves
    out what it could not. Raising means that this collection failed as a whole.
    """

    interval: float  # seconds between two collections
    metrics: ClassVar[tuple[Metric, ...]]  # what it can give

    def sample(self, node: Node) -> Iterable[Sample]: ...

    def close(self) -> None: ...


class Rule(Protocol):
    """A pure function of the state and the time: what is wrong with a run (or the node) now."""

    scope: ClassVar[Literal["run", "node"]]
    needs: ClassVar[tuple[str, ...]]  # roles or metrics without which it says Incomplete, for people to read
    severity: Severity
    for_: Span  # how long the condition must hold before the alert fires

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        """Judge `run` (scope "run") or the node (scope "node", `run` is None) at `now`, Unix seconds."""
        ...


class Unsafe(OSError):
    """Records of some ranks could not be made safe, and are kept for the next try; those of all others are safe."""

    def __init__(self, message: str, ranks: frozenset[RankKey]) -> None:
        super().__init__(message)
        self.ranks = ranks


class Exporter(Protocol):
    """Takes every point of every rank, in order, once. Calls come from one thread, never two at a time."""

    def begin(self, rank: RankInfo) -> int:
        """A session of a rank begins or goes on; return the last sequence number that is safe (0: none)."""
        ...

    def write(self, rank: RankInfo, batch: Batch) -> None:
        """Take a batch that follows directly on what came before in its session."""
        ...

    def commit(self) -> None:
        """Make all that was written so far safe. Raises Unsafe where it cannot, with whose records are not."""
        ...

    def close(self) -> None: ...


class Session(Protocol):
    """One session of one rank, as a receiver sees it."""

    @property
    def rank(self) -> RankInfo: ...

    @property
    def safe(self) -> int:
        """The last sequence number that is on disk."""
        ...

    async def take(self, batch: Batch) -> None:
        """Take a batch, waiting while there is no room for more.

        Raises ValueError when it overlaps with what was taken already, and ConnectionAbortedError when another stream
        has taken the session over.
        """
        ...

    def beat(self, heartbeat: Heartbeat) -> None: ...

    def refuse(self, reason: str, points: int) -> None:
        """Count points that the receiver could not make sense of."""
        ...

    async def saved(self) -> int:
        """Wait until more is safe than was last returned here; return the new last safe sequence number."""
        ...

    async def asked(self) -> int | None:
        """Wait until somebody wants to know where the rank is; return the number of the question.

        None: it shall send what it has without waiting for more.
        """
        ...

    def told(self, question: int, stacks: Stacks) -> None:
        """The rank answered a question."""
        ...

    def close(self) -> None:
        """The stream ended; the session may go on in another one."""
        ...


class Intake(Protocol):
    """Where receivers put what they receive."""

    async def open(self, hello: RankInfo) -> Session:
        """Begin a session or go on with it. Raises OSError when its record cannot be written now."""
        ...


class Receiver(Protocol):
    """Brings values in from outside and puts them into the intake."""

    async def start(self, intake: Intake) -> None: ...

    async def stop(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Notification:
    """One message to one receiver about one group of alerts: Alertmanager's webhook payload, version 4."""

    id: str  # stable over retries
    payload: Mapping[str, object]


class Refused(Exception):
    """The receiver will never take this notification: do not try again. The message names no secret."""


class Retry(Exception):
    """The receiver did not take this notification now. `after`: seconds it asked to wait, if it did."""

    def __init__(self, message: str, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after


@runtime_checkable
class Notifier(Protocol):
    """Sends one notification, or raises Refused or Retry. The worker around it owns queue, retries and logging."""

    min_severity: Severity

    def send(self, notification: Notification) -> Awaitable[None]: ...

    def close(self) -> Awaitable[None]: ...


def class_name(module: str) -> str:
    """`loss_spike` → `LossSpike`; acronyms are written as words (`gpu` → `Gpu`), NaN and OOM as in the contract."""
    special = {"nan": "NaN"}
    return "".join(special.get(word, word.capitalize()) for word in module.split("_"))


@functools.cache
def discover(package: str) -> Mapping[str, type]:
    """Return the component classes of a package by module name, in alphabetical order.

    A module is a component when it holds a dataclass of its own name; a module whose name begins with an underscore,
    or that holds no such class, is not. Raises ImportError when a module cannot be imported.
    """
    found: dict[str, type] = {}
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda info: info.name):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        thing = getattr(module, class_name(info.name), None)
        if inspect.isclass(thing) and is_dataclass(thing):
            found[info.name] = thing
    return MappingProxyType(found)


def summary(component: type) -> str:
    """Return the first sentence of a component's documentation."""
    return (inspect.getdoc(component) or "").split("\n\n")[0].replace("\n", " ")
