"""What lies at a path: finds the runs there, and the reader of each file."""

from __future__ import annotations

import gzip
import heapq
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from rankscope.agent.reports.readers import csv, jsonl, text, trainer_state
from rankscope.agent.reports.rows import Row

EVENTS = "events.out.tfevents"
_RANK = re.compile(r"rank[_-]?(\d+)$")


class Unreadable(Exception):
    """A path at which there is nothing to read; one line that says why."""


@dataclass
class Record:
    """One recorded run: its files, and what is known of it beside them."""

    name: str
    files: list[Path]
    config: dict[str, object] = field(default_factory=dict[str, object])
    bad: list[str] = field(default_factory=list[str])  # what could not be read of it

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.files)

    def rows(self, progress: Callable[[int], None] = lambda _: None) -> Iterator[Row]:
        """Yield the rows of all files, by time where there are several. Raises Unreadable and OSError.

        `progress` is told now and then how many bytes have been read.
        """
        with ExitStack() as stack:
            raw = [stack.enter_context(file.open("rb")) for file in self.files]
            streams = [_read(file, stream, self.bad) for file, stream in zip(self.files, raw, strict=True)]
            merged = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda row: row[2])
            for number, row in enumerate(merged):
                if not number % 4096:
                    progress(sum(stream.tell() for stream in raw))
                yield row
            progress(self.size)


def find(path: Path) -> list[Record]:
    """Return the runs at a path: a file, or a folder that holds some. Raises Unreadable and OSError."""
    if path.is_dir():
        found = _folder(path)
        if not found:
            raise Unreadable(f"{path}: no event files, run folders or trainer_state.json in it")
        return found
    if not path.exists():
        raise Unreadable(f"{path}: no such file or folder")
    name = path.parent.name if path.name.startswith((EVENTS, "trainer_state")) else path.name.split(".")[0]
    return [Record(name or path.name, [path])]


def _folder(folder: Path) -> list[Record]:
    """Return the runs in a folder: the ranks of a run folder together, every other folder with event files by
    itself.
    """
    groups: dict[Path, list[Path]] = {}
    for file in sorted(folder.rglob(f"{EVENTS}*")):
        owner = file.parent.parent if _RANK.search(file.parent.name) else file.parent
        groups.setdefault(owner, []).append(file)
    records = [Record(owner.name or str(owner), files, _config(owner)) for owner, files in groups.items()]
    if records:
        return records
    states = sorted(folder.rglob("trainer_state.json"), key=lambda state: state.stat().st_mtime)
    if states:
        return [Record(folder.name, [states[-1]])]  # the newest holds the history of all
    logs = [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.name.endswith((".jsonl", ".jsonl.gz", ".csv"))
    ]
    return [record for file in logs for record in find(file)]


def _config(folder: Path) -> dict[str, object]:
    try:
        known = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return {}
    config = cast("dict[str, object]", known).get("config") if isinstance(known, dict) else None
    return cast("dict[str, object]", config) if isinstance(config, dict) else {}


def _read(file: Path, raw: IO[bytes], bad: list[str]) -> Iterator[Row]:
    found = _RANK.search(file.parent.name)
    rank = int(found[1]) if found else 0
    if EVENTS in file.name:
        from rankscope.agent.reports.readers import events  # only here: it loads TensorBoard

        yield from events.read(raw, bad, rank)
        return
    plain = gzip.GzipFile(fileobj=raw) if file.suffix == ".gz" else raw
    stream = io.TextIOWrapper(plain, errors="replace", newline="")
    head = stream.read(65536)
    stream.seek(0)
    reader = kind(file.name.removesuffix(".gz"), head)
    try:
        yield from reader(stream, bad)
    except (ValueError, EOFError, gzip.BadGzipFile) as error:
        raise Unreadable(f"{file}: {error}") from None


def kind(name: str, head: str) -> Callable[[IO[str], list[str]], Iterator[Row]]:
    """Return the reader of a file by its name, and by its beginning where that does not tell."""
    if name.endswith((".csv", ".tsv")):
        return csv.read
    if name.endswith((".jsonl", ".ndjson")):
        return jsonl.read
    if name.startswith("trainer_state"):
        return trainer_state.read
    first = next((line.strip() for line in head.splitlines() if line.strip()), "")
    if name.endswith(".json") and ('"log_history"' in head or not first.endswith("}")):
        return trainer_state.read
    if first.startswith("{"):
        try:
            json.loads(first)
        except ValueError:
            return text.read if "'" in first else trainer_state.read
        return jsonl.read
    cells = first.split(",")
    if len(cells) > 1 and not any(cell.strip().replace(".", "").isdigit() for cell in cells) and ":" not in first:
        return csv.read
    return text.read
