"""What the journal says of its rank (`hello.json`), and what is gathered around it before it is sent."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from rankscope.sdk._identity import Identity, start_ticks
from rankscope.sdk._values import clean

MAX_CONFIG = 900_000  # bytes; the agent takes no more than a million
MAX_DEPTH = 12
MAX_PARTS = 50_000  # values of a configuration: of parts that hold each other there may be any number
MAX_BITS = 1000  # of an integer: what lies beyond is no float either
_VERSIONS = ("rankscope", "torch", "numpy", "transformers", "lightning", "accelerate", "deepspeed", "triton")


def plain(value: object, above: tuple[object, ...] = (), parts: Iterator[int] | None = None) -> object:
    """Return a configuration as JSON holds it; non-finite numbers as text, what JSON does not know by its `str`.

    What cannot be shown is named by its type: a setting that is missing must not cost the run. `above` is what the
    value lies in.
    """
    parts = itertools.count() if parts is None else parts
    if len(above) > MAX_DEPTH or next(parts) > MAX_PARTS or any(value is one for one in above):
        return "…"
    try:
        return _plain(value, (*above, value), parts)
    except Exception:  # noqa: BLE001 (an object of the user's that cannot be shown)
        return f"<{type(value).__name__}>"


def _plain(value: object, above: tuple[object, ...], parts: Iterator[int]) -> object:
    if isinstance(value, int):
        return value if value.bit_length() <= MAX_BITS else f"an integer of {value.bit_length()} bits"
    if value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    if isinstance(value, str):
        return clean(value, 64 * 1024)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    elif type(value).__name__ == "Namespace" and hasattr(value, "__dict__"):
        value = vars(value)
    if isinstance(value, Mapping):
        table = cast("Mapping[object, object]", value)
        return {clean(key, 256): plain(table[key], above, parts) for key in list(table)[:10_000]}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(part, above, parts) for part in list(cast("Sequence[object]", value))[:10_000]]
    return clean(value, 4096)


def config_json(config: object) -> str:
    """Return `init(config=…)` as a JSON object, cut down to a note where it is too large to travel."""
    value = plain(config if config is not None else {})
    text = json.dumps(value if isinstance(value, dict) else {"config": value})
    return text if len(text) <= MAX_CONFIG else json.dumps({"config": f"left out: {len(text)} bytes"})


class Asked(Protocol):
    """What `init()` was asked for, as given."""

    @property
    def project(self) -> object: ...
    @property
    def name(self) -> object: ...
    @property
    def config(self) -> object: ...
    @property
    def tags(self) -> object: ...
    @property
    def notes(self) -> object: ...


def describe(identity: Identity, session: int, asked: Asked, journal: Path) -> dict[str, object]:
    """Return the fields of Hello that the rank knows itself (proto/rankscope/v1/ingest.proto)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return {
        "session": session,
        "project": clean(asked.project, 256),
        "name": clean(asked.name, 256),
        **dataclasses.asdict(identity),
        "hostname": os.uname().nodename,
        "pid": os.getpid(),
        "pid_start_ticks": start_ticks(os.getpid()),
        "device_uuids": [part for part in visible.split(",") if part.startswith(("GPU-", "MIG-"))],
        "visible_devices": visible,
        "config_json": config_json(asked.config),
        "tags": _tags(asked.tags),
        "notes": "" if asked.notes is None else clean(asked.notes, 100_000),
        "cgroup": _cgroup(),
        "journal": str(journal),
        "environment": {
            "python": platform.python_version(),
            "command": clean(" ".join(sys.orig_argv), 2000),
            "directory": directory(),
            "user": os.environ.get("USER", str(os.geteuid())),
            **({"cuda_device_order": order} if (order := os.environ.get("CUDA_DEVICE_ORDER", "")) else {}),
        },
    }


def _tags(given: object) -> list[str]:
    if isinstance(given, str):
        return [clean(given, 256)]
    if not isinstance(given, (list, tuple, set, frozenset)):
        return []
    return [clean(plain(tag), 256) for tag in list(cast("Sequence[object]", given))[:64]]


def directory() -> str:
    """Return where the process is, "" where that folder is gone."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def surroundings(path: Sequence[str], place: str) -> dict[str, str]:
    """Return versions and the git commit: gathered by the sender, off the rank's time, importing nothing."""
    found = dict(_versions(path))
    if place and (commit := _git_commit(Path(place))):
        found["git_commit"] = commit
    return found


def _cgroup() -> str:
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return line[3:]
    except OSError:
        pass
    return ""


def _versions(path: Sequence[str]) -> Iterator[tuple[str, str]]:
    import importlib.metadata

    for name in _VERSIONS:
        found = next(iter(importlib.metadata.distributions(name=name, path=list(path))), None)
        if found is not None:
            yield name, found.version
            if name == "torch" and "+cu" in found.version:
                yield "cuda", found.version.rpartition("+cu")[2]


def _git_commit(place: Path) -> str:
    """Return the commit checked out around a folder, "" if there is none."""
    for folder in (place, *place.parents):
        head = folder / ".git" / "HEAD"
        try:
            text = head.read_text().strip()
            if not text.startswith("ref: "):
                return text[:64]
            ref = text[5:]
            loose = folder / ".git" / ref
            if loose.exists():
                return loose.read_text().strip()[:64]
            for line in (folder / ".git" / "packed-refs").read_text().splitlines():
                if line.endswith(" " + ref):
                    return line.split()[0][:64]
        except OSError:
            continue
    return ""
