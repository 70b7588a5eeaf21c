"""`rankscope diagnose`: the agent's rules over logs that exist already."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import click
from rich.console import Console

from rankscope.agent.commands._failure import FOUND
from rankscope.agent.commands._replaying import records, replay
from rankscope.agent.component import Rule, discover
from rankscope.agent.reports.found import line, sum_up, tell
from rankscope.agent.runs.roles import Roles


def default_rules() -> list[tuple[str, Rule]]:
    """Return every rule of a run with its defaults; those that mean nothing until configured are left out."""
    classes = [cls for cls in discover("rankscope.agent.rules").values() if getattr(cls, "scope", "") == "run"]
    return [(cls.__name__, cls()) for cls in classes if not needs_configuration(cls)]


def needs_configuration(cls: type) -> bool:
    """Tell whether a rule has parameters without a default."""
    missing = dataclasses.MISSING
    return any(f.init and f.default is missing and f.default_factory is missing for f in dataclasses.fields(cls))


@click.command(short_help="Say what went wrong in logs that exist already, and why.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each finding.")
@click.option("--rule", "only", multiple=True, metavar="NAME", help="Only these rules; `rankscope rules` lists them.")
@click.option("--config", type=click.Path(path_type=Path), help="Take rules and roles from this configuration.")
def command(paths: tuple[Path, ...], as_json: bool, only: tuple[str, ...], config: Path | None) -> None:
    """Put the agent's rules to logs that exist already, and say what went wrong and why.

    PATH is a run folder, TensorBoard event files or a folder of them, a Hugging Face trainer_state.json, CSV,
    JSONL, or a text log with lines such as `step 120 loss 2.31`. No agent is needed.

    \b
    rankscope diagnose runs/sql-generator/exp-1-3f2a9c01
    rankscope diagnose outputs/checkpoint-2000/trainer_state.json
    rankscope diagnose train.log --rule LossSpike
    rankscope diagnose metrics.jsonl --json | jq .summary

    Exit status: 0 nothing found, 1 something found, 2 wrong use, 3 nothing could be read.
    """
    rules, roles = default_rules(), Roles()
    if config is not None:
        from rankscope.agent.commands.backtest import configured

        rules, roles = configured(config)
    unknown = set(only) - {name for name, _ in rules}
    if unknown:
        raise click.UsageError(f"no rule is called {', '.join(sorted(unknown))}; see `rankscope rules`")
    rules = [(name, rule) for name, rule in rules if not only or name in only]
    console = Console(highlight=False)
    found = 0
    for record in records(paths):
        run, fired = replay(record, rules, roles)
        here = 0
        if not as_json:
            console.rule(
                f"[bold]{record.name}[/] [dim]{record.files[0].parent if len(record.files) > 1 else record.files[0]}"
            )
        for one in fired:
            here += 1
            if as_json:
                click.echo(line(one))
            else:
                tell(console, one, ranks=len(record.files) > 1 or bool(one.finding.rank))
        found += here
        if not as_json:
            sum_up(console, run, here, record.bad)
        elif record.bad:
            click.echo(f"{record.files[0]}: {len(record.bad)} lines could not be read: {record.bad[0]}", err=True)
    sys.exit(FOUND if found else 0)
