"""`rankscope notify`: try the receivers before they are needed."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import click

from rankscope.agent.alerts.lane import fit
from rankscope.agent.alerts.trial import trial
from rankscope.agent.commands._failure import FOUND, UNREACHABLE, WRONG_USE, Failure
from rankscope.agent.component import Notification, Notifier, Refused, Retry
from rankscope.agent.config import Config, ConfigError, load


@click.command(short_help="Try the receivers of alerts before they are needed.")
@click.argument("receivers", nargs=-1, metavar="[RECEIVER]...")
@click.option("--config", "file", type=click.Path(path_type=Path), help="The agent's configuration (YAML).")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each receiver.")
def command(receivers: tuple[str, ...], file: Path | None, as_json: bool) -> None:
    """Send a message of no consequence to each receiver (or those named), and say what became of it.

    Needs no agent: the notifiers of the configuration are used as the agent would, once and without retrying.

    \b
    rankscope notify --config /etc/rankscope/rankscope.yaml
    rankscope notify --config rankscope.yaml slack-0
    """
    logging.basicConfig(level="ERROR")
    try:
        config = load(file)
    except ConfigError as error:
        raise Failure(str(error), FOUND) from None
    except OSError as error:
        raise Failure(f"cannot read {file}: {error.strerror}") from None
    chosen = _chosen(config, receivers)
    failed = False
    for name, outcome in asyncio.run(_deliver(config, chosen)):
        failed |= bool(outcome)
        if as_json:
            click.echo(json.dumps({"receiver": name, "delivered": not outcome, "error": outcome or None}))
        else:
            click.secho("failed " if outcome else "ok     ", fg="red" if outcome else "green", nl=False)
            click.echo(f"{name}{': ' + outcome if outcome else ''}")
    if failed:
        raise click.exceptions.Exit(UNREACHABLE)


def _chosen(config: Config, receivers: Sequence[str]) -> list[tuple[str, Notifier]]:
    known = dict(config.notifiers)
    if not known:
        raise Failure("no notifiers are configured: name a file with --config, or see deploy/rankscope.yaml", WRONG_USE)
    for name in receivers:
        if name not in known:
            raise Failure(f"no receiver is called {name}; there are {', '.join(known)}", WRONG_USE)
    return [(name, notifier) for name, notifier in known.items() if not receivers or name in receivers]


async def _deliver(config: Config, chosen: Sequence[tuple[str, Notifier]]) -> list[tuple[str, str]]:
    """Return each receiver with an empty string, or with why nothing could be delivered."""
    outcomes = await asyncio.gather(*(_send(config, name, notifier) for name, notifier in chosen))
    return [(name, outcome) for (name, _), outcome in zip(chosen, outcomes, strict=True)]


async def _send(config: Config, name: str, notifier: Notifier) -> str:
    # As grave as the receiver asks for, or it would not be sent at all.
    made: Notification = trial(os.uname().nodename, config.alerts, notifier.min_severity, time.time())
    fitted = fit(made, name, notifier)
    try:
        if fitted is not None:
            await asyncio.wait_for(notifier.send(fitted), config.alerts.send_timeout)
    except (Refused, Retry) as error:
        return str(error)
    except asyncio.TimeoutError:
        return f"no answer in {config.alerts.send_timeout:g} s"
    finally:
        await notifier.close()
    return ""
