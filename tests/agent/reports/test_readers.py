"""Readers of diagnose: event files, run folders, trainer_state.json, CSV, JSONL, text logs."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from rankscope.agent.reports.readers.opening import Record, Unreadable, find
from rankscope.agent.reports.rows import Row


def read(path: Path, text: str) -> tuple[list[Row], Record]:
    path.write_text(text)
    (record,) = find(path)
    return list(record.rows()), record


def write_events(folder: Path, values: list[tuple[int, str, float]]) -> Path:
    writer = EventFileWriter(str(folder))
    for step, tag, value in values:
        event = Event(
            step=step, wall_time=1e9 + step, summary=Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        )
        writer.add_event(event)
    writer.close()
    (file,) = folder.glob("events.out.tfevents*")
    return file


class TestJsonl:
    def test_header_not_finite_ranks_and_signs_of_life(self, tmp_path: Path) -> None:
        rows, record = read(
            tmp_path / "a.jsonl",
            '{"run": "x"}\n{"step": 1, "t": 5, "loss": "NaN", "rank": 2}\n{"global_step": 2, "loss": Infinity}\n'
            '{"step": 2, "time": 9, "heartbeat": true}\nnot json\n',
        )
        assert [(row[0], row[1], row[4]) for row in rows] == [(2, 1, False), (0, 2, False), (0, 2, True)]
        assert math.isnan(rows[0][3]["loss"])
        assert rows[1][3]["loss"] == math.inf
        assert math.isnan(rows[1][2])
        assert record.bad == ["line 5: no JSON: Expecting value: line 1 column 1 (char 0)"]

    def test_lists_are_one_value_a_rank(self, tmp_path: Path) -> None:
        rows, _ = read(tmp_path / "a.jsonl", '{"step": 0, "rank_step_s": [0.1, 0.2]}\n')
        assert list(rows[0][3].values()) == [0.1, 0.2]

    def test_compressed(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"step": 3, "loss": 1}\n'))
        assert [row[1] for row in find(path)[0].rows()] == [3]


def test_csv_with_any_separator_and_empty_cells(tmp_path: Path) -> None:
    rows, _ = read(tmp_path / "a.csv", "global_step;loss;eval/loss\n10;2.5;\n20;nan;1.5\n")
    assert [(row[1], list(row[3])) for row in rows] == [(10, ["loss"]), (20, ["loss", "eval/loss"])]
    assert math.isnan(rows[1][3]["loss"])


def test_csv_without_steps_counts_lines(tmp_path: Path) -> None:
    rows, _ = read(tmp_path / "a.csv", "loss,lr\n2,0.1\n1,0.1\n")
    assert [row[1] for row in rows] == [0, 1]


def test_trainer_state_gives_its_history_without_the_summary_of_the_end(tmp_path: Path) -> None:
    history = [
        {"step": 10, "loss": 2.0, "learning_rate": 1e-4, "grad_norm": 1.0},
        {"step": 10, "eval_loss": 2.1},
        {"step": 20, "train_loss": 1.5, "train_runtime": 99.0},
    ]
    rows, _ = read(tmp_path / "trainer_state.json", json.dumps({"log_history": history, "global_step": 20}, indent=2))
    assert [(row[1], sorted(row[3])) for row in rows] == [
        (10, ["grad_norm", "learning_rate", "loss"]),
        (10, ["eval_loss"]),
        (20, []),
    ]


@pytest.mark.parametrize(
    ("line", "step", "metrics"),
    [
        ("step 120 loss 2.31", 120, {"loss": 2.31}),
        ("[2024-05-01 10:00:00] INFO step=1,200 | loss: 1.5e-1 | lr: 3e-4", 1200, {"loss": 0.15, "lr": 3e-4}),
        ("iter 5/100: train loss 0.5, val loss nan", 5, {"train_loss": 0.5, "val_loss": math.nan}),
        ("{'loss': 2.5, 'grad_norm': 1.25, 'learning_rate': 2e-05, 'epoch': 0.1}", 0, {"loss": 2.5, "grad_norm": 1.25}),
        ("Iteration: 7 loss=-3.5 rank 3", 7, {"loss": -3.5}),
    ],
)
def test_text_logs(tmp_path: Path, line: str, step: int, metrics: dict[str, float]) -> None:
    rows, _ = read(tmp_path / "train.log", f"Loading data from disk\n{line}\nSaving checkpoint\n")
    ((_, found, _, values, _),) = rows
    assert found == step
    for name, value in metrics.items():
        assert values[name] == value or math.isnan(value)


class TestEventFiles:
    def test_scalars_of_one_step_are_one_row(self, tmp_path: Path) -> None:
        file = write_events(tmp_path, [(1, "loss", 2.0), (1, "lr", 0.5), (2, "loss", math.nan)])
        rows = list(find(file)[0].rows())
        assert [(row[1], sorted(row[3])) for row in rows] == [(1, ["loss", "lr"]), (2, ["loss"])]
        assert rows[0][2] == 1e9 + 1

    def test_a_torn_tail_is_told_and_all_before_it_read(self, tmp_path: Path) -> None:
        file = write_events(tmp_path, [(step, "loss", 1.0) for step in range(5)])
        file.write_bytes(file.read_bytes()[:-7])
        (record,) = find(file)
        assert len(list(record.rows())) == 4
        assert record.bad == ["the last record is torn"]

    def test_a_run_folder_is_one_run_with_its_ranks_and_configuration(self, tmp_path: Path) -> None:
        run = tmp_path / "exp-1"
        for rank in range(2):
            write_events(run / f"rank_000{rank}", [(step, "loss", 1.0) for step in range(3)])
        (run / "run.json").write_text(json.dumps({"config": {"lr": 0.1}}))
        (record,) = find(tmp_path)
        assert (record.name, record.config) == ("exp-1", {"lr": 0.1})
        assert sorted({row[0] for row in record.rows()}) == [0, 1]

    def test_other_folders_are_a_run_each(self, tmp_path: Path) -> None:
        for name in "ab":
            write_events(tmp_path / name, [(0, "loss", 1.0)])
        assert [record.name for record in find(tmp_path)] == ["a", "b"]


def test_nothing_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="no such file"):
        find(tmp_path / "absent")
    with pytest.raises(Unreadable, match="no event files"):
        find(tmp_path)
    (tmp_path / "trainer_state.json").write_text("{}")
    with pytest.raises(Unreadable, match="log_history"):
        list(find(tmp_path / "trainer_state.json")[0].rows())
