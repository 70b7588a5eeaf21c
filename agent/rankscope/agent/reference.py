"""Writes down what the components say of themselves: the sample configuration and the tables of the README."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_type_hints

import yaml

from rankscope.agent.component import discover, summary
from rankscope.agent.config import UNITS, Config
from rankscope.agent.model import Span

HEAD = """\
# Every key of the agent's configuration with its default; leave out what you do not change.
# Durations: 500ms, 30s, 2m, 4h, 7d. What must hold before a rule's alert fires (`for`): a duration or "5 steps".
# Environment variables win: RANKSCOPE_HTTP__LISTEN=127.0.0.1:9781. Secrets can be read from files: *_file.
# Check a file with `rankscope check FILE`; a running agent takes it over on SIGHUP or POST /-/reload.
"""

HOSTNAME = """\
# The label `hostname` of every series and alert; empty: the node's own name.
hostname: ''
"""

EXAMPLES = {
    "roles": "# Further names of what a number is, beside those that every trainer uses.\n"
    "roles: {}\n"
    "#  loss: [objective]\n",
    "MetricThreshold": "  # MetricThreshold:\n"
    '  #   - {name: AccuracyTooLow, expr: "val_accuracy < 0.5", after: 1000 steps}\n',
}
WIDTH = 116
SECTIONS = ("http", "grpc", "journals", "runs", "alerts")


def sample() -> str:
    """Return the sample configuration: every key with its default, explained by the component itself."""
    hints = get_type_hints(Config)
    parts = [HEAD, HOSTNAME, *(_section(name, hints[name], 0) for name in SECTIONS), EXAMPLES["roles"]]
    for family in ("samplers", "exporters"):
        classes = discover(f"rankscope.agent.{family}")
        parts.append(f"{family}:  # any of them: off\n" + "\n".join(_section(n, c, 1) for n, c in classes.items()))
    rules = [_section(cls.__name__, cls, 1) for cls in discover("rankscope.agent.rules").values() if not _required(cls)]
    parts.append("rules:  # any of them: off\n" + "\n".join(rules) + "\n" + EXAMPLES["MetricThreshold"])
    kinds = discover("rankscope.agent.notifiers").items()
    notifiers = [_comment(_section(name, cls, 1, listed=True)) for name, cls in kinds]
    parts.append("notifiers: {}\n" + "\n".join(notifiers))
    return "\n".join(parts)


def rules_table() -> str:
    """Return the README's table of rules."""
    lines = ["| rule | severity | what it means |", "| --- | --- | --- |"]
    for cls in discover("rankscope.agent.rules").values():
        severity = next((f.default for f in dataclasses.fields(cls) if f.name == "severity"), "")
        lines.append(f"| `{cls.__name__}` | {severity} | {summary(cls)} |")
    return "\n".join(lines) + "\n"


def _section(name: str, cls: type, depth: int, *, listed: bool = False) -> str:
    indent = "  " * depth
    lines = textwrap.wrap(summary(cls), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
    keys = list(_keys(cls))
    lines.append(f"{indent}{name}:" + ("" if keys else " {}"))
    first = True
    for key, default, note in keys:
        dash = "- " if listed and first else "  " if listed else ""
        line = f"{indent}  {dash}{key}: {default}"
        if note and len(line) + len(note) > WIDTH - 4:
            place = " " * (len(indent) + 2 + len(dash))
            lines += textwrap.wrap(note, WIDTH, initial_indent=f"{place}# ", subsequent_indent=f"{place}# ")
            note = ""
        lines.append(line + (f"  # {note}" if note else ""))
        first = False
    return "\n".join(lines) + "\n"


def _keys(cls: type) -> Iterator[tuple[str, str, str]]:
    """Yield key, default as YAML and explanation of each field."""
    notes = _notes(cls)
    hints = get_type_hints(cls, include_extras=True)
    for f in dataclasses.fields(cls):
        if not f.init:
            continue
        if f.default is not dataclasses.MISSING:
            default: object = f.default
        elif f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        else:
            default = "…"
        yield f.name.rstrip("_"), _yaml(default, hints[f.name]), notes.get(f.name, "")


def _yaml(value: object, hint: Any) -> str:
    if "seconds" in getattr(hint, "__metadata__", ()) and isinstance(value, (int, float)):
        return duration(value)
    if isinstance(value, Span):
        return f"{value.steps} steps" if value.steps else duration(value.seconds)
    if isinstance(value, tuple):
        value = list(cast("tuple[object, ...]", value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...").strip()


def duration(seconds: float) -> str:
    """Return a duration as people write it: 90 → `90s`, 7200 → `2h`."""
    for unit, size in sorted(UNITS.items(), key=lambda item: -item[1]):
        if seconds >= size and (seconds / size).is_integer():
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _notes(cls: type) -> dict[str, str]:
    """Return what a class says of its fields, inherited ones too: the string below each, or the comment beside it."""
    notes: dict[str, str] = {}
    for parent in reversed(cls.__mro__[1:]):
        if dataclasses.is_dataclass(parent):
            notes |= _notes(parent)
    source = textwrap.dedent(inspect.getsource(cls))
    lines = source.splitlines()
    body = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            notes[node.target.id] = " ".join(after.value.value.split())
        else:
            _, mark, comment = lines[(node.end_lineno or 1) - 1].partition("  # ")
            if mark and not comment.startswith(("noqa", "type:", "pyright:")):
                notes[node.target.id] = comment.strip()
    return notes


def _comment(text: str) -> str:
    return "".join(line if line.lstrip().startswith("#") else f"#{line}" for line in text.splitlines(keepends=True))


def _required(cls: type) -> bool:
    return any(
        f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING for f in dataclasses.fields(cls)
    )


def main() -> None:
    """Write the sample configuration to one file, and the rules' table between its marks in another."""
    target, readme = Path(sys.argv[1]), Path(sys.argv[2])
    target.write_text(sample())
    head, _, rest = readme.read_text().partition("<!-- rules -->\n")
    _, _, tail = rest.partition("<!-- /rules -->")
    readme.write_text(f"{head}<!-- rules -->\n{rules_table()}<!-- /rules -->{tail}")


if __name__ == "__main__":
    main()
