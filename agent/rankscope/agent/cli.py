"""The command line: one file in commands/ is one command."""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import pkgutil
import sys

import click

PACKAGE = "rankscope.agent.commands"


class Commands(click.Group):
    """Finds commands by their file, and imports only the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        package = importlib.import_module(PACKAGE)
        return sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(package.__path__) if m.name[0] != "_")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = importlib.import_module(f"{PACKAGE}.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(importlib.metadata.version("rankscope"), prog_name="rankscope")
def cli() -> None:
    """Know, while a training runs, whether it is well, and if not, which rank, which GPU, why, and what to do.

    \b
    rankscope demo                   see all of it in a minute, on any machine
    rankscope agent                  watch this node: run it once on each
    rankscope top                    GPUs, ranks, losses and alerts, live in this terminal
    rankscope diagnose PATH          the same rules over logs that exist already
    """
    out: object = sys.stdout
    if isinstance(out, io.TextIOWrapper):
        out.reconfigure(line_buffering=True)  # a reader of a pipe sees each line when it is written
