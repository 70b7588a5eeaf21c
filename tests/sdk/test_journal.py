"""The journal on disk: torn records, new segments, full disks, folders that go away, disks that cannot be mapped."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankscope import sdk
from rankscope.sdk import _journal, _records, _runtime, _spool
from rankscope.sdk._live import Glance, Live
from rankscope.sdk._reader import Reader, survey
from rankscope.sdk.testing import capture


def warn(kind: str, message: str) -> None:
    said.append((kind, message))


said: list[tuple[str, str]] = []


@pytest.fixture(params=["mapped", "appended"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_journal.Journal]:
    """A journal on a disk that can be mapped, and one on a disk that cannot."""
    said.clear()
    mapped = request.param == "mapped"
    opened = _journal.Journal(tmp_path, Live(tmp_path, mapped), mapped, warn, 4 << 20)
    yield opened
    opened.close()


def put(journal: _journal.Journal, *values: float, step: int = 0) -> bool:
    layout = _records.row_struct(len(values))
    size = layout.size
    return journal.append(
        size, lambda buffer, at: layout.pack_into(buffer, at, size, 0, step, 7, *values, _records.MARK), len(values)
    )


def read(folder: Path, reader: Reader | None = None) -> list[int]:
    reader = reader or Reader(folder)
    steps: list[int] = []
    while found := reader.read(1000, 1 << 20)[1]:
        steps += [step for one in found if isinstance(one, _records.Rows) for step in one.steps]
    return steps


def test_what_was_written_is_read_back_over_many_segments(journal: _journal.Journal) -> None:
    for step in range(60_000):
        assert put(journal, 1.0, step=step)
    assert read(journal.folder) == list(range(60_000))
    assert len(_spool.segments(journal.folder)) == 3


def test_a_reader_follows_while_it_is_written(journal: _journal.Journal) -> None:
    reader = Reader(journal.folder)
    steps: list[int] = []
    for step in range(40_000):
        put(journal, 1.0, step=step)
        if step % 97 == 0:
            steps += read(journal.folder, reader)
            assert steps[-1] == step
    assert steps + read(journal.folder, reader) == list(range(40_000))


@pytest.mark.parametrize("start", [1, 2, 500, 26_000, 26_213, 26_214, 26_215, 30_000])
def test_a_reader_goes_on_at_any_record(journal: _journal.Journal, start: int) -> None:
    for step in range(30_000):
        put(journal, 1.0, step=step)
    reader = Reader(journal.folder)
    reader.seek(start)
    assert read(journal.folder, reader) == list(range(start - 1, 30_000))
    reader.seek(30_001)
    assert read(journal.folder, reader) == []


def test_a_torn_record_does_not_exist_until_its_mark_is_written(tmp_path: Path) -> None:
    journal = _journal.Journal(tmp_path, Live(tmp_path, True), True, warn)
    put(journal, 1.0, step=1)
    layout = _records.row_struct(5)
    record = bytearray(layout.size)
    layout.pack_into(record, 0, layout.size, 0, 2, 7, 1.0, 2.0, 3.0, 4.0, 5.0, _records.MARK)
    reader = Reader(tmp_path)
    for cut in range(layout.size):
        journal.buffer[journal.offset : journal.offset + cut] = record[:cut]
        assert read(tmp_path) == [1], f"the first {cut} bytes are no record"
    assert read(tmp_path, reader) == [1]
    put(journal, 1.0, step=3)  # over what was torn
    assert read(tmp_path, reader) == [3]
    assert survey(tmp_path)[:2] == (2, False)
    journal.close()


def test_an_event_larger_than_a_segment_is_refused(journal: _journal.Journal) -> None:
    with pytest.raises(ValueError, match="larger than a segment"):
        journal.event("text", 0, {"value": "x" * (1 << 20)})


def test_segments_that_are_safe_are_forgotten_and_the_newest_stays(journal: _journal.Journal) -> None:
    for step in range(80_000):
        put(journal, 1.0, step=step)
    reader = Reader(journal.folder)
    read(journal.folder, reader)
    reader.forget(60_000)
    assert [first for first, _ in _spool.segments(journal.folder)] == [52_425, 78_637]
    reader.forget(80_000)
    assert len(_spool.segments(journal.folder)) == 1


def test_beyond_the_bound_the_oldest_goes_and_is_counted(journal: _journal.Journal) -> None:
    for step in range(200_000):
        put(journal, 1.0, step=step)
    glance = Glance(journal.folder)
    glance.look()
    steps = read(journal.folder)
    assert steps == list(range(steps[0], 200_000))
    assert glance.dropped == {"journal_full": steps[0]}
    assert {kind for kind, _ in said} == {"journal_full"}
    glance.close()


def test_what_the_agent_has_does_not_count_as_dropped(journal: _journal.Journal) -> None:
    glance = Glance(journal.folder)
    glance.acked(100_000)
    for step in range(200_000):
        put(journal, 1.0, step=step)
    glance.look()
    assert glance.dropped == {"journal_full": read(journal.folder)[0] - 100_000}
    glance.close()


def test_a_folder_that_goes_away_is_made_again(journal: _journal.Journal) -> None:
    put(journal, 1.0, step=1)
    shutil.rmtree(journal.folder)
    assert all(put(journal, 1.0, step=step) for step in range(60_000))
    steps = read(journal.folder)
    assert steps == list(range(60_000 - len(steps), 60_000))
    assert len(steps) > 20_000
    assert [kind for kind, _ in said] == ["journal_gone"]


def test_a_journal_that_goes_away_when_it_is_full_is_made_again(journal: _journal.Journal) -> None:
    for step in range(120_000):
        put(journal, 1.0, step=step)
    shutil.rmtree(journal.folder)
    assert all(put(journal, 1.0, step=step) for step in range(60_000))
    assert read(journal.folder)[-1] == 59_999


def limited(code: str) -> str:
    """Run code in a process that may write files of half a megabyte at most: a disk that is full, to it."""
    program = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from rankscope import sdk\nfrom rankscope.sdk.testing import capture\n"
        "full = lambda on: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19 if on else -1, -1))\n" + code
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout + done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("mapped", [True, False])
def test_a_full_disk_drops_counts_and_says_so_once_and_recovers(mapped: bool) -> None:
    code = f"""
from rankscope.sdk import _spool
_spool.mappable = lambda path: {mapped}
with capture() as sent:
    sdk.log(loss=0.0)
    full(True)
    for n in range(1, 50_000): sdk.log(loss=float(n))
    full(False)
    import time; time.sleep(1.1)
    sdk.log(loss=-1.0)
    values = [v for _, v in sent.scalar("loss")]
assert values[-1] == -1.0, values[-3:]
assert values[:-1] == sorted(set(values[:-1])) and 0 < len(values) < 50_001
assert sent.dropped == {{"disk_full": 50_001 - len(values)}}, (sent.dropped, len(values))
"""
    assert limited(code).count("\n") == 1


@pytest.mark.e2e
def test_a_full_disk_is_not_tried_again_at_every_step() -> None:
    """A file system may take a millisecond to find out that it is full."""
    code = """
import os
from rankscope.sdk import _runtime, _spool
_spool.mappable = lambda path: False
with capture() as sent:
    sdk.log(loss=0.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, -1))
    tries, write, pwrite = [], os.write, os.pwrite
    os.write = lambda *rest: tries.append(1) or write(*rest)
    os.pwrite = lambda *rest: tries.append(1) or pwrite(*rest)
    for n in range(1, 20_000): sdk.log(loss=float(n))
    print("tries", len(tries))
"""
    (tries,) = (int(line.split()[1]) for line in limited(code).splitlines() if line.startswith("tries"))
    assert tries < 500


@pytest.mark.e2e
@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a tmpfs")
def test_a_full_tmpfs_cannot_kill_the_training(tmp_path: Path) -> None:
    """A page of a mapped file that has no block is a SIGBUS; blocks are allocated before they are mapped."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m,mode=700", "tmpfs", tmp_path], check=False).returncode:
        pytest.skip("may not mount")
    try:
        code = """
import os
from rankscope import sdk
from rankscope.sdk import _runtime
sdk.init(agent="unix:/nowhere")
for n in range(100_000): sdk.log(loss=float(n))
assert _runtime.running.begun.session.live.drops[1] > 0
"""
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "RANKSCOPE_SPOOL": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("points are dropped") == 1
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """A small btrfs of the test's own."""
    image, place = tmp_path / "image", tmp_path / "btrfs"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(128 << 20)
    if os.geteuid() != 0 or shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs root, and mkfs.btrfs")
    subprocess.run(["mkfs.btrfs", "--quiet", image], capture_output=True, check=True)
    if subprocess.run(["mount", "-o", "loop", image, place], check=False).returncode:
        pytest.skip("may not mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.e2e
@pytest.mark.parametrize("inside", ["the machine", "a container"])
def test_a_full_disk_that_writes_each_page_anew_cannot_kill_the_training(btrfs: Path, inside: str) -> None:
    """On btrfs an allocated block is of no use to a page that was written once: the next write takes another one."""
    spool = btrfs / "spool"
    if inside == "a container":
        for name in ("lower", "upper", "work", "merged"):
            (btrfs / name).mkdir()
        layers = f"lowerdir={btrfs}/lower,upperdir={btrfs}/upper,workdir={btrfs}/work"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, btrfs / "merged"], check=True)
        spool = btrfs / "merged" / "spool"
    code = f"""
import contextlib, os
from rankscope import sdk
from rankscope.sdk import _runtime
sdk.init(agent="unix:/nowhere")
sdk.log(loss=0.0)
with open("{btrfs}/rest", "wb", buffering=0) as file, contextlib.suppress(OSError):
    while True: file.write(os.urandom(1 << 20))
with open("{btrfs}/rest2", "wb", buffering=0) as file, contextlib.suppress(OSError):
    while True: file.write(os.urandom(4096))
for n in range(50_000):
    sdk.log(loss=float(n))
    if n % 1000 == 0: os.sync()
assert _runtime.running.begun.session.live.drops[1] > 0
"""
    environment = {**os.environ, "RANKSCOPE_SPOOL": str(spool)}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
    finally:
        if inside == "a container":
            subprocess.run(["umount", "-l", btrfs / "merged"], check=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("points are dropped") == 1


MOUNTS = """\
1 0 8:1 / / rw - ext4 /dev/root rw
2 1 0:30 / /home rw - nfs4 server:/home rw
3 1 0:31 / /scratch rw - lustre mds:/x rw
4 1 0:32 / /home/user/fast\\040disk rw - xfs /dev/nvme0n1 rw
5 1 0:33 / /data rw - fuse.sshfs host: rw
6 1 0:34 / /new rw - filesystemfromthefuture x rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/tmp", "ext4"),
        ("/home/user/x", "nfs4"),
        ("/home/user/fast disk/x", "xfs"),
        ("/homestead", "ext4"),
        ("/scratch/job", "lustre"),
        ("/data", "fuse.sshfs"),
        ("/new", "filesystemfromthefuture"),
    ],
)
def test_the_file_system_of_a_path(path: str, kind: str) -> None:
    assert _spool.file_system(Path(path), MOUNTS) == kind


def test_a_network_file_system_is_never_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    def network(_path: Path) -> str:
        return "lustre"

    monkeypatch.setattr(_spool, "file_system", network)
    with capture() as sent:
        for number in range(1000):
            sdk.log(loss=float(number))
        maps = Path("/proc/self/maps").read_text()
        assert _runtime.running is not None
        assert str(_runtime.running.begun.folder) not in maps
    assert [value for _, value in sent.scalar("loss")] == [float(n) for n in range(1000)]


def test_a_spool_of_someone_elses_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError, match="can be written by others"):
        _spool.open_spool(tmp_path)
    if os.geteuid() == 0:
        tmp_path.chmod(0o700)
        os.chown(tmp_path, 12345, 12345)
        with pytest.raises(PermissionError, match="belongs to user 12345"):
            _spool.open_spool(tmp_path)


def test_a_spool_that_cannot_be_used_is_replaced_by_memory_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("RANKSCOPE_SPOOL", str(blocked))
    monkeypatch.setenv("RANKSCOPE_AGENT", "unix:/nowhere")
    sdk.init()
    sdk.log(loss=1.0)
    assert _runtime.running is not None
    folder = _runtime.running.begun.folder
    sdk.finish()
    assert folder.parent == Path(f"/dev/shm/rankscope-{os.geteuid()}")
    assert len(caplog.records) == 1
    shutil.rmtree(folder)


def test_a_journal_whose_mount_runs_out_of_inodes_is_like_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = _journal.Journal(tmp_path, Live(tmp_path, True), True, warn)
    real = os.open

    def refuse(path: str, *rest: int) -> int:
        if str(path).endswith(".seg"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    written = sum(put(journal, 1.0, step=step) for step in range(30_000))
    assert 20_000 < written < 30_000
    monkeypatch.undo()
    glance = Glance(tmp_path)
    assert glance.dropped == {"disk_full": 30_000 - written}
    glance.close()
    journal.close()


def test_a_record_that_is_written_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look that is interrupted between two pages sees an old body under a new mark."""
    journal = _journal.Journal(tmp_path, Live(tmp_path, True), True, warn)
    begin = journal.offset
    put(journal, 1.0, step=1)
    put(journal, 2.0, step=2)
    whole = bytes(journal.buffer[begin : journal.offset])
    half = bytearray(whole)
    second = len(whole) // 2
    half[second + 8 : second + 32] = bytes(24)  # step, time and value of the second are not there yet, its mark is
    looks: list[bytes] = [whole[:4], bytes(half).ljust(32 * 1024, b"\0")]
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: looks.pop(0) if at and looks else pread(file, size, at))
    reader = Reader(tmp_path)
    _, found = reader.read(10, 1 << 20)
    assert not looks
    assert [(one.steps, one.values) for one in found if isinstance(one, _records.Rows)] == [([1, 2], [1.0, 2.0])]
    journal.close()


def test_the_last_record_is_known_where_a_new_segment_was_begun_and_never_written(tmp_path: Path) -> None:
    """As a full disk leaves it, or a kill at that moment."""
    event = _records.event("text", 3, 5, {"tag": "a", "value": "b"})
    (tmp_path / _spool.segment_name(1)).write_bytes(_records.SEGMENT.pack(_records.MAGIC, 1, 0) + event * 10)
    (tmp_path / _spool.segment_name(11)).write_bytes(_records.SEGMENT.pack(_records.MAGIC, 11, 0))
    assert survey(tmp_path) == (10, False, 5)


@pytest.mark.parametrize("head", [b"", bytes(64), _records.SEGMENT.pack(_records.MAGIC, 0, 0)])
def test_a_segment_whose_head_was_lost_is_passed_over(tmp_path: Path, head: bytes) -> None:
    """As a machine that crashed leaves it; a segment that nothing follows may only not have begun yet."""
    event = _records.event("text", 3, 5, {"tag": "a", "value": "b"})
    (tmp_path / _spool.segment_name(1)).write_bytes(_records.SEGMENT.pack(_records.MAGIC, 1, 0) + event * 2)
    (tmp_path / _spool.segment_name(3)).write_bytes(head)
    reader = Reader(tmp_path)
    assert reader.read(10, 1 << 20)[0] == 1
    assert reader.read(10, 1 << 20) == (3, [])
    (tmp_path / _spool.segment_name(5)).write_bytes(_records.SEGMENT.pack(_records.MAGIC, 5, 0) + event)
    first, found = reader.read(10, 1 << 20)
    assert (first, len(found)) == (5, 1)


def test_a_disk_that_fails_under_the_page_beside_the_records_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def network(_path: Path) -> str:
        return "nfs4"

    monkeypatch.setattr(_spool, "file_system", network)
    with capture() as sent:
        assert _runtime.running is not None
        full = os.open("/dev/full", os.O_RDWR)
        live = _runtime.running.begun.session.live
        os.dup2(full, live._file)  # pyright: ignore[reportPrivateUsage]
        os.close(full)
        for number in range(10):
            sdk.log(loss=float(number))
        sdk.log(loss="no number")
        assert [step for step, _ in sent.scalar("loss")] == list(range(10))
        assert sum(sent.warnings.values()) == 0


@pytest.mark.e2e
@pytest.mark.parametrize("end", ["sdk.finish()", "sdk.finish(3)"])
def test_how_a_rank_ended_is_known_where_the_disk_had_no_room_for_it(end: str) -> None:
    code = f"""
import json, os, tempfile
from pathlib import Path
os.environ["RANKSCOPE_SPOOL"] = tempfile.mkdtemp()
os.environ["RANKSCOPE_AGENT"] = "unix:/nobody"
from rankscope.sdk import _runtime
from rankscope.sdk._delivery import complete
from rankscope.sdk._reader import Reader
sdk.init()
folder = _runtime.running.begun.folder
full(True)
for number in range(30_000):
    sdk.log(loss=float(number))
{end}
full(False)
complete(folder)
reader, events = Reader(folder), []
while found := reader.read(5000, 1 << 20)[1]:
    events += [one for one in found if hasattr(one, "fields")]
print(json.dumps([dict(one.fields) for one in events]))
"""
    said = json.loads(limited(code).splitlines()[0])
    assert said == [{"reason": "finished", "exit_code": 3 if "3" in end else 0}]


def test_a_bound_that_is_no_number_is_said_and_the_usual_one_taken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("RANKSCOPE_SPOOL_BYTES", "256MB")
    with capture() as sent:
        sdk.log(loss=1.0)
    assert sent.scalar("loss") == [(0, 1.0)]
    assert "'256MB' is no number of bytes" in caplog.text
