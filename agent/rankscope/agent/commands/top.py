"""`rankscope top`: the node, its GPUs, runs, ranks and alerts, live in the terminal."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing

import click
from rich.console import Console

from rankscope.agent.commands._failure import Failure
from rankscope.agent.commands._following import Lost, follow, snapshots
from rankscope.agent.commands._reach import default_address
from rankscope.agent.terminal.reading import seen
from rankscope.agent.terminal.screen import Screen, still
from rankscope.agent.terminal.seen import Seen

WIDTH = 120  # characters where there is no terminal and COLUMNS does not say


@click.command(short_help="Watch this node live: GPUs, ranks, losses, alerts.")
@click.option("--once", is_flag=True, help="Print one picture and end; so it is, too, where stdout is no terminal.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print what is known as JSON: a line a second, or one with --once."
)
@click.option(
    "--agent", "--url", metavar="ADDRESS", default=default_address, help="The agent's address (or RANKSCOPE_HTTP)."
)
def command(once: bool, as_json: bool, agent: str) -> None:
    """Watch this node: GPUs, ranks, losses, where the time of a step goes, and what is wrong.

    What needs a look comes first where not everything fits. `q` or Ctrl-C leaves. NO_COLOR is honoured.

    \b
    rankscope top
    rankscope top --agent node-7:9780
    rankscope top --agent https://kim:secret@node-7:9780
    rankscope top --once                                                  one picture, for a ticket or a log
    rankscope top --once --json | jq '.runs[].ranks[] | {rank, step, loss}'
    """
    out: object = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(errors="replace")  # where the terminal's characters are few, bars are question marks
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = shutil.get_terminal_size((WIDTH, 0)).columns
    try:
        if as_json:
            asyncio.run(_lines(agent, once=once))
        elif once or not os.isatty(1) or console.is_dumb_terminal:
            console.print(still(console, seen(asyncio.run(_first(agent)))), crop=True)
        else:
            asyncio.run(_watch(console, agent))
    except KeyboardInterrupt:
        click.echo(err=True)


async def _first(agent: str) -> dict[str, object]:
    async with aclosing(snapshots(agent)) as following:
        async for snapshot in following:
            return snapshot
    raise Failure("the agent ends")


async def _lines(agent: str, *, once: bool) -> None:
    async with aclosing(follow(agent)) as following:
        async for news in following:
            if isinstance(news, Lost):
                click.echo(f"rankscope: {news.reason}", err=True)
                continue
            click.echo(json.dumps(news, ensure_ascii=False))
            if once:
                return


async def _watch(console: Console, agent: str) -> None:
    async def news() -> AsyncIterator[Seen | str]:
        async for each in follow(agent):
            yield each.reason if isinstance(each, Lost) else seen(each)

    await Screen(console).show(news())
