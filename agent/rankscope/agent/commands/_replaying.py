"""What `diagnose` and `backtest` share: recorded runs before rules, a progress bar, findings as they fire."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from rankscope.agent.commands._failure import Failure
from rankscope.agent.component import Rule
from rankscope.agent.reports.readers.opening import Record, Unreadable, find
from rankscope.agent.reports.replay import Fired, Replay
from rankscope.agent.runs.roles import Roles

SMALL = 1 << 20  # bytes that are read in no time


def records(paths: Sequence[Path]) -> list[Record]:
    """Return the runs at all paths. Raises Failure when there is nothing at one of them."""
    try:
        return [record for path in paths for record in find(path)]
    except Unreadable as error:
        raise Failure(str(error)) from None
    except OSError as error:
        raise Failure(f"cannot read {error.filename}: {error.strerror}") from None


def replay(record: Record, rules: Sequence[tuple[str, Rule]], roles: Roles) -> tuple[Replay, Iterator[Fired]]:
    """Return the replay of a record, and what fires in it while it is read. Raises Failure when it cannot be read."""
    world = len({file.parent for file in record.files})  # a rank's files lie in a folder of their own
    run = Replay(rules, record.name, roles, dict(record.config), world)

    def fired() -> Iterator[Fired]:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        hidden = not sys.stderr.isatty() or record.size < SMALL
        try:
            with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
                task = progress.add_task(record.name, total=record.size)
                yield from run.feed(record.rows(lambda read: progress.update(task, completed=read)))
        except Unreadable as error:
            raise Failure(str(error)) from None
        except OSError as error:
            raise Failure(f"cannot read {record.files[0]}: {error.strerror}") from None
        if not run.rows:
            reason = record.bad[0] if record.bad else "no line with a step and a number"
            raise Failure(f"{record.files[0]}: nothing to judge in it: {reason}")

    return run, fired()
