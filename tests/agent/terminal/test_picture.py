"""What `rankscope top` shows, at several sizes, of an agent that is well and of one that is not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rankscope.agent.terminal.picture import lines
from rankscope.agent.terminal.reading import seen
from rankscope.agent.terminal.section import Frame
from tests.agent.terminal.said import NOW, RUN, alert, gpu, rank, run, snapshot, troubled

Golden = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def picture(said: dict[str, Any], width: int = 120, height: int | None = None, **more: Any) -> str:
    frame = Frame(said["time"], width, more.pop("colour", False), live=height is not None)
    drawn = lines(seen(said), frame, height, keys="q quits" if height else "", **more)
    return "".join(f"{line.plain}\n" for line in drawn)


def ranks_shown(text: str) -> list[int]:
    """Return the ranks that have a line of their own, in order."""
    [start] = [i for i, line in enumerate(text.splitlines()) if line.startswith("── Runs")]
    words = [line.split() for line in text.splitlines()[start + 1 :]]
    return [int(each[0]) for each in words if each and each[0].isdigit()]


@pytest.mark.parametrize(
    ("name", "said", "width", "height"),
    [
        ("one-rank", snapshot(1, 1), 80, 24),
        ("nothing", snapshot(0, 0), 80, 24),
        ("8-ranks", snapshot(8, 8, alerts=[alert()]), 80, 24),
        ("8-ranks", snapshot(8, 8, alerts=[alert()]), 160, 50),
        ("64-ranks-in-trouble", troubled(), 80, 24),
        ("64-ranks-in-trouble", troubled(), 200, 60),
    ],
)
def test_the_picture(name: str, said: dict[str, Any], width: int, height: int, golden: Golden) -> None:
    golden(f"top-{name}-{width}x{height}.txt", picture(said, width, height))


def test_no_size_is_too_small_and_none_is_overrun() -> None:
    said = troubled()
    for width in (1, 2, 7, 20, 33, 50, 79, 80, 81, 120, 300):
        for height in (1, 2, 3, 5, 8, 13, 24, 60, 100):
            drawn = lines(seen(said), Frame(NOW, width, False, live=True), height, keys="q quits", lost="gone")
            assert len(drawn) == height
            assert max(line.cell_len for line in drawn) <= width, (width, height)


def test_once_prints_every_rank_in_order() -> None:
    assert ranks_shown(picture(troubled())) == list(range(64))


def test_where_they_do_not_fit_the_worst_ranks_come_first_and_the_others_are_counted() -> None:
    """Failed, silent, not finite, without a step for long, with an alert; then in order."""
    text = picture(troubled(), 80, 24)
    shown = ranks_shown(text)
    assert shown[:5] == [17, 23, 5, 40, 9]
    assert shown[5:] == list(range(len(shown) - 5))
    assert f"+ {64 - len(shown)} more: all running" in text


def test_of_a_job_that_hangs_the_rank_that_stopped_first_is_shown_first() -> None:
    """All wait for it in the next collective: all are late, and one is late by more steps."""
    hung = [rank(i, step=59 if i != 41 else 58, last_step_time=NOW - 300) for i in range(64)]
    text = picture(snapshot(runs=[run(hung)]), 80, 24)
    assert ranks_shown(text)[:3] == [41, 0, 1]
    assert " left" not in text, "nobody knows when it will be done"
    assert " left" in picture(snapshot(1, 1))


def test_where_they_do_not_fit_the_worst_gpus_come_first_and_the_others_are_counted() -> None:
    made = snapshot(8, 64)
    made["gpus"][6] |= {"states": {"starved": 0.6, "working": 0.4}, "utilization": 0.4}
    text = picture(made, 80, 20)
    first = text.splitlines()[3]
    assert first.split()[0] == "6"
    assert "starved 60%" in first
    assert "more GPUs: all working, busy 9" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "running"),
        ({"state": "failed", "exit": "exception"}, "exception"),
        ({"state": "silent", "last_seen": NOW - 95}, "silent 1m 35s"),
        ({"state": "finished"}, "finished"),
        ({"connected": False}, "cut off"),
        ({"step": None, "last_step_time": None}, "starting"),
        ({"last_step_time": NOW - 40, "phase": "eval"}, "eval 40s"),
        ({"last_step_time": NOW - 40, "phase": None}, "no step 40s"),
        ({"last_step_time": NOW - 40, "phase": None, "step_seconds": 30.0}, "running"),
    ],
)
def test_what_a_rank_does_is_said(change: dict[str, Any], words: str) -> None:
    text = picture(snapshot(runs=[run([rank(0, **change), rank(1)])]), 120)
    [line] = [line for line in text.splitlines() if line.startswith("   0")]
    assert words in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"states": {"working": 0.6, "starved": 0.4}}, "starved 40%"),
        ({"states": {"working": 0.9, "starved": 0.1}}, "working"),
        ({"states": {"idle": 1.0}}, "idle"),
        ({"states": {"throttled": 1.0}}, "throttled"),
        ({"up": False, "states": {"working": 1.0}}, "dead"),
        ({"states": {}}, "–"),
        ({"simulated": True}, "0 sim"),
        ({"utilization": None}, "·  "),
    ],
)
def test_what_a_gpu_does_is_said(change: dict[str, Any], words: str) -> None:
    text = picture(snapshot(gpus=1, ranks=1) | {"gpus": [gpu(0, **change)]}, 120)
    assert words in text.splitlines()[3]


def test_simulated_gpus_are_called_so() -> None:
    assert "simulated: not in this machine" in picture(snapshot() | {"gpus": [gpu(0, simulated=True)]})
    assert "simulated" not in picture(snapshot(gpus=1))


def test_gpus_of_several_models_are_told_apart_and_so_are_their_runs() -> None:
    mixed = [gpu(0), gpu(1, name="NVIDIA L4", run="other-1")]
    text = picture(snapshot() | {"gpus": mixed})
    assert "H100 80GB HBM3" in text.splitlines()[3]
    assert "L4" in text.splitlines()[4]
    assert "1 of other-1" in text.splitlines()[4]


def test_a_blind_sampler_and_lost_points_are_said_plainly() -> None:
    text = picture(troubled())
    assert "blind: kernel: /dev/kmsg: Permission denied" in text
    assert "dropped: 12 bad_payload" in text


def test_nan_is_a_value() -> None:
    text = picture(snapshot(runs=[run([rank(0, loss="NaN", grad_norm="Infinity", lr="-Infinity")])]))
    [line] = [line for line in text.splitlines() if line.startswith("   0")]
    assert {"NaN", "inf", "-inf"} <= set(line.split())


def test_what_nobody_logs_has_no_column() -> None:
    bare = rank(0, val_loss=None, lr=None, grad_norm=None, loss_curve=[], phase_shares={}, loss=None)
    text = picture(snapshot(runs=[run([bare])]), 200)
    assert "val loss" not in text
    assert "grad norm" not in text


def test_an_agent_that_is_gone_is_said_and_its_last_picture_greyed() -> None:
    said = snapshot(8, 8, alerts=[alert()])
    drawn = lines(seen(said), Frame(NOW, 100, True, live=True), 24, lost="no agent answers", lost_for=75.0)
    assert "agent lost 1m 15s ago" in drawn[0].plain
    assert "no agent answers" in drawn[0].plain
    assert RUN in "".join(line.plain for line in drawn), "the picture stays"
    assert {str(line.style) for line in drawn[1:] if line} == {"bright_black"}
    assert not any(line.spans for line in drawn[1:])


def test_finished_runs_take_one_line_and_come_last() -> None:
    runs = [run([rank(0), rank(1)], "old-1", state="finished", last_event=NOW - 60), run([rank(0)], "new-2")]
    text = picture(snapshot(runs=runs))
    assert text.index("new-2") < text.index("old-1")
    assert "finished 1m 00s ago" in text
    assert ranks_shown(text) == [0]


def test_runs_that_do_not_fit_are_counted_by_state() -> None:
    runs = [run([rank(0)], f"exp-{i}", state="running" if i < 6 else "failed") for i in range(9)]
    text = picture(snapshot(runs=runs), 80, 16)
    assert "more runs:" in text
    assert "3 failed" in text


def test_the_gravest_alert_is_explained_first() -> None:
    several = [alert(), *(alert(f"Rule{i}", severity="warning", summary=f"problem {i}") for i in range(20))]
    text = picture(snapshot(8, 8, alerts=several), 100, 24)
    assert "21 firing" in text
    assert "LossNaN" in text
    assert "more: all warning" in text
    few = picture(snapshot(8, 8, alerts=several[:2]), 100, 24)
    assert "why  a bad batch: at step 1234 only rank 5 had it" in few
    assert "fix  look at the batch" in few


def test_pending_silenced_and_resolved_alerts_are_told_apart() -> None:
    alerts = [
        alert("LossNaN", silencedBy=["7"]),
        alert("LossPlateau", state="pending", startsAt=None, activeAt="2026-09-21T13:12:20.000Z"),
    ]
    over = [alert("Straggler", state="resolved", endsAt="2026-09-21T14:13:00.000Z", summary="slow") for _ in range(3)]
    text = picture(snapshot(1, 1, alerts=alerts, resolved=over))
    assert "no alert fires" in text
    assert "silenced" in text
    assert "not yet firing: LossPlateau" in text
    assert "resolved      20s  Straggler 3 times  slow" in text


def test_nothing_that_others_named_reaches_the_terminal_as_a_command() -> None:
    evil = "x\x1b[2J\x1b]0;title\x07\r\ny"
    said = snapshot(
        hostname=evil,
        gpus=1,
        ranks=0,
        runs=[run([rank(0, phase_shares={evil: 0.5}, exit=evil, state="failed")], evil, project=evil)],
        alerts=[alert(evil, summary=evil)],
        samplers={evil: {"up": False, "failure": evil}},
    )
    text = picture(said)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert text.count("x [2J") >= 4


def test_wide_characters_keep_the_columns() -> None:
    said = snapshot(8, 8, alerts=[alert(summary="損失が NaN になった" * 20)])
    said["runs"][0]["id"] = "訓練" * 40
    for line in lines(seen(said), Frame(NOW, 80, False, live=True), 24):
        assert line.cell_len <= 80


def test_an_older_agent_that_says_less_is_shown_all_the_same() -> None:
    text = picture(
        {"time": NOW, "runs": [{"id": "a-1", "ranks": [{"rank": 0}]}], "gpus": [{"gpu": "0"}], "alerts": [{}]}
    )
    assert "a-1" in text
