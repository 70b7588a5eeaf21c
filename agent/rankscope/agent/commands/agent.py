"""`rankscope agent`: the daemon."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path

import click

from rankscope.agent.app import Agent
from rankscope.agent.commands._failure import FOUND, Failure
from rankscope.agent.config import ConfigError, load


@click.command()
@click.option("--config", "file", type=click.Path(path_type=Path), help="Configuration (YAML); every key is optional.")
@click.option("--listen", metavar="ADDR", help="Where ranks connect: unix:///path, or host:port for TCP beside it.")
@click.option("--http", metavar="ADDR", help="Where metrics, page and API are: host:port.")
@click.option("--runs", metavar="DIR", help="Where runs are kept.")
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="How much it says on stderr.",
)
def command(file: Path | None, listen: str | None, http: str | None, runs: str | None, log_level: str) -> None:
    """Watch this node: run it once on each.

    \b
    rankscope agent                                     listens on its Unix socket and 127.0.0.1:9780
    rankscope agent --config /etc/rankscope/rankscope.yaml
    rankscope agent --runs ./runs --http 127.0.0.1:0    a free port; the log says which

    SIGTERM ends it in at most 5 s with nothing lost; SIGHUP and POST /-/reload read the configuration again.
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    for chatty in ("httpx", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    overrides: dict[str, object] = {}
    if listen is not None:
        overrides["grpc.listen" if listen.startswith("unix:") else "grpc.tcp"] = listen
    if http is not None:
        overrides["http.listen"] = http
    if runs is not None:
        overrides["runs.dir"] = runs
    read = partial(load, file, None, overrides)
    try:
        asyncio.run(Agent(read(), read).run())
    except ConfigError as error:
        raise Failure(str(error), FOUND) from None
    except OSError as error:
        raise Failure(str(error)) from None
