"""A loader whose waits are timed as the phase `data` of whatever session there is; else it is as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Generic, TypeVar, cast

from rankscope.sdk import _session
from rankscope.sdk._phases import NoPhase

T = TypeVar("T")
_NO_PHASE = NoPhase()


def timed(iterable: Iterable[T]) -> Iterable[T]:
    """Return what iterates over the same; what cannot be iterated over is left as it is, and so is an async one."""
    kind = type(iterable)
    if hasattr(kind, "__next__"):
        return Waits(cast("Iterator[T]", iterable))
    if hasattr(kind, "__iter__") or hasattr(kind, "__getitem__"):
        return Batches(iterable)
    return iterable


def _waiting() -> AbstractContextManager[None]:
    session = _session.current
    return _NO_PHASE if session is None else session.phase("data")


class _Same(Generic[T]):
    """Hides nothing of what it stands for."""

    def __init__(self, given: Iterable[T]) -> None:
        self._given = given

    def __len__(self) -> int:
        return len(cast(Any, self._given))

    def __bool__(self) -> bool:
        return bool(self._given)

    def __getitem__(self, index: object) -> object:
        return cast(Any, self._given)[index]

    def __getattr__(self, name: str) -> object:
        if name == "_given" or name.startswith("__"):  # not yet set, as in a copy that is being made
            raise AttributeError(name)
        return getattr(self._given, name)  # a loader's dataset, sampler, …


class Batches(_Same[T]):
    """A loader, to be iterated over again and again."""

    def __iter__(self) -> Iterator[T]:
        with _waiting():
            return Waits(iter(self._given))


class Waits(_Same[T]):
    """Hands items on and holds none: memory that the training lets go of is free."""

    def __init__(self, given: Iterator[T]) -> None:
        super().__init__(given)
        self._next = given.__next__

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with _waiting():
            return self._next()
