"""What is written down about the components is what they say of themselves."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, cast

import pytest

from rankscope.agent.component import Rule
from rankscope.agent.config import load
from rankscope.agent.reference import duration, rules_table, sample

ROOT = Path(__file__).resolve().parents[2]


def parameters(rule: Rule) -> dict[str, object]:
    return {f.name: getattr(rule, f.name) for f in dataclasses.fields(cast(Any, rule)) if f.init}


def test_the_sample_configuration_holds_every_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make docs` writes it again."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)  # defaults that depend on the user are written as for root
    assert (ROOT / "deploy" / "rankscope.yaml").read_text() == sample()


def test_the_sample_configuration_loads_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    given, default = load(ROOT / "deploy" / "rankscope.yaml", {}), load(None, {})
    for part in ("http", "runs", "alerts", "roles"):
        assert getattr(given, part) == getattr(default, part)
    assert given.samplers.keys() == default.samplers.keys()
    assert [(name, parameters(rule)) for name, rule in given.rules] == [
        (n, parameters(rule)) for n, rule in default.rules
    ]


def test_the_readme_lists_every_rule() -> None:
    assert rules_table() in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0s"), (0.2, "200ms"), (90, "90s"), (120, "2m"), (7200, "2h"), (86400, "1d")]
)
def test_durations_are_written_as_people_do(seconds: float, text: str) -> None:
    assert duration(seconds) == text
