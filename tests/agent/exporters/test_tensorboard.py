"""The record: what was logged is what TensorBoard reads, number for number, and everything that goes with a run."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rankscope.agent.component import Unsafe
from rankscope.agent.exporters.tensorboard import Tensorboard
from rankscope.agent.model import Batch, Column, End, Goodbye, Media, RankInfo, Text, UserAlert

from .record import block, losses, rank, read, scalars


def folder(root: Path, number: int = 0) -> Path:
    return root / "project" / "run-1" / f"rank_{number:04d}"


def written(root: Path, *batches: Batch, info: RankInfo | None = None) -> Path:
    record = Tensorboard(dir=str(root))
    info = info or rank()
    record.begin(info)
    for batch in batches:
        record.write(info, batch)
    record.close()
    return folder(root, info.key.rank)


def hparams(path: Path, what: str) -> HParamsPluginData:
    content = read(path).SummaryMetadata(f"_hparams_/session_{what}_info").plugin_data.content
    return HParamsPluginData.FromString(content)


def test_values_come_back_as_float32_with_steps_and_times(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1000, 3)) * 10.0 ** rng.integers(-30, 30, (1000, 3))
    path = written(tmp_path, Batch(1, 1000, (block(range(1000), values.tolist(), ["a", "b/c", "δ"]),)))
    for i, tag in enumerate(["a", "b/c", "δ"]):
        found = read(path).Scalars(tag)
        np.testing.assert_array_equal(np.array([e.value for e in found], np.float32), values[:, i].astype(np.float32))
        assert [e.step for e in found] == list(range(1000))
        assert [e.wall_time for e in found] == [1_790_000_000.0 + n * 0.25 for n in range(1000)]


def test_nan_and_infinities_are_values(tmp_path: Path) -> None:
    path = written(tmp_path, Batch(1, 4, (block(range(4), [[np.nan], [np.inf], [-np.inf], [1e300]], ["loss"]),)))
    np.testing.assert_array_equal([value for _, value in scalars(path, "loss")], [np.nan, np.inf, -np.inf, np.inf])


@pytest.mark.parametrize("first", [-3, 0, 126, 16382, 2**31 - 2, 2**35 - 2, 2**63 - 4])
def test_steps_of_every_width_and_sign(tmp_path: Path, first: int) -> None:
    steps = [first + n for n in range(4)]
    path = written(tmp_path, Batch(1, 4, (block(steps, [[1.0]] * 4, ["loss"]),)))
    assert [step for step, _ in scalars(path, "loss")] == steps


def test_steps_may_repeat_go_back_and_come_late(tmp_path: Path) -> None:
    blocks = (
        block([5, 6, 7], [[1.0], [2.0], [3.0]], ["loss"]),
        block([3, 4, 5], [[4.0], [5.0], [6.0]], ["loss"]),
        block([6], [[7.0]], ["loss"], late=True),
    )
    path = written(tmp_path, Batch(1, 7, blocks))
    assert scalars(path, "loss") == [(5, 1.0), (6, 2.0), (7, 3.0), (3, 4.0), (4, 5.0), (5, 6.0), (6, 7.0)]


def test_phases_are_scalars_under_phase(tmp_path: Path) -> None:
    rows = block([1, 2], [[0.5], [0.25]], ["forward"])
    rows = type(rows)((Column("forward", "phase"),), rows.step, rows.time, rows.value)
    assert scalars(written(tmp_path, Batch(1, 2, (rows,))), "phase/forward") == [(1, 0.5), (2, 0.25)]


def test_text_and_alerts_are_shown_by_the_text_plugin(tmp_path: Path) -> None:
    events = (Text(3, 1.0, "sample", "**hello**\n\nworld"), UserAlert(4, 2.0, "slow", "very", "warning"))
    found = read(written(tmp_path, Batch(1, 2, (), events)))
    assert set(found.PluginTagToContent("text")) == {"sample", "alerts"}
    (event,) = found.Tensors("sample")
    assert (event.step, event.tensor_proto.string_val[0].decode()) == (3, "**hello**\n\nworld")


def test_configuration_is_a_table_of_text_and_hparams_beside_the_metrics(tmp_path: Path) -> None:
    config: dict[str, object] = {"lr": 1e-3, "model": {"layers": 4, "name": "a|b"}, "amp": True, "clip": float("inf")}
    path = written(tmp_path, losses(1, 3), info=rank(config=config))
    start = hparams(path, "start").session_start_info
    assert {name: (v.number_value or v.string_value or v.bool_value) for name, v in start.hparams.items()} == {
        "lr": 1e-3,
        "model/layers": 4.0,
        "model/name": "a|b",
        "amp": True,
        "clip": "Infinity",  # as a number it would break the plugin's page
    }
    assert start.group_name == "project/run-1"
    (table,) = read(path).Tensors("config")
    assert "| `model/name` | a\\|b |" in table.tensor_proto.string_val[0].decode()
    assert scalars(path, "loss")


@pytest.mark.parametrize(
    ("goodbye", "status"),
    [
        (Goodbye(3, 1.0, End.FINISHED), 1),
        (Goodbye(3, 1.0, End.FINISHED, exit_code=2), 2),
        (Goodbye(3, 1.0, End.EXCEPTION, exception="ValueError: no", traceback="Traceback …"), 2),
        (Goodbye(3, 1.0, End.VANISHED), 2),
    ],
)
def test_hparams_say_how_the_run_ended(tmp_path: Path, goodbye: Goodbye, status: int) -> None:
    path = written(tmp_path, losses(1, 3), Batch(4, 4, (), (goodbye,)))
    assert hparams(path, "end").session_end_info.status == status
    assert ("end" in read(path).Tags()["tensors"]) == (status == 2)


def test_the_best_values_stand_beside_the_last_ones_when_a_run_ends(tmp_path: Path) -> None:
    rows = block([1, 2, 3], [[3.0, 0.5], [1.0, 0.75], [2.0, 0.25]], ["val_loss", "accuracy"])
    path = written(tmp_path, Batch(1, 4, (rows,), (Goodbye(3, 1.0, End.FINISHED),)))
    assert (scalars(path, "best/val_loss"), scalars(path, "best/accuracy")) == ([(3, 1.0)], [(3, 0.75)])


def test_the_next_attempt_goes_on_in_the_same_file_and_its_end_is_the_one_that_counts(tmp_path: Path) -> None:
    first, second = rank(session=1), rank(session=2, attempt=1)
    path = written(tmp_path, losses(1, 3), Batch(4, 4, (), (Goodbye(3, 1.0, End.EXCEPTION),)), info=first)
    assert hparams(path, "end").session_end_info.status == 2
    record = Tensorboard(dir=str(tmp_path))
    assert record.begin(second) == 0
    record.commit()
    assert hparams(path, "end").session_end_info.status == 3  # running
    record.write(second, losses(1, 3))
    record.write(second, Batch(4, 4, (), (Goodbye(3, 9.0, End.FINISHED),)))
    record.close()
    assert hparams(path, "end").session_end_info.status == 1
    assert [step for step, _ in scalars(path, "loss")] == [1, 2, 3, 1, 2, 3]
    assert len(list(path.glob("events.*"))) == 1  # TensorBoard reads one file of a folder


def test_the_late_end_of_an_earlier_attempt_does_not_end_the_run(tmp_path: Path) -> None:
    first, second = rank(session=1), rank(session=2, attempt=1)
    record = Tensorboard(dir=str(tmp_path))
    record.begin(first)
    record.begin(second)
    record.write(first, Batch(1, 1, (), (Goodbye(3, 1.0, End.VANISHED),)))
    record.write(second, losses(1, 3))
    record.close()
    assert "_hparams_/session_end_info" not in read(folder(tmp_path)).Tags()["tensors"]


def test_what_is_safe_is_known_after_a_restart_for_every_session(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    for session, count in ((1, 5), (2, 9)):
        info = rank(session=session)
        assert record.begin(info) == 0
        record.write(info, losses(1, count))
    record.commit()
    record.write(rank(session=2), losses(10, 4))  # never committed
    again = Tensorboard(dir=str(tmp_path))
    assert [again.begin(rank(session=session)) for session in (1, 2, 3)] == [5, 9, 0]


def test_a_batch_that_repeats_is_ignored_and_one_that_overlaps_is_refused(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    record.begin(rank())
    record.write(rank(), losses(1, 5))
    record.write(rank(), losses(2, 3))
    with pytest.raises(ValueError, match="records 4 to 8 overlap with 5"):
        record.write(rank(), losses(4, 5))
    record.write(rank(), losses(6, 2))
    record.close()
    assert [step for step, _ in scalars(folder(tmp_path), "loss")] == list(range(1, 8))


@pytest.mark.parametrize("torn", [b"\x00", b"\xff" * 7, b"\x18\x00\x00\x00\x00\x00\x00\x00garbage of some length"])
def test_what_was_written_and_never_counted_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    path = written(tmp_path, losses(1, 5))
    (file,) = path.glob("events.*")
    with file.open("ab") as tail:
        tail.write(torn)
    written(tmp_path, losses(6, 2))
    assert [step for step, _ in scalars(path, "loss")] == list(range(1, 8))


def test_a_file_that_lost_its_end_goes_on_after_its_last_sound_record(tmp_path: Path) -> None:
    path = written(tmp_path, losses(1, 5))
    (file,) = path.glob("events.*")
    os.truncate(file, file.stat().st_size - 3)
    written(tmp_path, losses(6, 2))
    assert [step for step, _ in scalars(path, "loss")] == [1, 2, 3, 4, 6, 7]


def test_files_of_others_in_the_folder_are_not_touched(tmp_path: Path) -> None:
    path = folder(tmp_path)
    path.mkdir(parents=True)
    (path / "events.out.tfevents.1.other.0").write_bytes(b"theirs")
    (path / "progress.other.json").write_text("{broken")
    written(tmp_path, losses(1, 5))
    assert (path / "events.out.tfevents.1.other.0").read_bytes() == b"theirs"
    assert (path / "progress.other.json").read_text() == "{broken"


def test_an_agent_under_a_new_host_name_goes_on_with_the_sessions_it_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, losses(1, 5))
    monkeypatch.setattr(os, "uname", lambda: type("Uname", (), {"nodename": "another"}))
    record = Tensorboard(dir=str(tmp_path))
    assert record.begin(rank()) == 5
    record.write(rank(), losses(6, 2))
    record.close()
    assert len(list(path.glob("events.*"))) == 1
    assert [step for step, _ in scalars(path, "loss")] == list(range(1, 8))


def test_under_a_new_host_name_an_old_session_is_not_written_twice_though_a_new_one_came_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, losses(1, 5))
    with next(path.glob("events.*")).open("ab") as file:
        file.write(b"written, and never counted")
    monkeypatch.setattr(os, "uname", lambda: type("Uname", (), {"nodename": "another"}))
    for _ in range(2):  # also by an agent that starts again
        record = Tensorboard(dir=str(tmp_path))
        later = rank(session=8, attempt=1)
        if record.begin(later) == 0:
            record.write(later, losses(1, 3))
        assert record.begin(rank()) == 5
        record.close()
    record = Tensorboard(dir=str(tmp_path))
    record.begin(later)
    assert record.begin(rank()) == 5
    record.write(rank(), losses(6, 2))
    record.close()
    assert len(list(path.glob("events.*"))) == 2
    assert sorted(step for step, _ in scalars(path, "loss")) == sorted([*range(1, 8), *range(1, 4)])


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size` bytes meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_clear_error_and_nothing_is_lost_or_twice_when_there_is_room_again(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    record.begin(rank())
    record.write(rank(), losses(1, 10))
    record.commit()
    record.write(rank(), losses(11, 100_000))
    with full_disk(100_000):
        for _ in range(3):
            with pytest.raises(OSError, match="File too large") as error:
                record.commit()
            assert "\n" not in str(error.value)
        assert Tensorboard(dir=str(tmp_path)).begin(rank()) == 10
    record.write(rank(), losses(100_011, 5))
    record.commit()
    assert Tensorboard(dir=str(tmp_path)).begin(rank()) == 100_015
    assert [step for step, _ in scalars(folder(tmp_path), "loss")] == list(range(1, 100_016))


def test_one_rank_that_cannot_be_written_does_not_hold_up_the_others(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    for number in (0, 1):
        record.begin(rank(number, session=number))
    record.commit()
    moved = tmp_path / "elsewhere"
    folder(tmp_path, 0).rename(moved)
    folder(tmp_path, 0).symlink_to(moved)
    for number in (0, 1):
        record.write(rank(number, session=number), losses(1, 5))
    with pytest.raises(Unsafe, match="is a link: remove it") as error:
        record.commit()
    assert error.value.ranks == {rank(0).key}
    with pytest.raises(OSError, match="is a link: remove it"):
        record.begin(rank(0, session=0))
    assert record.begin(rank(1, session=1)) == 5
    assert len(scalars(folder(tmp_path, 1), "loss")) == 5
    folder(tmp_path, 0).unlink()
    moved.rename(folder(tmp_path, 0))
    record.commit()
    assert len(scalars(folder(tmp_path, 0), "loss")) == 5


def test_nothing_is_written_through_a_link_that_leads_out(tmp_path: Path) -> None:
    root, outside = tmp_path / "runs", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / "project").symlink_to(outside)
    with pytest.raises(OSError, match="leads out of the runs folder"):
        Tensorboard(dir=str(root)).begin(rank())
    assert not list(outside.iterdir())


def test_a_run_folder_deleted_meanwhile_is_made_anew(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    record.begin(rank())
    record.write(rank(), losses(1, 5))
    record.commit()
    for file in folder(tmp_path).iterdir():
        file.unlink()
    folder(tmp_path).rmdir()
    record.write(rank(), losses(6, 5))
    record.commit()
    assert Tensorboard(dir=str(tmp_path)).begin(rank()) == 10
    assert [step for step, _ in scalars(folder(tmp_path), "loss")] == [6, 7, 8, 9, 10]


def test_what_counts_is_on_disk_under_names_that_are_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system may keep a file through a crash of the machine, and not the folder that names it."""
    synced: list[str] = []

    def noted(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(file: int) -> None:
            real(file)
            synced.append(os.readlink(f"/proc/self/fd/{file}"))

        return sync

    monkeypatch.setattr(os, "fsync", noted(os.fsync))
    monkeypatch.setattr(os, "fdatasync", noted(os.fdatasync))
    path = folder(tmp_path / "new" / "runs")
    record = Tensorboard(dir=str(tmp_path / "new" / "runs"))
    record.begin(rank())
    record.write(rank(), losses(1, 5))
    record.write(rank(), Batch(6, 6, (), (Media(5, 9.0, "artifact", "a", 1, 0, True, b"data", {"name": "a"}),)))
    record.commit()
    (file,) = path.glob("events.*")
    (artifact,) = (path / "artifacts").iterdir()
    made = [artifact, *(up for up in file.parents if up.is_relative_to(tmp_path) and up != tmp_path)]
    assert {str(each.parent) for each in made} <= set(synced)
    assert str(artifact) in synced
    *before, progress, named = synced[synced.index(str(file)) :]
    assert before[0] == str(file)
    assert ".progress." in progress
    assert named == str(path)
    record.close()


def test_ranks_that_are_not_wanted_leave_no_trace(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path), ranks=[0])
    for number in (0, 1):
        record.begin(rank(number))
        record.write(rank(number), losses(1, 5))
    record.commit()
    assert record.begin(rank(1)) == 5
    assert not folder(tmp_path, 1).exists()
    assert folder(tmp_path, 0).exists()


def test_descriptors_are_given_back_when_sessions_end(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(300):
        record.begin(rank(number))
    record.commit()
    assert len(os.listdir("/proc/self/fd")) <= before + 150
    for number in range(300):
        record.write(rank(number), Batch(1, 1, (), (Goodbye(3, 1.0, End.FINISHED),)))
    record.commit()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_batch_that_fails_halfway_leaves_nothing_and_may_come_again(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    record.begin(rank())
    good = losses(1, 3)
    bad = Batch(1, 4, good.blocks, (Text(1, 2.0, "tag", cast("str", None)),))
    for _ in range(2):
        with pytest.raises(TypeError):
            record.write(rank(), bad)
        record.commit()
    record.write(rank(), good)
    record.close()
    assert len(scalars(folder(tmp_path), "loss")) == 3


def test_a_run_that_says_it_began_at_no_time_at_all_has_a_summary(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    info = dataclasses.replace(rank(), started=float("nan"))
    record.begin(info)
    record.write(info, losses(1, 3))
    record.close()
    assert json.loads((folder(tmp_path).parent / "run.json").read_text())["started"] == "NaN"


def test_a_session_that_goes_on_is_remembered_however_many_others_come_and_go(tmp_path: Path) -> None:
    record = Tensorboard(dir=str(tmp_path))
    record.begin(rank())
    for number in range(1, 251):
        record.write(rank(), losses(number, 1))
        other = rank(session=1000 + number)
        record.begin(other)
        record.write(other, Batch(1, 1, events=(Goodbye(1, 2.0, End.FINISHED),)))
        record.commit()
    record.close()
    assert Tensorboard(dir=str(tmp_path)).begin(rank()) == 250
