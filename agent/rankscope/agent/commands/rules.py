"""`rankscope rules`: every rule with its defaults and what it needs."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
from typing import cast

import click
from rich.console import Console
from rich.table import Table

from rankscope.agent.component import discover, summary
from rankscope.agent.model import Span
from rankscope.agent.reports.found import COLOURS

WIDE = 120  # columns of a terminal in which what a rule needs has room beside what it means


@click.command(short_help="List every rule with its defaults and what it needs.")
@click.argument("names", nargs=-1, metavar="[RULE]...")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List every rule with its severity, its defaults and what it needs; with RULE, explain that one.

    \b
    rankscope rules
    rankscope rules LossSpike
    """
    classes = {cls.__name__: cls for cls in discover("rankscope.agent.rules").values()}
    unknown = [name for name in names if name not in classes]
    if unknown:
        close = difflib.get_close_matches(unknown[0], classes, n=1)
        hint = f"did you mean {close[0]}?" if close else "`rankscope rules` lists them"
        raise click.UsageError(f"no rule is called {', '.join(unknown)}; {hint}")
    chosen = [classes[name] for name in names or sorted(classes)]
    if as_json:
        click.echo(json.dumps([describe(cls) for cls in chosen], indent=2, ensure_ascii=False))
        return
    console = Console(highlight=False)
    if names:
        for cls in chosen:
            _explain(console, describe(cls))
        return
    wide = console.width >= WIDE
    columns = ("rule", "severity", "fires when", *(("needs",) if wide else ()))
    table = Table(*columns, box=None, header_style="bold", padding=(0, 2, 0, 0))
    for cls in chosen:
        known = describe(cls)
        severity = str(known["severity"])
        needs = (", ".join(cast("list[str]", known["needs"])),) if wide else ()
        table.add_row(str(known["name"]), f"[{COLOURS[severity]}]{severity}[/]", str(known["summary"]), *needs)
    console.print(table)


def describe(cls: type) -> dict[str, object]:
    """Return what is known of a rule: name, severity, for, scope, needs, parameters by name, and its text."""
    fields = [f for f in dataclasses.fields(cls) if f.init]
    defaults = {f.name: _default(f) for f in fields}
    return {
        "name": cls.__name__,
        "severity": defaults.pop("severity", "warning"),
        "for": defaults.pop("for_", "0s"),
        "scope": getattr(cls, "scope", "run"),
        "needs": list(getattr(cls, "needs", ())),
        "parameters": defaults,
        "summary": summary(cls),
        "documentation": inspect.getdoc(cls) or "",
    }


def _default(f: dataclasses.Field[object]) -> object:
    if f.default is not dataclasses.MISSING:
        value = f.default
    elif f.default_factory is not dataclasses.MISSING:
        value = f.default_factory()
    else:
        return None
    return str(value) if isinstance(value, Span) else value


def _explain(console: Console, known: dict[str, object]) -> None:
    severity = str(known["severity"])
    console.print(f"[bold]{known['name']}[/]  [{COLOURS[severity]}]{severity}[/]  for {known['for']}")
    console.print()
    console.print(flowing(str(known["documentation"])), markup=False)
    console.print()
    parameters = cast("dict[str, object]", known["parameters"])
    for name, value in parameters.items():
        console.print(f"  {name}: {value if value is not None else '(must be given)'}", style="dim")
    console.print()


def flowing(text: str) -> str:
    """Return a docstring with one line a paragraph, for a terminal to break where it ends; lists keep their lines."""
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        part if any(line.startswith((" ", "-", "*")) for line in part.splitlines()) else " ".join(part.splitlines())
        for part in paragraphs
    )
