"""How a command ends when it could not do what was asked for: one line, and an exit status."""

from __future__ import annotations

from typing import IO, Any

import click

FOUND = 1  # something was found wrong
WRONG_USE = 2
UNREACHABLE = 3  # could not reach or read what was asked for


class Failure(click.ClickException):
    """One line that says what went wrong and what to do; exit status 3 unless another is given."""

    def __init__(self, message: str, exit_code: int = UNREACHABLE) -> None:
        super().__init__(message)
        setattr(self, "exit_code", exit_code)  # noqa: B010 (click declares it as a constant of the class)

    def show(self, file: IO[Any] | None = None) -> None:
        for line in self.message.splitlines():
            click.secho("rankscope: ", err=True, nl=False, fg="red", bold=True)
            click.echo(line, err=True)
