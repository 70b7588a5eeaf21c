"""`rankscope backtest`: what a rule set would have fired on recorded runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from rankscope.agent.commands._failure import FOUND, Failure
from rankscope.agent.commands._replaying import records, replay
from rankscope.agent.component import Rule
from rankscope.agent.reports.found import COLOURS, line
from rankscope.agent.reports.replay import Fired
from rankscope.agent.runs.roles import Roles


def configured(config: Path) -> tuple[list[tuple[str, Rule]], Roles]:
    """Return the rules and roles of a configuration. Raises Failure, one line for each mistake."""
    from rankscope.agent.config import ConfigError, load  # only here: it knows all parts of the agent

    try:
        loaded = load(config)
    except ConfigError as error:
        raise Failure(str(error), FOUND) from None
    except OSError as error:
        raise Failure(f"cannot read {config}: {error.strerror}") from None
    return [(name, rule) for name, rule in loaded.rules if rule.scope == "run"], Roles(loaded.roles)


@click.command(short_help="Say what rules would have fired on recorded runs.")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each alert, as `diagnose --json`.")
def command(config: Path, paths: tuple[Path, ...], as_json: bool) -> None:
    """Say what the rules of CONFIG would have fired on recorded runs, before they wake anybody.

    PATH is whatever `rankscope diagnose` reads.

    \b
    rankscope backtest rankscope.yaml runs/sql-generator
    rankscope backtest strict.yaml old/*.jsonl --json
    """
    rules, roles = configured(config)
    console = Console(highlight=False)
    counts: Counter[str] = Counter()
    runs: dict[str, set[str]] = {}
    first: dict[str, Fired] = {}
    rows = 0
    for record in records(paths):
        run, fired = replay(record, rules, roles)
        for one in fired:
            if as_json:
                click.echo(line(one))
            counts[one.rule] += 1
            runs.setdefault(one.rule, set()).add(record.name)
            first.setdefault(one.rule, one)
        rows += run.rows
    if as_json:
        return
    table = Table("alert", "severity", "fired", "runs", "the first of them", box=None, header_style="bold")
    for rule, count in counts.most_common():
        one = first[rule]
        where = f"{one.run}, step {one.finding.step}: {one.finding.summary}"
        table.add_row(rule, f"[{COLOURS[one.severity]}]{one.severity}[/]", str(count), str(len(runs[rule])), where)
    if counts:
        console.print(table)
    silent = sorted({name for name, _ in rules} - counts.keys())
    alerts = f"{counts.total()} alert{'' if counts.total() == 1 else 's'}"
    console.print(f"{alerts} in {rows:,} rows; silent: {', '.join(silent) or 'none'}", style="dim")
