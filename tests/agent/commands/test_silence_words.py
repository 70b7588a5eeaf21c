"""`rankscope silence`: options may stand before the subcommand; what is none is a matcher of a new silence."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from rankscope.agent.commands.silence import command


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--agent", "127.0.0.1:1", "list"], "list"),
        (["--json", "list"], "list"),
        (["--agent=127.0.0.1:1", "expire", "3f2a"], "expire"),
        (["--agent", "list", "LossSpike"], "add"),
        (["LossSpike", "--for", "2h"], "add"),
        (["--for", "2h", "LossSpike"], "add"),
        ([], "add"),
    ],
)
def test_which_subcommand_is_meant(words: list[str], meant: str) -> None:
    result = CliRunner().invoke(command, [*words, "--no-such-option"], prog_name="silence")
    assert result.exit_code == 2
    assert f"Try 'silence {meant}" in result.output, result.output
