"""A receiver's queue: in order, bounded, once, and on disk before anybody relies on it."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from rankscope.agent.alerts import outbox as outbox_module
from rankscope.agent.alerts import store
from rankscope.agent.alerts.outbox import Outbox
from rankscope.agent.component import Notification


def note(i: int, *, group: str = "", reason: str = "new alerts added", status: str = "firing") -> Notification:
    return Notification(f"id-{i}", {"groupKey": group or f"g{i}", "notification_reason": reason, "status": status})


def drain(outbox: Outbox) -> list[str]:
    ids: list[str] = []
    while (entry := outbox.head()) is not None:
        ids.append(entry.notification.id)
        outbox.done(entry.notification.id)
    return ids


@pytest.mark.parametrize("on_disk", [True, False])
def test_first_in_first_out(tmp_path: Path, on_disk: bool) -> None:
    outbox = Outbox(tmp_path / "q.jsonl" if on_disk else None)
    for i in range(5):
        outbox.put(note(i), 1.0)
    assert drain(outbox) == [f"id-{i}" for i in range(5)]


def test_what_is_not_done_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "queues" / "q.jsonl"
    outbox = Outbox(path)
    for i in range(5):
        outbox.put(note(i), float(i))
    outbox.done("id-0")
    again = Outbox(path)  # the first one was never closed: the process was killed
    head = again.head()
    assert head is not None
    assert (head.notification, head.since) == (note(1), 1.0)
    assert drain(again) == ["id-1", "id-2", "id-3", "id-4"]
    assert drain(Outbox(path)) == []


def test_a_notification_is_taken_once_even_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    outbox = Outbox(path)
    outbox.put(note(1), 1.0)
    outbox.put(note(1), 2.0)
    assert drain(outbox) == ["id-1"]
    again = Outbox(path)
    again.put(note(1), 3.0)
    assert drain(again) == []


@pytest.mark.parametrize("cut", range(2, 60, 7))
def test_a_torn_last_line_costs_that_line_only(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "q.jsonl"
    outbox = Outbox(path)
    for i in range(3):
        outbox.put(note(i), 1.0)
    outbox.close()
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    torn = Outbox(path)
    torn.put(note(9), 1.0)
    assert drain(Outbox(path)) == ["id-0", "id-1", "id-9"]


def test_garbage_in_the_file_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'\x00\xff\n[1]\n{"put": 7}\n{"put": "a", "since": "x", "payload": {}}\n{"done": "nothing"}\n')
    assert drain(Outbox(path)) == []


def test_beyond_the_limit_the_oldest_go_and_are_counted_but_never_the_one_under_way(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path / "q.jsonl", limit=3)
    outbox.busy = "id-0"
    assert [outbox.put(note(i), 1.0) for i in range(5)] == [0, 0, 0, 1, 1]
    assert drain(outbox) == ["id-0", "id-3", "id-4"]


def test_a_reminder_is_needless_while_the_announcement_waits() -> None:
    outbox = Outbox(None)
    outbox.put(note(1, group="g"), 1.0)
    outbox.put(note(2, group="g", reason="repeat interval elapsed"), 2.0)
    outbox.put(note(3, group="h", reason="repeat interval elapsed"), 2.0)
    outbox.put(note(4, group="g", status="resolved"), 3.0)
    outbox.put(note(5, group="g", reason="repeat interval elapsed"), 4.0)
    assert drain(outbox) == ["id-1", "id-3", "id-4", "id-5"]


def test_the_file_does_not_grow_with_what_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "SLACK", 10)
    path = tmp_path / "q.jsonl"
    outbox = Outbox(path)
    outbox.put(note(0), 1.0)
    for i in range(1, 100):
        outbox.put(note(i), 1.0)
        outbox.done(f"id-{i}")
    outbox.close()
    assert path.stat().st_size < 6000
    assert drain(Outbox(path)) == ["id-0"]


def test_a_full_disk_costs_durability_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    outbox = Outbox(tmp_path / "q.jsonl")
    with caplog.at_level(logging.ERROR):
        for i in range(3):
            outbox.put(note(i), 1.0)
    assert drain(outbox) == ["id-0", "id-1", "id-2"]
    assert len([r for r in caplog.records if "No space left" in r.message]) == 1


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    store.replace(path, b"old")

    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="broken"):
        store.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
