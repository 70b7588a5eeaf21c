"""For tests of training code: what would have been sent, without an agent.

from rankscope import sdk
from rankscope.sdk.testing import capture

def test_loss_is_logged():
    with capture() as sent:
        train(steps=3)
    assert [step for step, _ in sent.scalar("loss")] == [0, 1, 2]
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rankscope.sdk import _guard, _live, _runtime
from rankscope.sdk._begin import Request
from rankscope.sdk._reader import Reader
from rankscope.sdk._records import Rows, Shape


class Point(NamedTuple):
    """A number at a step. `late`: it became known after its step was logged."""

    step: int
    value: float
    late: bool = False


@dataclass(frozen=True)
class Event:
    """A text, alert, expect, goodbye, or a piece of something large (`media`), with its fields."""

    kind: str
    step: int
    fields: Mapping[str, object]
    data: bytes = b""


@dataclass
class Captured:
    """All that was sent between the first line of the block and its end, or up to now while it runs."""

    scalars: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])
    phases: dict[str, list[Point]] = field(default_factory=dict[str, list[Point]])  # seconds
    events: list[Event] = field(default_factory=list[Event])
    dropped: dict[str, int] = field(default_factory=dict[str, int])  # by reason
    warnings: dict[str, int] = field(default_factory=dict[str, int])  # by kind
    hello: dict[str, object] = field(default_factory=dict[str, object])  # who the rank says that it is
    reader: Reader | None = field(default=None, repr=False)

    def scalar(self, name: str) -> list[tuple[int, float]]:
        """Return the steps and values of a name, in the order in which they were logged."""
        self.read()
        return [(point.step, point.value) for point in self.scalars.get(name, [])]

    def texts(self, tag: str) -> list[str]:
        """Return the texts logged under a tag."""
        self.read()
        return [str(e.fields.get("value")) for e in self.events if e.kind == "text" and e.fields.get("tag") == tag]

    def read(self) -> None:
        """Take in what was logged since the last look."""
        if self.reader is None:
            return
        while True:
            _, found = self.reader.read(5000, 1 << 20)
            if not found:
                return
            for one in found:
                if isinstance(one, Rows):
                    self._rows(one, self.reader.shape(one.shape))
                else:
                    self.events.append(Event(one.kind, one.step, dict(one.fields), one.data))

    def _rows(self, rows: Rows, shape: Shape) -> None:
        for row, step in enumerate(rows.steps):
            for column, value in zip(shape.columns, rows.one(row), strict=True):
                series = self.phases if column.kind == "phase" else self.scalars
                series.setdefault(column.name, []).append(Point(step, value, shape.late))


@contextmanager
def capture(project: str = "", name: str = "", config: Mapping[str, object] | None = None) -> Generator[Captured]:
    """Take what the SDK would send instead of sending it, through the very journal that a training writes.

    A session begins with the block; an `init()` inside goes on with it, and `finish()` ends it.
    """
    sent = Captured()
    with (
        tempfile.TemporaryDirectory(prefix="rankscope-capture-") as folder,
        _runtime.captured(Path(folder), Request(project, name, config)) as begun,
    ):
        sent.hello = dict(begun.fields)
        sent.reader = Reader(begun.folder)
        try:
            yield sent
        finally:
            _runtime.stop(0)
            sent.read()
            glance = _live.Glance(begun.folder)
            sent.dropped, sent.warnings = glance.dropped, dict(_guard.failures)
            glance.close()
            sent.reader.close()
            sent.reader = None
