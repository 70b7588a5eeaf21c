"""A panel that counts shows the first time, too: with it the counter itself appears."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from .dashboards import fill, targets

ALL = {"job": ".+", "hostname": ".+", "run": ".+"}
COUNTERS = {
    ("rankscope-alerts", "Fired in this time"): 'rankscope_alerts_total{alert="LossNaN",severity="critical",',
    ("rankscope-fleet", "Alerts fired"): 'rankscope_alerts_total{alert="LossNaN",severity="critical",',
    ("rankscope-alerts", "Points lost"): 'rankscope_sdk_dropped_points_total{run="r",rank="0",reason="disk_full",',
}


@pytest.mark.parametrize(("board", "panel"), COUNTERS)
def test_the_first_is_shown_and_what_was_before_is_not(
    board: str, panel: str, tmp_path: Path, require: Callable[..., str]
) -> None:
    """The counter appears as 1 at 61 s and goes to 3 at 121 s; the panel shows the last 10 s at each moment."""
    [target] = [target for target in targets() if (target.board, target.panel) == (board, panel)]
    asked = f"sum({fill(target.expr, ALL, seconds=10)}) or vector(0)"
    # An increase is worked out from a slope and is no whole number: only what appears is counted to the dot.
    moments = {"30s": asked, "65s": asked, "90s": asked, "125s": f"({asked}) > bool 1.9", "150s": asked}
    expected = {"30s": 0.0, "65s": 1.0, "90s": 0.0, "125s": 1.0, "150s": 0.0}
    series = {"series": COUNTERS[board, panel] + 'job="rankscope",hostname="a"}', "values": "_x61 1x59 3x60"}
    questions = [
        {"expr": question, "eval_time": at, "exp_samples": [{"labels": "{}", "value": expected[at]}]}
        for at, question in moments.items()
    ]
    tests = {
        "evaluation_interval": "1s",
        "tests": [{"interval": "1s", "input_series": [series], "promql_expr_test": questions}],
    }
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(tests))
    program = require("promtool", why="apt-get install prometheus")
    done = subprocess.run(
        [program, "test", "rules", str(tmp_path / "tests.yaml")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
