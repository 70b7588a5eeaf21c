"""`rankscope check`: validates a configuration file."""

from __future__ import annotations

from pathlib import Path

import click

from rankscope.agent.commands._failure import FOUND, Failure
from rankscope.agent.config import ConfigError, load


@click.command(short_help="Validate a configuration: every mistake with its line.")
@click.argument("file", type=click.Path(path_type=Path))
def command(file: Path) -> None:
    """Validate a configuration: every mistake with its line, and what was probably meant.

    \b
    rankscope check /etc/rankscope/rankscope.yaml
    """
    try:
        config = load(file)
    except ConfigError as error:
        raise Failure(str(error), FOUND) from None
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from None
    click.secho("ok", fg="green", nl=False)
    counts = {"rule": len(config.rules), "sampler": len(config.samplers), "notifier": len(config.notifiers)}
    click.echo(": " + ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items()))
