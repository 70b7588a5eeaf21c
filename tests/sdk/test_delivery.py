"""From `log()` to the agent, whatever happens to either: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rankscope.sdk import _delivery, _spool, _stream
from rankscope.sdk._batch import Batches
from rankscope.sdk._cost import Cost
from rankscope.sdk._delivery import complete
from rankscope.sdk._live import Glance, Live
from rankscope.sdk._records import Column, Rows, Shape
from tests.waiting import wait_for

from .conftest import Script
from .server import Agent, Kept

pytestmark = pytest.mark.e2e

LOGS = """
    import sys, time
    from rankscope import sdk
    sdk.init(project="p", name="n", config={"lr": 0.1})
    for number in range(COUNT):
        sdk.log(loss=float(number))
    print("logged", flush=True)
"""
FOREVER = """
    import os, sys, time
    from rankscope import sdk, sdk as _
    from rankscope.sdk import _runtime
    sdk.init(project="p", name="n")
    print(_runtime.running.helper.pid, flush=True)
    number = 0
    while True:
        for _ in range(50):
            sdk.log(loss=float(number))
            number += 1
        os.write(1, b"%d\\n" % number)  # so many log() calls have returned
        time.sleep(0.005)
"""


def whole(kept: Kept, count: int) -> bool:
    return kept.scalar("loss") == [(n, float(n)) for n in range(count)]


def told(process: subprocess.Popen[str]) -> int:
    """Return the last figure that a killed script wrote."""
    output, _ = process.communicate()
    return int(output.split("\n")[-2])


def test_every_point_arrives_once_and_the_journal_goes_away(agent: Agent, script: Script, spool: Path) -> None:
    process = script(LOGS.replace("COUNT", "20000"))
    assert process.wait(60) == 0
    assert whole(agent.only, 20_000)
    assert agent.only.gaps == agent.only.repeated == 0
    assert agent.only.goodbye is not None
    assert agent.only.goodbye.reason == agent.only.goodbye.FINISHED
    wait_for(lambda: not list(spool.iterdir()))


def test_the_hello_says_who_the_rank_is(agent: Agent, script: Script) -> None:
    code = """
        from rankscope import sdk
        from pathlib import Path
        sdk.init("project", "name", {"lr": float("nan"), "path": Path("/x")}, tags=["a"], notes="n")
    """
    process = script(code, RANK="3", WORLD_SIZE="8", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", CUDA_VISIBLE_DEVICES="GPU-1")
    assert process.wait(60) == 0
    hello = agent.only.hello
    assert (hello.project, hello.name, hello.rank, hello.local_rank, hello.world_size) == ("project", "name", 3, 1, 8)
    assert hello.config_json == '{"lr": "NaN", "path": "/x"}'
    assert (hello.pid, hello.hostname) == (process.pid, os.uname().nodename)
    assert (list(hello.tags), hello.notes, list(hello.device_uuids)) == (["a"], "n", ["GPU-1"])
    assert hello.environment["torch"].startswith("2.")
    assert hello.protocol == 1
    assert hello.session


def test_texts_that_are_no_valid_unicode_keep_nothing_else_from_arriving(
    agent: Agent, script: Script, short: Path
) -> None:
    odd = os.fsencode(short) + b"/caf\xe9"  # Latin-1, as on an old file server
    os.mkdir(odd)
    code = f"""
        import os
        from rankscope import sdk
        os.chdir({odd!r})
        sdk.init(project="p\\ud83d", name="n", id="run-\\udce9")
        with sdk.phase("\\udce9"):
            pass
        sdk.log({{"loss\\udce9": 1.0, "loss": 2.0}})
        sdk.log(loss=3.0)
    """
    assert script(code).wait(60) == 0
    wait_for(lambda: agent.only.goodbye is not None)
    assert agent.only.rows == [(0, "loss?", 1.0), (0, "loss", 2.0), (1, "loss", 3.0)]
    assert [name for _, name, _ in agent.only.phases] == ["?"]
    assert agent.only.hello.run_id == "run-?"
    assert agent.only.hello.environment["directory"].endswith("caf?")


def test_an_id_of_any_length_names_the_run(agent: Agent, script: Script) -> None:
    code = "from rankscope import sdk\nsdk.init(id='x' * 9_000_000)\nsdk.log(loss=1.0)"
    assert script(code).wait(60) == 0
    wait_for(lambda: bool(agent.sessions) and agent.only.goodbye is not None)
    assert 0 < len(agent.only.hello.run_id) <= 256


def test_a_configuration_that_cannot_be_shown_costs_only_itself(agent: Agent, script: Script) -> None:
    code = """
        from rankscope import sdk

        class Missing(dict):
            def __iter__(self): raise KeyError("a mandatory value is missing")

        class Odd:
            def __str__(self): raise RuntimeError("no")

        endless = {"lr": 0.1}
        endless.update({str(number): endless for number in range(20)})
        config = {"missing": Missing(a=1), "odd": Odd(), "seed": 10**5000, "endless": endless, "lr": 0.5}
        sdk.init(name="n", config=config, tags=["good", Odd()])
        sdk.log(loss=1.0)
    """
    assert script(code).wait(60) == 0
    wait_for(lambda: bool(agent.sessions) and agent.only.goodbye is not None)
    config = json.loads(agent.only.hello.config_json)
    assert config.pop("endless") == {"lr": 0.1} | {str(number): "…" for number in range(20)}
    assert config == {"missing": "<Missing>", "odd": "<Odd>", "seed": "an integer of 16610 bits", "lr": 0.5}
    assert list(agent.only.hello.tags) == ["good", "<Odd>"]
    assert agent.only.rows == [(0, "loss", 1.0)]


@pytest.mark.parametrize("where", ["elsewhere", "nowhere"])
def test_a_training_may_change_its_folder_or_lose_it(
    agent: Agent, script: Script, short: Path, spool: Path, where: str
) -> None:
    code = f"""
        import os, shutil
        from rankscope import sdk
        os.mkdir({str(short)!r} + "/here")
        os.chdir({str(short)!r} + "/here")
        if {where!r} == "nowhere":
            os.rmdir({str(short)!r} + "/here")
        sdk.init(name="n")
        os.chdir("/")
        sdk.log(loss=1.0)
    """
    process = script(code, RANKSCOPE_SPOOL="spool" if where == "elsewhere" else str(spool))
    _, errors = process.communicate(timeout=60)
    wait_for(lambda: bool(agent.sessions) and agent.only.goodbye is not None)
    assert agent.only.rows == [(0, "loss", 1.0)]
    assert "removed" not in errors
    assert "Traceback" not in errors


def test_rank_zero_says_once_which_run_this_is(agent: Agent, script: Script) -> None:
    code = "from rankscope import sdk\nimport time\nsdk.init(name='exp')\nsdk.log(a=1.0)\ntime.sleep(1)"
    first = script(code, RANK="0", WORLD_SIZE="2")
    second = script(code, RANK="1", WORLD_SIZE="2")
    quiet = script(code, RANKSCOPE_LOG_LEVEL="warning")
    assert first.communicate()[1].startswith("rankscope: run exp-")
    assert second.communicate()[1] == ""
    assert quiet.communicate()[1] == ""


def test_points_arrive_while_the_training_runs(agent: Agent, script: Script) -> None:
    script(FOREVER)
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) > 5000)
    late = [arrived - logged for arrived, logged in zip(agent.only.arrived, agent.only.times, strict=True)][3000:]
    assert sorted(late)[len(late) // 2] < 1.0  # a generous bound; tests/bench/hotpath.py measures it
    assert all(value > -0.05 for value in late)


def test_heartbeats_tell_of_the_rank(agent: Agent, script: Script) -> None:
    code = """
        import time
        from rankscope import sdk
        sdk.init()
        for number in range(500): sdk.log(loss=1.0, bad="x")
        with sdk.phase("eval"):
            sdk.expect(60)
            time.sleep(1.5)
    """
    script(code)
    wait_for(lambda: bool(agent.sessions) and any(beat.phase == "eval" for beat in agent.only.beats))
    wait_for(lambda: agent.only.beats[-1].step == 499)
    beat = agent.only.beats[-1]
    assert dict(beat.dropped) == {"not_a_number": 500}
    assert 0 < beat.log_seconds["0.5"] <= beat.log_seconds["0.99"] < 0.1
    assert 0 < beat.overhead_ratio < 1


def test_a_killed_rank_loses_nothing_and_its_sender_says_that_it_vanished(agent: Agent, script: Script) -> None:
    process = script(FOREVER)
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) > 1000)
    process.kill()
    count = told(process)
    wait_for(lambda: agent.only.goodbye is not None)
    assert agent.only.goodbye is not None
    assert agent.only.goodbye.reason == agent.only.goodbye.VANISHED
    assert len(agent.only.rows) >= count
    assert whole(agent.only, len(agent.only.rows))


@pytest.mark.parametrize("order", ["rank first", "sender first"])
def test_when_rank_and_sender_are_killed_the_next_rank_delivers(
    agent: Agent, script: Script, spool: Path, order: str
) -> None:
    process = script(FOREVER)
    assert process.stdout is not None
    sender = int(process.stdout.readline())
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) > 500)
    victims = [process.pid, sender] if order == "rank first" else [sender, process.pid]
    os.kill(victims[0], signal.SIGSTOP)  # so that neither does anything between the two
    os.kill(victims[1], signal.SIGKILL)
    os.kill(victims[0], signal.SIGKILL)
    count = told(process)
    (first,) = agent.sessions.values()
    assert len(list(spool.iterdir())) == 1
    other = script("from rankscope import sdk\nimport time\nsdk.init()\ntime.sleep(200)")
    wait_for(lambda: first.goodbye is not None)
    assert len(first.rows) >= count
    assert whole(first, len(first.rows))
    assert first.gaps == first.repeated == 0
    other.kill()


def test_a_sender_that_delivered_what_others_left_behind_holds_its_own_lock_and_nothing_of_theirs(
    agent: Agent, script: Script, spool: Path
) -> None:
    kill = "from rankscope.sdk import _runtime\n    os.kill(_runtime.running.helper.pid, 9)\n    os._exit(9)"
    for _ in range(3):
        script(LOGS.replace("COUNT", "1") + f"    import os\n    {kill}", RANKSCOPE_AGENT=f"unix:{spool}/nobody").wait(
            20
        )
    assert len(list(_spool.journals(spool))) == 3
    process = script(LOGS.replace("COUNT", "1") + "    sys.stdin.readline()")
    wait_for(lambda: len(agent.sessions) == 4 and len(list(_spool.journals(spool))) == 1)
    (own,) = _spool.journals(spool)
    (sender,) = (int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    probe = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    for name in (_spool.WRITER, _spool.SENDER):
        done = subprocess.run([sys.executable, "-c", probe, own / name], capture_output=True, check=False)
        assert b"BlockingIOError" in done.stderr, name

    def others() -> list[str]:
        files = (os.readlink(file) for file in Path(f"/proc/{sender}/fd").iterdir())
        return [file for file in files if str(spool) in file and str(own) not in file]

    wait_for(lambda: not others())
    process.communicate("\n", timeout=60)


def test_whoever_delivers_for_the_dead_never_keeps_the_sender_of_a_living_rank_from_its_lock(short: Path) -> None:
    (short / _spool.HELLO).write_text("{}")
    lock = _spool.lock(short / _spool.WRITER, make=True)
    assert lock is not None
    command = [sys.executable, "-m", "rankscope.sdk._deliver", str(short), "--agent", "unix:/nowhere"]
    assert subprocess.run(command, check=False).returncode == 3
    assert not (short / _spool.SENDER).exists(), "it was not even looked at"
    os.close(lock)


def test_whoever_comes_to_a_journal_that_is_being_removed_leaves_nothing_in_its_folder(short: Path) -> None:
    """A new file, a lock say, would keep the folder: nobody could tell what it is, for an hour."""
    with pytest.raises(FileNotFoundError):
        asyncio.run(_delivery.Dead(short, "unix:/nowhere", "").run())
    assert not list(short.iterdir())


def test_a_sender_that_begins_when_all_is_delivered_and_gone_says_nothing(script: Script, spool: Path) -> None:
    process = script("""
        import os, shutil, signal
        from rankscope import sdk
        from rankscope.sdk import _runtime
        sdk.init(project="p", name="n")
        sender = _runtime.running.helper.pid
        os.kill(sender, signal.SIGSTOP)
        for name in os.listdir(_runtime.running.begun.folder):
            os.unlink(_runtime.running.begun.folder / name)
        os.kill(sender, signal.SIGCONT)
        os.waitid(os.P_PID, sender, os.WEXITED | os.WNOWAIT)
        os._exit(0)
    """)
    assert process.communicate(timeout=60)[1] == ""
    (folder,) = spool.iterdir()
    assert not list(folder.iterdir())


def test_a_journal_that_goes_away_during_the_look_for_others_hides_none_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / _spool.HELLO).write_text("{}")
    exists = os.path.exists

    def delivered(path: str) -> bool:  # by someone else, right after this look at it
        found = exists(path)
        if path == str(tmp_path / "b" / _spool.HELLO):
            shutil.rmtree(tmp_path / "b")
        return found

    monkeypatch.setattr(os.path, "exists", delivered)
    assert {path.name for path in _spool.journals(tmp_path)} == {"a", "c"}


def test_what_is_left_of_a_journal_whose_removal_was_cut_short_goes_away(tmp_path: Path) -> None:
    old, fresh, journal, foreign = (tmp_path / name for name in ("a" * 16, "b" * 16, "c" * 16, "of-the-user"))
    for folder in (old, fresh, journal, foreign):
        folder.mkdir()
        (folder / _spool.segment_name(1)).write_bytes(bytes(100))
    (journal / _spool.HELLO).write_text("{}")
    for folder in (old, journal, foreign):
        os.utime(folder, (1e9, 1e9))
    _delivery.clear(tmp_path)
    assert sorted(path for path in tmp_path.iterdir()) == [fresh, journal, foreign]


@pytest.mark.parametrize("count", [100, 60_000])
def test_a_spool_that_is_removed_under_a_rank_costs_no_point_that_is_still_in_reach(
    agent: Agent, script: Script, spool: Path, count: int
) -> None:
    process = script(f"""
        import sys, time
        from rankscope import sdk
        sdk.init(project="p", name="n")
        for number in range(1000):
            sdk.log(loss=float(number))
        print("up", flush=True)
        sys.stdin.readline()
        for number in range(1000, 1000 + {count}):
            sdk.log(loss=float(number))
            if number % 5000 == 0:
                time.sleep(0.4)  # for the sender to keep up: what it has not yet opened cannot be had back
        sdk.log(new=1.0)
        print("held", flush=True)
        sys.stdin.readline()
        sdk.finish()
    """)
    assert process.stdout is not None
    process.stdout.readline()
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) == 1000)
    shutil.rmtree(spool)
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"
    (own,) = _spool.journals(spool)
    assert _spool.lock(own / _spool.WRITER) is None
    _, errors = process.communicate("\n", timeout=60)
    wait_for(lambda: agent.only.goodbye is not None)
    assert agent.only.scalar("loss") == [(n, float(n)) for n in range(1000 + count)]
    assert agent.only.scalar("new") == [(1000 + count, 1.0)]
    assert agent.only.gaps == 0
    assert "Traceback" not in errors
    assert errors.count("was removed") == 1
    wait_for(lambda: not list(_spool.journals(spool)))


@pytest.mark.parametrize("seen", [True, False])
def test_a_spool_that_is_removed_before_the_first_point_costs_none(
    agent: Agent, script: Script, spool: Path, seen: bool
) -> None:
    process = script("""
        import sys
        from rankscope import sdk
        sdk.init(project="p", name="n")
        print("up", flush=True)
        sys.stdin.readline()
        for number in range(100):
            sdk.log(loss=float(number))
    """)
    assert process.stdout is not None
    process.stdout.readline()
    if seen:
        wait_for(lambda: bool(agent.sessions) and len(agent.only.beats) > 3)
    shutil.rmtree(spool)
    process.communicate("\n", timeout=60)
    assert agent.only.scalar("loss") == [(n, float(n)) for n in range(100)]
    assert agent.only.goodbye is not None
    assert agent.only.goodbye.reason == agent.only.goodbye.FINISHED


def test_points_wait_for_an_agent_that_comes_later(short: Path, script: Script, spool: Path) -> None:
    process = script(LOGS.replace("COUNT", "3000") + "    sys.stdin.readline()")
    assert process.stdout is not None
    assert process.stdout.readline() == "logged\n"
    agent = Agent(short / "agent.sock").start()
    try:
        wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) == 3000)
        assert whole(agent.only, 3000)
    finally:
        agent.stop()


def test_a_run_that_ends_without_an_agent_leaves_its_points_on_disk(short: Path, script: Script, spool: Path) -> None:
    process = script(LOGS.replace("COUNT", "3000"))
    assert process.wait(60) == 0
    (journal,) = spool.iterdir()
    agent = Agent(short / "agent.sock").start()
    try:
        command = ["-m", "rankscope.sdk._deliver", str(journal), "--agent", agent.address]
        wait_for(lambda: subprocess.run([sys.executable, *command], check=False).returncode == 0)
        assert whole(agent.only, 3000)
        assert agent.only.goodbye is not None
        assert agent.only.goodbye.reason == agent.only.goodbye.FINISHED
    finally:
        agent.stop()
    assert not list(spool.iterdir())


def test_an_agent_that_restarts_and_resets_gets_each_point_once(agent: Agent, script: Script) -> None:
    agent.behaviour.reset_after = 7
    process = script(FOREVER)
    wait_for(lambda: agent.streams > 3)
    agent.stop()
    time.sleep(0.3)
    agent.start()
    wait_for(lambda: agent.streams > 6)
    agent.behaviour.reset_after = 0
    process.kill()
    count = told(process)
    wait_for(lambda: agent.only.goodbye is not None)
    assert len(agent.only.rows) >= count
    assert whole(agent.only, len(agent.only.rows))


@pytest.mark.parametrize("trouble", ["silent", "slow", "no welcome"])
def test_finish_is_bounded_whatever_the_agent_does(agent: Agent, script: Script, spool: Path, trouble: str) -> None:
    agent.behaviour.ack = trouble != "silent"
    agent.behaviour.ack_delay = 10.0 if trouble == "slow" else 0.0
    agent.behaviour.welcome_delay = 30.0 if trouble == "no welcome" else 0.0
    code = (
        LOGS
        + """
    time.sleep(0.5)
    begin = time.monotonic()
    sdk.finish()
    print(time.monotonic() - begin)
    """
    )
    process = script(code.replace("COUNT", "100"))
    assert float(process.communicate(timeout=60)[0].split()[-1]) < 2.2  # 2 s, and a busy machine
    assert len(list(spool.iterdir())) == 1  # what was not acknowledged waits


def test_a_wrong_token_is_said_and_costs_nothing_but_that(agent: Agent, script: Script, spool: Path) -> None:
    agent.behaviour.token = "right"
    process = script(LOGS.replace("COUNT", "10") + "    time.sleep(1)", RANKSCOPE_TOKEN="wrong")
    error = process.communicate(timeout=60)[1]
    assert error.count("wrong token") == 1
    assert "wrong " not in error.replace("wrong token", "")
    process = script("from rankscope import sdk\nimport time\nsdk.init()\ntime.sleep(1)", RANKSCOPE_TOKEN="right")
    wait_for(lambda: any(whole(kept, 10) for kept in agent.sessions.values()))


def test_a_record_that_the_agent_refuses_is_left_out_and_the_rest_arrives(agent: Agent, script: Script) -> None:
    def refuse(batch: object) -> str:
        events = getattr(batch, "events", [])
        return "poison" if any(event.text.value == "poison" for event in events) else ""

    agent.behaviour.refuse = refuse
    code = """
        from rankscope import sdk
        import time
        sdk.init()
        for number in range(300):
            sdk.log(loss=float(number))
            if number == 123: sdk.text("tag", "poison")
        time.sleep(200)
    """
    script(code)
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) == 300)
    assert whole(agent.only, 300)
    wait_for(lambda: dict(agent.only.beats[-1].dropped) == {"refused": 1})


def test_the_agent_may_ask_for_less(short: Path) -> None:
    live = Live(short, True)
    cost = Cost(live)
    glance = Glance(short)
    assert cost.rate("histograms") == 1.0
    assert glance.set_rate("histograms", 0.25)
    assert cost.rate("histograms") == 0.25
    assert cost.rate("activations") == 1.0
    assert not glance.set_rate("something else", 0.5)
    glance.close()


def test_beyond_its_budget_the_sdk_thins_what_is_optional(short: Path) -> None:
    cost = Cost(Live(short, True))
    cost.spend(10**15)
    assert cost.ratio > 1
    assert 0 < cost.rate("histograms") < 0.01


def test_a_clock_that_jumps_moves_no_point_twice(short: Path) -> None:
    """Rows carry the monotonic clock; the wall clock is added when they are sent."""
    shape = Shape(0, (Column("loss"),))
    rows = [Rows(0, [step], [step * 1000], [1.0]) for step in range(3)]
    batches = Batches()
    for first, offset in ((1, 10**18), (2, 5), (3, 10**18)):
        batch, _ = batches.make(first, rows[first - 1 : first], lambda _: shape, offset)
        assert (batch.clock_offset_ns, list(batch.blocks[0].monotonic_ns)) == (offset, [(first - 1) * 1000])


def test_where_the_disk_is_too_full_for_the_goodbye_the_points_go_first(
    agent: Agent, script: Script, spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = script(FOREVER)
    assert process.stdout is not None
    sender = int(process.stdout.readline())
    count = int(process.stdout.readline())
    process.send_signal(signal.SIGSTOP)  # so that it starts no other sender
    os.kill(sender, signal.SIGKILL)
    process.kill()
    process.communicate()
    (folder,) = spool.iterdir()
    calls: list[int] = []

    def full(place: Path) -> int:
        calls.append(1)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return complete(place)

    monkeypatch.setattr(_delivery, "complete", full)
    assert asyncio.run(_delivery.Dead(folder, agent.address, "").run())
    assert len(agent.only.rows) >= count
    assert agent.only.goodbye is not None
    assert not folder.exists()


def test_a_backlog_comes_at_a_bounded_rate(agent: Agent, script: Script) -> None:
    count = 3 * _stream.RECORDS_A_SECOND
    agent.stop()
    process = script(LOGS.replace("COUNT", str(count)) + "    sys.stdin.readline()")
    assert process.stdout is not None
    process.stdout.readline()
    begin = time.monotonic()
    agent.start()
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) == count)
    assert time.monotonic() - begin > 1.8  # the first second's worth may come at once


def test_the_journal_is_bounded_and_says_what_it_dropped(agent: Agent, script: Script, spool: Path) -> None:
    agent.stop()
    process = script(LOGS.replace("COUNT", "200000") + "    sys.stdin.readline()", RANKSCOPE_SPOOL_BYTES=str(4 << 20))
    assert process.stdout is not None
    process.stdout.readline()
    (journal,) = spool.iterdir()
    assert sum(path.stat().st_size for path in journal.glob("*.seg")) <= 4 << 20
    agent.start()
    wait_for(lambda: bool(agent.sessions) and agent.only.safe == 200_000)
    kept = agent.only
    wait_for(lambda: kept.beats[-1].dropped["journal_full"] == kept.gaps)
    assert len(kept.rows) + kept.gaps == 200_000
    assert kept.scalar("loss")[-1] == (199_999, 199_999.0)


def test_hurrying_a_sender_that_does_not_listen_holds_nobody_up(script: Script) -> None:
    """The pipe between rank and sender is full long before the last of these; a rank that waits never ends."""
    process = script("""
        import os, signal
        from rankscope import sdk
        from rankscope.sdk import _launch, _runtime
        sdk.init(project="p", name="n")
        helper, _launch.WAKE_EVERY = _runtime.running.helper, -1.0
        os.kill(helper.pid, signal.SIGSTOP)
        for step in range(200_000):
            helper.wake()
        sdk.log(loss=float("nan"))
        os.kill(helper.pid, signal.SIGCONT)
        print("through")
    """)
    assert process.communicate(timeout=60)[0].endswith("through\n")


def test_an_agent_that_takes_only_small_messages_gets_smaller_ones(agent: Agent, script: Script) -> None:
    agent.stop()
    agent.behaviour.largest = 20_000
    process = script(LOGS.replace("COUNT", "3000") + "    sdk.text('t', 'x' * 30_000)\n    sys.stdin.readline()")
    assert process.stdout is not None
    process.stdout.readline()
    agent.start()
    wait_for(lambda: bool(agent.sessions) and agent.only.safe == 3001)
    process.communicate("\n", timeout=60)
    wait_for(lambda: agent.only.goodbye is not None)
    assert whole(agent.only, 3000)
    assert (agent.only.gaps, agent.only.repeated) == (0, 0)
    assert not any(event.WhichOneof("body") == "text" for event in agent.only.events)


def test_a_loss_that_is_no_number_finds_its_way_though_the_sender_has_died(agent: Agent, script: Script) -> None:
    """In a training that logs once a minute, the usual look after the sender may be an hour away."""
    process = script("""
        import os, signal, sys
        from rankscope import sdk
        from rankscope.sdk import _runtime
        sdk.init(project="p", name="n")
        for number in range(5):
            sdk.log(loss=float(number))
        helper = _runtime.running.helper
        os.kill(helper.pid, signal.SIGKILL)
        os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)
        sdk.log(loss=float("nan"))
        sys.stdin.readline()
    """)
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) == 6)
    process.communicate("\n", timeout=60)


def test_a_sender_that_died_is_no_broken_pipe_to_a_training_that_would_end_by_one(script: Script) -> None:
    """`signal(SIGPIPE, SIG_DFL)` is what scripts do whose output goes through `head`."""
    process = script("""
        import os, signal
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        from rankscope import sdk
        from rankscope.sdk import _runtime
        sdk.init(project="p", name="n")
        helper = _runtime.running.helper
        os.kill(helper.pid, signal.SIGKILL)
        os.waitid(os.P_PID, helper.pid, os.WEXITED | os.WNOWAIT)
        helper.wake()
        sdk.log(loss=float("nan"))
        sdk.finish()
        print("through")
    """)
    assert process.communicate(timeout=60)[0].endswith("through\n")
    assert process.returncode == 0


@pytest.mark.long
@pytest.mark.timeout(180)
def test_an_agent_that_takes_ten_seconds_for_each_answer_gets_everything_once(agent: Agent, script: Script) -> None:
    agent.behaviour.welcome_delay = agent.behaviour.ack_delay = 10.0
    process = script(LOGS.replace("COUNT", "20000") + "    sys.stdin.readline()")
    assert process.stdout is not None
    process.stdout.readline()
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) == 20_000, 120)
    assert (agent.only.repeated, agent.only.gaps, agent.streams) == (0, 0, 1)


def test_a_module_of_the_users_named_as_one_of_the_standard_library_is_not_for_the_sender(
    agent: Agent, script: Script, short: Path
) -> None:
    (short / "asyncio.py").write_text("raise RuntimeError('this is not asyncio')")
    assert script(LOGS.replace("COUNT", "100")).wait(60) == 0
    assert whole(agent.only, 100)


def test_a_sender_that_cannot_begin_says_so_in_one_line(script: Script, short: Path) -> None:
    (short / "grpc.py").write_text("raise ImportError('no such library')")
    process = script(LOGS.replace("COUNT", "100"))
    output, errors = process.communicate(timeout=60)
    assert output == "logged\n"
    assert re.fullmatch(r"rankscope: no sender, points wait in \S+: ImportError: no such library\n", errors)


def test_a_sender_without_stderr_keeps_its_lock_when_the_rank_ends(agent: Agent, script: Script, spool: Path) -> None:
    agent.behaviour.ack = False  # so that the sender stays
    process = script("""
        import os, sys
        from rankscope import sdk
        for number in (0, 1, 2):
            os.close(number)
        sdk.init(name="n")
        sdk.log(loss=1.0)
        os.kill(os.getpid(), 9)
    """)
    process.wait(60)
    wait_for(lambda: bool(agent.sessions) and agent.only.goodbye is not None)  # it knows of the end
    (folder,) = _spool.journals(spool)
    assert _spool.lock(folder / _spool.SENDER) is None
    agent.behaviour.ack = True


def test_rank_zero_says_once_that_no_agent_answers(agent: Agent, script: Script, short: Path) -> None:
    """A wrong address and an agent that comes later look the same: that is for a person to tell."""
    agent.stop()
    process = script(LOGS.replace("COUNT", "10") + "    sys.stdin.readline()")
    assert process.stderr is not None
    assert process.stderr.readline().startswith(
        f"rankscope: no agent answers at unix:{short}/agent.sock: points wait in"
    )
    agent.start()
    assert process.stderr.readline().startswith("rankscope: run n-")
    assert process.communicate("\n", timeout=60)[1] == ""


def test_a_journal_that_is_gone_meanwhile_is_no_trouble_to_who_says_so(short: Path) -> None:
    command = [sys.executable, "-m", "rankscope.sdk._deliver", str(short / "gone"), "--agent", "unix:/nowhere"]
    asked = subprocess.run(command, capture_output=True, check=False)
    assert (asked.returncode, b"cannot be delivered" in asked.stderr) == (2, True)
    quiet = subprocess.run([*command, "--if-there"], capture_output=True, check=False)
    assert (quiet.returncode, quiet.stderr) == (0, b"")


@pytest.mark.parametrize("how", ["sdk.finish()", "os.kill(os.getpid(), 9)"])
def test_what_a_rank_drops_in_its_last_moment_is_told(agent: Agent, script: Script, how: str) -> None:
    process = script(f"""
        import os
        from rankscope import sdk
        sdk.init(project="p", name="n")
        sdk.log(loss=1.0)
        print("up", flush=True)
        input()
        for number in range(500):
            sdk.log(loss="no number")
        {how}
    """)
    agent.behaviour.heartbeat = 60.0
    wait_for(lambda: bool(agent.sessions) and len(agent.only.rows) == 1)
    process.communicate("\n", timeout=60)
    wait_for(lambda: agent.only.goodbye is not None)
    assert dict(agent.only.beats[-1].dropped) == {"not_a_number": 500}
