"""`rankscope silence`: keep alerts quiet for a while, as amtool does."""

from __future__ import annotations

import difflib
import getpass
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rankscope.agent.alerts.book import USER_ALERT
from rankscope.agent.alerts.matchers import Matcher, parse
from rankscope.agent.commands._failure import WRONG_USE, Failure
from rankscope.agent.commands._reach import default_address, request
from rankscope.agent.component import discover
from rankscope.agent.config import parse_seconds

PATH = "/api/v1/silences"
COLOURS = {"active": "green", "pending": "yellow", "expired": "bright_black"}

_agent = click.option(
    "--agent", metavar="ADDRESS", default=default_address, help="The agent's address (or RANKSCOPE_HTTP)."
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _AddUnlessNamed(click.Group):
    """Takes what is no subcommand for a matcher of a new silence."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in ("-h", "--help"):
            at = _first_word(args)
            named = at is not None and args[at] in self.commands
            args = [args[at], *args[:at], *args[at + 1 :]] if at is not None and named else ["add", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options of a new silence, too: its command is not listed."""
        with formatter.section("Options of a new silence"):
            records = (option.get_help_record(ctx) for option in add.params if isinstance(option, click.Option))
            formatter.write_dl([record for record in records if record is not None])
        super().format_options(ctx, formatter)


def _first_word(args: Sequence[str]) -> int | None:
    """Return where the first argument stands that is neither an option nor the value of one."""
    at = 0
    while at < len(args) and args[at].startswith("-"):
        at += 2 if args[at] in ("--agent", "--for", "--why") else 1
    return at if at < len(args) else None


@click.group(
    cls=_AddUnlessNamed,
    subcommand_metavar="MATCHER... --for 2h | list | expire ID...",
    short_help="Keep alerts quiet for a while.",
)
def command() -> None:
    """Keep alerts quiet for a while: nobody is told of what all matchers match.

    A matcher is NAME=VALUE, NAME!=VALUE, NAME=~REGEX or NAME!~REGEX over an alert's labels (alertname, severity,
    project, run, rank, gpu, hostname); a lone word is an alert's name. A pattern must match the whole value.

    \b
    rankscope silence LossSpike --for 2h
    rankscope silence run=exp-1-0a1b2c3d severity!=critical --for 1d --why "warm-up of the new data"
    rankscope silence 'alertname=~Gpu.*' gpu=3 --for 8h
    rankscope silence list
    rankscope silence expire 3f2a
    """


@command.command(hidden=True)
@click.argument("matchers", nargs=-1, required=True, metavar="MATCHER...")
@click.option("--for", "duration", default="1h", show_default=True, metavar="TIME", help="How long: 30m, 2h, 7d.")
@click.option("--why", default="", metavar="TEXT", help="The reason, for whoever finds it later.")
@_agent
@_json
def add(matchers: tuple[str, ...], duration: str, why: str, agent: str, as_json: bool) -> None:
    """Keep alerts quiet that all matchers match."""
    try:
        parsed = [parse(text) for text in matchers]
        seconds = parse_seconds(duration)
    except ValueError as error:
        raise Failure(str(error), WRONG_USE) from None
    end = datetime.now(timezone.utc) + timedelta(seconds=seconds)
    body = {
        "matchers": [{"name": m.name, "value": m.value, "isRegex": m.regex, "isEqual": m.equal} for m in parsed],
        "endsAt": end.isoformat(timespec="milliseconds"),
        "createdBy": f"{_user()}@{os.uname().nodename}",
        "comment": why,
    }
    made = str(request(agent, "POST", PATH, body)["silenceID"])
    for matcher in parsed:
        if doubt := _doubt(matcher):
            click.secho(f"rankscope: {doubt}", err=True, fg="yellow")
    covered = _covered(parsed, request(agent, "GET", "/api/v1/alerts")["alerts"])
    if as_json:
        click.echo(json.dumps({"silenceID": made, "endsAt": body["endsAt"], "alerts": len(covered)}))
        return
    click.secho(made, bold=True)
    click.echo(f"quiet until {_local(end)}: {', '.join(str(matcher) for matcher in parsed)}")
    if not covered:
        click.secho("no alert is active that it matches", fg="yellow")
    for summary in covered:
        click.echo(f"  silences now: {summary}")


@command.command("list")
@click.option("--expired", is_flag=True, help="Show those that are over, too.")
@_agent
@_json
def list_(expired: bool, agent: str, as_json: bool) -> None:
    """Show the silences, those that end first at the top."""
    found = cast("Sequence[Mapping[str, Any]]", request(agent, "GET", PATH)["silences"])
    silences = [s for s in found if expired or s["status"]["state"] != "expired"]
    if as_json:
        click.echo(json.dumps({"silences": silences}, indent=1))
        return
    if not silences:
        click.echo("no silences" if expired else "no silences (--expired shows those that are over)")
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("ID", "MATCHERS", "STATE", "ENDS", "BY", "WHY"):
        table.add_column(column, overflow="fold", no_wrap=column in ("ID", "STATE", "ENDS"))
    for silence in silences:
        state = str(silence["status"]["state"])
        matchers = "\n".join(_plain(str(_matcher(m))) for m in silence["matchers"])
        ends = _local(datetime.fromisoformat(str(silence["endsAt"]).replace("Z", "+00:00")))
        rest = (_plain(str(silence[name])) for name in ("createdBy", "comment"))
        table.add_row(str(silence["id"])[:8], matchers, Text(state, COLOURS.get(state, "")), ends, *rest)
    Console(highlight=False, markup=False).print(table)


@command.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@_agent
@_json
def expire(ids: tuple[str, ...], agent: str, as_json: bool) -> None:
    """End silences now; the first characters of an id are enough."""
    found = cast("Sequence[Mapping[str, Any]]", request(agent, "GET", PATH)["silences"])
    alive = [str(s["id"]) for s in found if s["status"]["state"] != "expired"]
    ended: list[str] = []
    for wanted in ids:
        matching = [name for name in alive if name.startswith(wanted)]
        if len(matching) != 1:
            some = "several silences begin" if matching else "no active silence begins"
            raise Failure(f"{some} with {wanted}: `rankscope silence list` shows them", WRONG_USE)
        request(agent, "DELETE", f"{PATH}/{matching[0]}")
        ended += matching
    click.echo(json.dumps({"expired": ended}) if as_json else "\n".join(f"expired {name}" for name in ended))


def _doubt(matcher: Matcher) -> str:
    """Return what is odd about a matcher that fits the name of no rule; an alert of one's own may have such a name."""
    rules = [USER_ALERT, *(cls.__name__ for cls in discover("rankscope.agent.rules").values())]
    sought = replace(matcher, equal=True)
    if matcher.name != "alertname" or any(sought.matches({"alertname": rule}) for rule in rules):
        return ""
    folded = {rule.casefold(): rule for rule in rules}
    close = difflib.get_close_matches(matcher.value.casefold(), folded, n=1)
    hint = f"did you mean {folded[close[0]]}?" if close and not matcher.regex else "`rankscope rules` lists them"
    return f"no rule's name is {'like ' if matcher.regex else ''}{matcher.value}; {hint}"


def _covered(matchers: Sequence[Matcher], alerts: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        f"{alert['labels'].get('alertname')}: {alert['annotations'].get('summary', '')}"
        for alert in alerts
        if all(matcher.matches(alert["labels"]) for matcher in matchers)
    ]


def _matcher(found: Mapping[str, Any]) -> Matcher:
    return Matcher(found["name"], found["value"], regex=found["isRegex"], equal=found["isEqual"])


def _local(time: datetime) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z")


def _plain(text: str) -> str:
    """Return text without what a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in many containers
        return str(os.getuid())
