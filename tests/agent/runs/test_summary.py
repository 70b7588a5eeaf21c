"""run.json: what a person or a program wants to know of a run without reading its points."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rankscope.agent.model import Batch, Block, Column, End, Goodbye, RankInfo, RankKey
from rankscope.agent.runs.summary import Summary

NAN, INF = float("nan"), float("inf")


def info(rank: int = 0, *, session: int = 1, attempt: int = 0, node_rank: int = 0, **more: Any) -> RankInfo:
    key = RankKey("p", "r-1", rank)
    return RankInfo(key, session, "id", attempt=attempt, node_rank=node_rank, started=100.0 + attempt, **more)


def rows(steps: list[int], values: list[list[float]], *names: str, late: bool = False) -> Batch:
    columns = tuple(Column(name) for name in names)
    block = Block(columns, np.array(steps), np.full(len(steps), 200.0), np.array(values, np.float64), late)
    return Batch(1, len(steps), (block,))


def goodbye(end: End, **more: Any) -> Batch:
    return Batch(9, 9, (), (Goodbye(3, 300.0, end, **more),))


def saved(summary: Summary, folder: Path, name: str = "run.json") -> dict[str, Any]:
    summary.save(force=True)
    text = (folder / name).read_text()

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    found: dict[str, Any] = json.loads(text, parse_constant=refuse)
    return found


def test_last_and_best_values_with_their_steps(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host")
    summary.begin(info())
    summary.update(info(), rows([1, 2, 3], [[3, 0.1], [NAN, 0.7], [2, 0.4]], "loss", "accuracy"))
    summary.update(info(), rows([4, 5], [[INF, 0.5], [2.5, NAN]], "loss", "accuracy"))
    found = saved(summary, tmp_path)
    assert found["metrics"]["loss"] == {"last": 2.5, "step": 5, "min": 2, "min_step": 3, "max": 3, "max_step": 1}
    assert found["metrics"]["accuracy"]["last"] == "NaN"
    assert found["best"] == {"loss": {"value": 2, "step": 3}, "accuracy": {"value": 0.7, "step": 2}}


def test_one_name_in_rows_of_several_shapes_is_one_series(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host")
    summary.begin(info())
    summary.update(info(), rows([1], [[3, 1]], "loss", "lr"))
    summary.update(info(), rows([2], [[1]], "loss"))
    summary.update(info(), rows([1], [[4, 1]], "loss", "lr"))  # a resumed run repeats its steps
    assert saved(summary, tmp_path)["metrics"]["loss"] == {
        "last": 4,
        "step": 1,
        "min": 1,
        "min_step": 2,
        "max": 4,
        "max_step": 1,
    }


def test_values_that_come_late_do_not_replace_newer_ones(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host")
    summary.begin(info())
    summary.update(info(), rows([5], [[1.0]], "grad_norm", late=True))
    summary.update(info(), rows([3], [[9.0]], "grad_norm", late=True))
    assert saved(summary, tmp_path)["metrics"]["grad_norm"]["last"] == 1.0


@pytest.mark.parametrize(
    ("end", "more", "state"),
    [
        (End.FINISHED, {}, "finished"),
        (End.FINISHED, {"exit_code": 1}, "failed"),
        (End.VANISHED, {}, "failed"),
        (End.SIGNAL, {"signal": 15}, "failed"),
    ],
)
def test_the_state_is_that_of_all_ranks(tmp_path: Path, end: End, more: dict[str, int], state: str) -> None:
    summary = Summary(tmp_path, "host")
    summary.begin(info(0))
    summary.begin(info(1, session=2))
    summary.update(info(0), goodbye(End.FINISHED))
    assert saved(summary, tmp_path)["state"] == "running"
    summary.update(info(1, session=2), goodbye(end, **more))
    found = saved(summary, tmp_path)
    assert (found["state"], found["ended"]) == (state, 300.0)
    assert [attempt["end"] for attempt in found["attempts"]] == ["finished", end.value]


def test_the_next_attempt_runs_again_and_both_are_told(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host")
    summary.begin(info())
    summary.update(info(), goodbye(End.EXCEPTION, exception="ValueError: no"))
    summary.begin(info(session=2, attempt=1))
    found = saved(summary, tmp_path)
    assert found["state"] == "running"
    assert [(a["attempt"], a["end"], a.get("exception")) for a in found["attempts"]] == [
        (0, "exception", "ValueError: no"),
        (1, None, None),
    ]


def test_an_agent_that_restarts_goes_on_with_what_is_known(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host")
    summary.begin(info())
    summary.update(info(), rows([1], [[INF]], "loss"))
    summary.update(info(), rows([2, 3], [[1.0], [5.0]], "loss"))
    saved(summary, tmp_path)
    again = Summary(tmp_path, "host")
    again.begin(info())
    again.update(info(), rows([4], [[3.0]], "loss"))
    found = saved(again, tmp_path)
    assert len(found["attempts"]) == 1
    assert found["best"]["loss"] == {"value": 1.0, "step": 2}
    assert found["metrics"]["loss"]["last"] == 3.0


@pytest.mark.parametrize("broken", ["", "{", "[]", "null", '{"attempts": 3}', '{"attempts":[],"ranks":{},"metrics":7}'])
def test_a_broken_file_is_begun_anew(tmp_path: Path, broken: str) -> None:
    (tmp_path / "run.json").write_text(broken)
    summary = Summary(tmp_path, "host")
    summary.begin(info())
    assert saved(summary, tmp_path)["state"] == "running"


def test_values_are_those_of_the_lowest_rank(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host")
    for rank in (3, 1, 2):
        summary.begin(info(rank, session=rank))
        summary.update(info(rank, session=rank), rows([1], [[float(rank)]], "loss"))
    found = saved(summary, tmp_path)
    assert (found["metrics_rank"], found["metrics"]["loss"]["last"]) == (1, 1.0)


def test_agents_of_other_nodes_leave_run_json_alone(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host b")
    summary.begin(info(8, node_rank=1))
    summary.save(force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["node_host-b.json"]


def test_a_configuration_with_numbers_that_json_lacks(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host")
    summary.begin(info(config={"clip": INF, "nested": {"x": [1.0, NAN]}}))
    assert saved(summary, tmp_path)["config"] == {"clip": "Infinity", "nested": {"x": [1.0, "NaN"]}}


def test_it_is_written_at_a_bounded_rate(tmp_path: Path) -> None:
    summary = Summary(tmp_path, "host")
    summary.begin(info())
    summary.save()
    before = (tmp_path / "run.json").stat().st_ino
    for step in range(50):
        summary.update(info(), rows([step], [[1.0]], "loss"))
        summary.save()
    assert (tmp_path / "run.json").stat().st_ino == before
    summary.update(info(), goodbye(End.FINISHED))
    summary.save()
    assert json.loads((tmp_path / "run.json").read_text())["state"] == "finished"
