"""The same problem on several ranks is one alert that names them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from rankscope.agent.alerts.render import ranges
from rankscope.agent.fakes import FixedRule
from rankscope.agent.model import Cause, Finding

Nan = Callable[..., tuple[Finding, ...]]


def test_eight_ranks_are_one_notification(desk: Any, nan: Nan) -> None:
    desk.hold(nan(*range(8)), 5)
    assert len(desk.sent) == 1
    assert desk.statuses == ["LossNaN firing"]
    assert desk.notes()["ranks"] == "0-7"
    assert desk.notes()["summary"] == "loss is NaN at step 100 (ranks 0-7)"
    assert "rank" not in desk.labels()


def test_ranks_that_come_within_the_group_wait_are_gathered(desk: Any, nan: Nan) -> None:
    for rank in range(8):
        desk.judge(nan(*range(rank + 1)))
        desk.now += 0.02
        desk.engine.tick(desk.now)
    desk.wait(1)
    assert len(desk.sent) == 1
    assert desk.notes()["ranks"] == "0-7"
    assert "rank" not in desk.labels()


def test_causes_that_others_know_more_of_are_waited_for_within_the_second(desk: Any, nan: Nan) -> None:
    """The first notification is what people act on: it names the cause once those that were asked have answered."""
    (finding,) = nan(3)
    desk.judge([replace(finding, tentative=True, causes=(Cause("a division", "", ""),))])
    desk.wait(0.6)
    assert desk.sent == []
    desk.judge([replace(finding, causes=(Cause("a bad batch", "", ""),))])
    desk.engine.tick(desk.now)
    assert desk.notes()["causes"] == "a bad batch"


def test_causes_are_not_waited_for_beyond_the_second(desk: Any, nan: Nan) -> None:
    (finding,) = nan(3)
    desk.judge([replace(finding, tentative=True)])
    desk.wait(0.8)
    assert desk.statuses == ["LossNaN firing"]


def test_one_rank_alone_is_a_label(desk: Any, nan: Nan) -> None:
    desk.hold(nan(3), 2)
    assert desk.labels()["rank"] == "3"
    assert desk.notes()["ranks"] == "3"


def test_labels_stay_as_they_were_for_the_life_of_the_alert(desk: Any, nan: Nan) -> None:
    desk.hold(nan(3), 2)
    desk.hold(nan(*range(8)), 5)
    desk.hold((), 10)
    assert desk.statuses == ["LossNaN firing", "LossNaN resolved"]
    assert desk.labels(0) == desk.labels(1)
    assert desk.alerts[0]["fingerprint"] == desk.alerts[1]["fingerprint"]
    assert desk.notes(1)["ranks"] == "0-7", "who joined later is named in the text"


def test_the_rank_that_had_it_first_is_named(desk: Any, nan: Nan) -> None:
    desk.hold((*nan(0, 1, step=101), *nan(5, step=100)), 2)
    assert desk.notes()["step"] == "100"
    assert "First on rank 5 at step 100" in desk.notes()["description"]


def test_nobody_was_first_where_all_had_it_at_the_same_step(desk: Any, nan: Nan) -> None:
    desk.judge(nan(0))
    desk.hold(nan(*range(8)), 2)
    assert "First" not in desk.notes().get("description", "")


def test_each_gpu_is_an_alert_of_its_own_in_one_message(desk: Any) -> None:
    found = tuple(Finding(f"GPU {i} at 95 °C", gpu=str(i)) for i in range(4))
    desk.hold(found, 3, name="GpuHot", rule=FixedRule())
    assert [desk.labels(i)["gpu"] for i in range(4)] == ["0", "1", "2", "3"]
    assert len(desk.sent) == 1


def test_labels_of_a_finding_tell_alerts_apart(desk: Any) -> None:
    found = tuple(Finding(f"XID {xid}", gpu="0", labels={"xid": xid}) for xid in ("48", "79"))
    desk.hold(found, 3, name="GpuHardwareError", rule=FixedRule())
    assert {desk.labels(i)["xid"] for i in range(2)} == {"48", "79"}
    assert desk.samples("alert_active") == {("GpuHardwareError", "warning", desk.run.name, "", "0"): 1}


@pytest.mark.parametrize(
    ("ranks", "text"),
    [((), ""), ((3,), "3"), ((0, 1), "0, 1"), ((0, 1, 2), "0-2"), ((0, 1, 2, 5, 7, 8), "0-2, 5, 7, 8")],
)
def test_ranks_are_written_shortly(ranks: tuple[int, ...], text: str) -> None:
    assert ranges(ranks) == text
