"""A run's configuration as TensorBoard shows it: HParams in the metrics' own folder, and a table of text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import cast

from rankscope.agent.exporters._records import event
from rankscope.agent.exporters._summaries import marker, text
from rankscope.agent.exporters._wire_format import double, field, integer
from rankscope.agent.model import RankInfo

SUCCESS, FAILURE, RUNNING = 1, 2, 3  # the plugin's Status


def flatten(config: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield names and values of a nested configuration, names joined with `/`."""
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(cast("Mapping[str, object]", value), f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", value


def config_record(rank: RankInfo) -> bytes:
    """Return the record of the configuration as a Markdown table under the tag `config`."""
    rows = [f"| `{_cell(name)}` | {_cell(_text(value))} |" for name, value in flatten(rank.config)]
    table = "\n".join(["| name | value |", "| --- | --- |", *rows])
    return event(0, rank.started, text("config", table))


def start_record(rank: RankInfo) -> bytes:
    """Return the record that begins a session of the HParams plugin; a run's ranks form one group."""
    hparams = b"".join(field(1, field(1, name) + field(2, _value(value))) for name, value in flatten(rank.config))
    group = field(4, f"{rank.key.project}/{rank.key.run}")
    return _record("session_start_info", rank.started, field(3, hparams + group + double(5, rank.started)))


def end_record(status: int, time: float) -> bytes:
    """Return the record that ends a session: of one length whatever the status, so that it can be replaced."""
    return _record("session_end_info", time, field(4, integer(1, status) + double(2, time)))


def _record(name: str, time: float, content: bytes) -> bytes:
    return event(0, time, marker(f"_hparams_/{name}", "hparams", content))


def _value(value: object) -> bytes:
    """Return a protobuf Value. The plugin's page breaks on numbers that JSON lacks, so those become text."""
    if isinstance(value, bool):
        return integer(4, value)
    if isinstance(value, (int, float)) and abs(value) < 1e300 and math.isfinite(value):
        return double(2, value)
    return field(3, _text(value))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", "<br>")
