"""`--help`: whole sentences, every option explained."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from rankscope.agent.cli import Commands, cli


def leaves(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for each in [*group.list_commands(context), *getattr(group, "commands", {})]:
        command = group.get_command(context, each)
        assert command is not None
        yield f"{name} {each}", command
        if isinstance(command, click.Group):
            yield from leaves(command, f"{name} {each}")


assert isinstance(cli, Commands)
COMMANDS = dict(leaves(cli, "rankscope"))


def test_the_list_of_commands_fits_into_80_columns() -> None:
    said = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    listed = said.partition("Commands:\n")[2].splitlines()
    assert len(listed) == len(cli.list_commands(click.Context(cli)))
    assert not [line for line in listed if line.endswith("...")]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name: str) -> None:
    options = [parameter for parameter in COMMANDS[name].params if isinstance(parameter, click.Option)]
    assert not [option.name for option in options if not option.help]


def test_the_options_of_a_new_silence_are_shown_where_people_look() -> None:
    said = CliRunner().invoke(cli, ["silence", "--help"]).output
    assert "--for TIME" in said
    assert "--why TEXT" in said


def test_the_demo_explains_each_fault() -> None:
    said = CliRunner().invoke(cli, ["demo", "--help"]).output
    (fault,) = [p for p in COMMANDS["rankscope demo"].params if p.name == "fault"]
    assert isinstance(fault.type, click.Choice)
    for choice in fault.type.choices:
        assert choice == "none" or f"\n  {choice} " in said
