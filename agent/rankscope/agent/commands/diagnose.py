"""`rankscope diagnose`: the agent's rules over logs that exist already."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from rankscope.agent.commands._failure import FOUND, Failure
from rankscope.agent.component import Rule, discover
from rankscope.agent.reports.found import line
from rankscope.agent.reports.readers import jsonl
from rankscope.agent.reports.replay import Replay


def default_rules() -> list[tuple[str, Rule]]:
    rules: list[tuple[str, Rule]] = []
    for cls in discover("rankscope.agent.rules").values():
        try:
            rules.append((cls.__name__, cls()))
        except TypeError:
            continue
    return rules


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a finding.")
def command(paths: tuple[Path, ...], as_json: bool) -> None:
    """Put the rules to logs that exist already."""
    found = False
    for path in paths:
        replay = Replay(default_rules(), path.stem)
        bad: list[str] = []
        try:
            with path.open() as stream:
                for fired in replay.feed(jsonl.read(stream, bad)):
                    found = True
                    click.echo(line(fired))
        except OSError as error:
            raise Failure(f"cannot read {path}: {error.strerror}") from None
    sys.exit(FOUND if found else 0)
