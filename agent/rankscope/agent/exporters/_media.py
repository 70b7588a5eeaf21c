"""Images, histograms, tables, graphs and artifacts: put together from their pieces, and written when complete."""

from __future__ import annotations

import csv
import io
import json
import logging
import struct
from collections.abc import Mapping
from typing import cast

from rankscope.agent.exporters._event_file import EventFile
from rankscope.agent.exporters._records import event, graph_record
from rankscope.agent.exporters._summaries import graph, histogram, image, scalar, text
from rankscope.agent.model import Media
from rankscope.agent.runs.naming import safe_name

log = logging.getLogger("rankscope.tensorboard")

LARGEST = 64 << 20  # bytes of anything that goes into the event file
LARGEST_ARTIFACT = 4 << 30
INCOMPLETE = 64  # things of one rank whose pieces are still coming
SHOWN_ROWS = 100  # of a table; its CSV file holds all
_PNG = b"\x89PNG\r\n\x1a\n"


# What comes of data that is not what it says it is.
_WRONG = (ValueError, TypeError, KeyError, ArithmeticError, RecursionError, struct.error, csv.Error)
csv.field_size_limit(LARGEST)  # a cell of a table may be a whole document


class Malformed(ValueError):
    """What a rank sent is not what it says it is; the text says how."""


def take(file: EventFile, session: str, piece: Media) -> None:
    """Take a piece; when it is the last, write the whole. What is malformed or too large is left out, and said."""
    progress = file.progress
    key = f"{session}-{piece.id}"
    if piece.index == 0:
        if piece.last and piece.kind != "artifact":
            _finish(file, piece.kind, piece.tag, piece.step, piece.time, piece.metadata, piece.data)
            return
        if len(progress.pieces) >= INCOMPLETE:
            _forget(file, next(iter(progress.pieces)))
        progress.pieces[key] = {
            "kind": piece.kind,
            "tag": piece.tag,
            "step": piece.step,
            "time": piece.time,
            "metadata": dict(piece.metadata),
            "name": _artifact(piece) if piece.kind == "artifact" else f"pieces/{key}",
            "length": 0,
            "next": 0,
        }
    known = progress.pieces.get(key)
    if known is None:
        return
    length = cast(int, known["length"])
    limit = LARGEST_ARTIFACT if known["kind"] == "artifact" else LARGEST
    if known["next"] != piece.index or length + len(piece.data) > limit:
        why = "too large" if length + len(piece.data) > limit else f"piece {known['next']} is missing"
        log.warning("%s %r is left out: %s", known["kind"], known["tag"], why)
        _forget(file, key)
        return
    name = cast(str, known["name"])
    file.beside(name, length, piece.data)
    known["length"], known["next"] = length + len(piece.data), piece.index + 1
    if piece.last:
        kind, tag = cast(str, known["kind"]), cast(str, known["tag"])
        step, time = cast(int, known["step"]), cast(float, known["time"])
        metadata = cast("Mapping[str, object]", known["metadata"])
        del progress.pieces[key]
        if kind == "artifact":
            file.append(event(step, time, text(tag, _described(metadata, name))))
        else:
            _finish(file, kind, tag, step, time, metadata, file.read_beside(name))
            file.drop_beside(name)


def _forget(file: EventFile, key: str) -> None:
    known = file.progress.pieces.pop(key)
    file.drop_beside(cast(str, known["name"]))


def _finish(
    file: EventFile, kind: str, tag: str, step: int, time: float, metadata: Mapping[str, object], data: bytes
) -> None:
    try:
        match kind:
            case "image":
                file.append(event(step, time, _image(tag, metadata, data)))
            case "histogram":
                file.append(event(step, time, *_histogram(tag, metadata, data)))
            case "table":
                name = f"tables/{safe_name(tag, 'table')}-{step}.csv"
                file.append(event(step, time, text(tag, _markdown(data, name))))
                file.beside(name, 0, data)
            case "graph":
                file.append(graph_record(time, _graph(data)))
            case "reference":
                file.append(event(step, time, text(tag, _described(metadata, str(metadata.get("path", ""))))))
            case _:
                raise Malformed("of a kind that this agent does not know")
    except _WRONG as error:
        log.warning("%s %r is left out: %s", kind, tag, error)


def _image(tag: str, metadata: Mapping[str, object], data: bytes) -> bytes:
    if not data.startswith(_PNG):
        raise Malformed("no PNG")
    height, width, channels = (int(cast(int, metadata[key])) for key in ("height", "width", "channels"))
    return image(tag, data, height, width, channels)


def _histogram(tag: str, metadata: Mapping[str, object], data: bytes) -> list[bytes]:
    """Return the histogram and, where there are any, the number of values that are not finite."""
    numbers = struct.unpack(f"<{len(data) // 8}d", data)
    if len(numbers) % 2:
        raise Malformed("as many limits as counts are expected")
    half = len(numbers) // 2
    moments = [float(cast(float, metadata[key])) for key in ("min", "max", "sum", "sum_squares")]
    values = [histogram(tag, numbers[:half], numbers[half:], moments)] if half else []
    if metadata.get("nonfinite"):
        values.append(scalar(f"{tag}/nonfinite", float(cast(float, metadata["nonfinite"]))))
    return values


def _markdown(data: bytes, name: str) -> str:
    """Return the first rows of a CSV table as Markdown."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8", "replace"))))
    if not rows:
        raise Malformed("an empty table")
    cells = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in rows[: SHOWN_ROWS + 1]]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    lines.insert(1, "|" + " --- |" * len(cells[0]))
    rest = f"{len(rows) - 1 - SHOWN_ROWS} more rows, all " if len(rows) > SHOWN_ROWS + 1 else "All rows "
    return "\n".join(lines) + f"\n\n{rest}in `{name}`"


def _graph(data: bytes) -> bytes:
    """Return a graph definition of nodes as the SDK gives them: JSON lists of name, operation, inputs, shape."""
    nodes = cast("list[tuple[str, str, list[str], list[int] | None]]", json.loads(data))
    checked = [
        (str(name), str(operation), [str(source) for source in inputs], shape and [int(size) for size in shape])
        for name, operation, inputs, shape in nodes
    ]
    return graph(checked)


def _artifact(piece: Media) -> str:
    """Return where an artifact is kept: its content's digest keeps versions of one name apart."""
    digest = safe_name(str(piece.metadata.get("sha256", "")), "unknown")[:12]
    return f"artifacts/{digest}-{safe_name(str(piece.metadata.get('name', '')), 'artifact')}"


def _described(metadata: Mapping[str, object], where: str) -> str:
    name, size, digest = (metadata.get(key, "") for key in ("name", "bytes", "sha256"))
    return f"**{name}**: {size} bytes, sha256 `{digest or 'not taken'}`, at `{where}`"
