"""`rankscope rules`: the list fits its terminal, an explanation flows, a wrong name gets a hint."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from rankscope.agent.commands.rules import command, flowing


def said(monkeypatch: pytest.MonkeyPatch, columns: int, *names: str) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    result = CliRunner().invoke(command, names)
    assert result.exit_code == 0, result.output
    return result.output


def test_what_a_rule_needs_is_left_out_where_there_is_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow, wide = said(monkeypatch, 80), said(monkeypatch, 140)
    assert "needs" not in narrow.splitlines()[0]
    assert "needs" in wide.splitlines()[0]
    assert max(len(line) for line in narrow.splitlines()) <= 80
    assert len(narrow.splitlines()) < 110  # three lines a rule at most: no column of single words


def test_an_explanation_breaks_where_the_terminal_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = said(monkeypatch, 200, "LossNaN").splitlines()
    assert any(line.startswith("Judged at every point") and len(line) > 150 for line in lines)


def test_lists_keep_their_lines() -> None:
    assert flowing("a\nb\n\n- c\n- d\n\ne") == "a b\n\n- c\n- d\n\ne"


def test_a_wrong_name_gets_a_hint() -> None:
    result = CliRunner().invoke(command, ["LossNan"])
    assert result.exit_code == 2
    assert "did you mean LossNaN?" in result.output
