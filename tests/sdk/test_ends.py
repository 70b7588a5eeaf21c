"""However a rank ends, the run knows how, and the process dies as it would have without the SDK."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from rankscope.sdk import _spool
from rankscope.sdk._reader import survey
from rankscope.v1 import ingest_pb2
from tests.waiting import wait_for

from .conftest import Script
from .server import Agent

pytestmark = pytest.mark.e2e

BEGIN = """
import atexit, os, signal, sys, threading, time
from rankscope import sdk
sdk.init(name="n")
sdk.log(loss=1.0, step=41)
"""


def goodbye(agent: Agent) -> ingest_pb2.Goodbye:
    wait_for(lambda: bool(agent.sessions) and agent.only.goodbye is not None)
    found = agent.only.goodbye
    assert found is not None
    assert len([event for event in agent.only.events if event.WhichOneof("body") == "goodbye"]) == 1
    assert agent.only.scalar("loss") == [(41, 1.0)]
    return found


def test_the_end_of_the_script(agent: Agent, script: Script) -> None:
    process = script(BEGIN)
    assert process.communicate(timeout=60)[1].count("\n") == 1  # the line that names the run
    assert process.returncode == 0
    assert (goodbye(agent).reason, goodbye(agent).exit_code) == (ingest_pb2.Goodbye.FINISHED, 0)


def test_an_uncaught_exception_is_reported_and_printed_as_ever(agent: Agent, script: Script) -> None:
    process = script(BEGIN + "def step():\n    raise ValueError('bad batch \\ud800')\nstep()")
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert "\nValueError: bad batch \\ud800\n" in error
    bye = goodbye(agent)
    assert (bye.reason, bye.exit_code, bye.exception) == (ingest_pb2.Goodbye.EXCEPTION, 1, "ValueError: bad batch ?")
    assert "in step" in bye.traceback


def test_a_hook_of_the_users_still_runs(agent: Agent, script: Script) -> None:
    code = "import sys\nsys.excepthook = lambda *a: print('mine', a[0].__name__)\n" + BEGIN + "1 / 0"
    process = script(code)
    assert process.communicate(timeout=60)[0] == "mine ZeroDivisionError\n"
    assert goodbye(agent).reason == ingest_pb2.Goodbye.EXCEPTION


@pytest.mark.parametrize(("status", "code"), [("0", 0), ("3", 3), ("None", 0), ("'message'", 1)])
def test_sys_exit(agent: Agent, script: Script, status: str, code: int) -> None:
    process = script(BEGIN + f"sys.exit({status})")
    process.communicate(timeout=60)
    assert process.returncode == code
    bye = goodbye(agent)
    assert (bye.reason, bye.exit_code) == (ingest_pb2.Goodbye.FINISHED, code)


@pytest.mark.parametrize(("status", "code"), [("-1", 255), ("256", 0), ("True", 1)])
def test_an_exit_status_is_the_one_that_the_launcher_sees(agent: Agent, script: Script, status: str, code: int) -> None:
    process = script(BEGIN + f"sys.exit({status})")
    process.communicate(timeout=60)
    assert process.returncode == code
    assert goodbye(agent).exit_code == code


@pytest.mark.parametrize(
    "somewhere",
    [
        "thread = threading.Thread(target=sys.exit, args=(3,)); thread.start(); thread.join()",
        "try: sys.exit(3)\nexcept SystemExit: pass\nsdk.finish()",
    ],
    ids=["in another thread", "caught"],
)
def test_a_sys_exit_that_ends_nothing(agent: Agent, script: Script, somewhere: str) -> None:
    process = script(BEGIN + somewhere)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (goodbye(agent).reason, goodbye(agent).exit_code) == (ingest_pb2.Goodbye.FINISHED, 0)


@pytest.mark.parametrize(("end", "code"), [("sys.exit(3)", 3), ("1 / 0", 1)])
def test_finish_in_an_exit_handler_of_the_users_knows_how_it_ended(
    agent: Agent, script: Script, end: str, code: int
) -> None:
    process = script(BEGIN + f"atexit.register(sdk.finish)\n{end}")
    process.communicate(timeout=60)
    assert process.returncode == goodbye(agent).exit_code == code


def test_an_exception_at_a_prompt_ends_nothing(agent: Agent, script: Script) -> None:
    process = script("", flags=("-i",))
    process.communicate(BEGIN + "1 / 0\nsdk.finish()\n", timeout=60)
    assert (goodbye(agent).reason, goodbye(agent).exit_code) == (ingest_pb2.Goodbye.FINISHED, 0)


@pytest.mark.parametrize("what", ["time.sleep(600)", "threading.Event().wait()", "while True: pass"])
def test_sigterm_kills_at_once_and_is_noted(agent: Agent, script: Script, what: str) -> None:
    process = script(BEGIN + "print('up', flush=True)\n" + what)
    assert process.stdout is not None
    process.stdout.readline()
    wait_for(lambda: bool(agent.sessions) and bool(agent.only.rows))
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(60)
    assert time.monotonic() - begin < 1.0
    assert process.returncode == -signal.SIGTERM
    bye = goodbye(agent)
    assert (bye.reason, bye.signal) == (ingest_pb2.Goodbye.SIGNAL, signal.SIGTERM)
    assert "most recent call first" in bye.traceback


def test_a_sigterm_that_is_ignored_is_no_end(agent: Agent, script: Script) -> None:
    process = script("""
        import os, signal
        from rankscope import sdk
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sdk.init(name="n")
        os.kill(os.getpid(), signal.SIGTERM)
        sdk.log(loss=1.0)
        print(signal.getsignal(signal.SIGTERM) is signal.SIG_IGN)
    """)
    assert process.communicate(timeout=60)[0] == "True\n"
    assert agent.only.goodbye is not None
    assert agent.only.goodbye.reason == agent.only.goodbye.FINISHED


def test_where_no_process_may_be_started_the_points_wait_on_disk(agent: Agent, script: Script, spool: Path) -> None:
    """As in another interpreter of the process, or while the interpreter ends: subprocess raises RuntimeError there."""
    process = script("""
        import sys
        from rankscope import sdk

        def forbid(event, arguments):
            if event == "subprocess.Popen":
                raise RuntimeError("no process may be started")

        sys.addaudithook(forbid)
        sdk.init(name="n")
        sdk.log(loss=1.0)
    """)
    _, errors = process.communicate(timeout=60)
    assert re.fullmatch(r"no sender could be started .*: points wait in .*\n", errors)
    (folder,) = _spool.journals(spool)
    last, said, _ = survey(folder)
    assert (last, said) == (2, True)


def test_sigterm_ends_a_rank_that_hangs_outside_python(agent: Agent, script: Script) -> None:
    """A Python handler would never run here: a rank in a stuck collective must not outlive its SIGTERM."""
    stuck = "import ctypes\nprint('up', flush=True)\nctypes.PyDLL(None).sleep(600)"  # PyDLL holds the interpreter
    process = script(BEGIN + "time.sleep(0.5)\n" + stuck)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    assert goodbye(agent).reason == ingest_pb2.Goodbye.SIGNAL


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_sigterm_handler_of_the_users_keeps_the_last_word(agent: Agent, script: Script, when: str) -> None:
    handler = """
import signal, sys, time
def leave(number, frame):
    print("checkpoint saved", flush=True)
    sys.exit(7)
signal.signal(signal.SIGTERM, leave)
"""
    assert_kept = "\nassert signal.getsignal(signal.SIGTERM) is leave\nprint('up', flush=True)\ntime.sleep(600)"
    process = script((handler + BEGIN if when == "before" else BEGIN + handler) + assert_kept)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=60)[0] == "checkpoint saved\n"
    assert process.returncode == 7
    assert goodbye(agent).exit_code == 7


@pytest.mark.parametrize("where", ["after finish()", "in a forked child"])
def test_a_sigterm_handler_that_came_after_init_stays_in_place(agent: Agent, script: Script, where: str) -> None:
    process = script(
        BEGIN
        + f"""
import os, signal, sys, time
def leave(number, frame):
    print("checkpoint saved", flush=True)
    os._exit(7)
signal.signal(signal.SIGTERM, leave)
if {where == "after finish()"}:
    sdk.finish()
else:
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(600)
"""
    )
    assert process.communicate(timeout=60)[0] == "checkpoint saved\n"
    assert process.returncode == 7


def test_finish_in_a_finally_clause_knows_of_the_exception(agent: Agent, script: Script) -> None:
    process = script(BEGIN + "try:\n    1 / 0\nfinally:\n    sdk.finish()")
    process.communicate(timeout=60)
    assert goodbye(agent).exception.startswith("ZeroDivisionError")
    agent.sessions.clear()
    process = script(BEGIN + "try:\n    raise SystemExit(6)\nfinally:\n    sdk.finish()")
    process.communicate(timeout=60)
    assert (goodbye(agent).reason, goodbye(agent).exit_code) == (ingest_pb2.Goodbye.FINISHED, 6)


@pytest.mark.parametrize(
    ("end", "reason"), [("pass", ingest_pb2.Goodbye.FINISHED), ("1 / 0", ingest_pb2.Goodbye.EXCEPTION)]
)
def test_ranks_that_multiprocessing_starts_say_goodbye_too(agent: Agent, script: Script, end: str, reason: int) -> None:
    """There neither atexit nor sys.excepthook run."""
    code = f"""
import multiprocessing
from rankscope import sdk
def rank():
    sdk.init(); sdk.log(loss=1.0, step=41)
    {end}
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=rank)
    process.start(); process.join()
"""
    script(code).communicate(timeout=60)
    assert int(goodbye(agent).reason) == reason


@pytest.mark.parametrize("delay", [0.1, 0.1003, 0.1006, 0.1009, 0.1012])
def test_a_signal_handler_may_log_and_finish_in_the_middle_of_a_log(agent: Agent, script: Script, delay: float) -> None:
    code = f"""
def leave(number, frame):
    sdk.log(last=1.0)
    sdk.finish(9)
    os._exit(9)
signal.signal(signal.SIGALRM, leave)
signal.setitimer(signal.ITIMER_REAL, {delay})
n = 0.0
while True:
    n += 1
    sdk.log(n=n)
"""
    _, error = script(BEGIN + code).communicate(timeout=60)
    assert error.count("\n") == 1, error
    assert (goodbye(agent).reason, goodbye(agent).exit_code) == (ingest_pb2.Goodbye.FINISHED, 9)
    numbers = [value for _, value in agent.only.scalar("n")]
    assert numbers == [float(n) for n in range(1, len(numbers) + 1)]
    assert len(agent.only.scalar("last")) == 1
    assert agent.only.gaps == 0


@pytest.mark.parametrize(
    "end",
    [
        "raise error",
        "class Mine(torch.cuda.OutOfMemoryError): pass\nraise Mine('CUDA out of memory')",
        "try: raise error\nexcept RuntimeError as cause: raise ValueError('step 7') from cause",
        "try: raise error\nexcept RuntimeError: {}['checkpoint']",
    ],
    ids=["itself", "a kind of it", "as a cause", "on the way"],
)
def test_an_out_of_memory_error_takes_the_allocators_figures_along(agent: Agent, script: Script, end: str) -> None:
    """torch's own error, and its own way to the figures; only what the driver would say is played."""
    code = """
import torch
figures = {"allocated_bytes": {"all": {"current": 70 << 30}}, "reserved_bytes": {"all": {"peak": 78 << 30}}, "other": 1}
torch.cuda.is_initialized = lambda: True
torch.cuda.memory_stats_as_nested_dict = lambda device=None: figures
torch.cuda.memory.memory_stats_as_nested_dict = lambda device=None: figures
torch.cuda.mem_get_info = lambda device=None: (1, 80 << 30)
error = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
"""
    script(BEGIN + code + end).communicate(timeout=60)
    assert dict(goodbye(agent).memory) == {
        "allocated_bytes.all.current": 70 << 30,
        "reserved_bytes.all.peak": 78 << 30,
        "device_free_bytes": 1,
        "device_total_bytes": 80 << 30,
    }


def test_interrupt_from_the_keyboard(agent: Agent, script: Script) -> None:
    process = script(BEGIN + "print('up', flush=True)\ntime.sleep(600)")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    bye = goodbye(agent)
    assert (bye.reason, bye.signal) == (ingest_pb2.Goodbye.SIGNAL, signal.SIGINT)


def test_os_exit_and_a_crash_are_a_rank_that_vanished(agent: Agent, script: Script) -> None:
    process = script(BEGIN + "os._exit(5)")
    process.communicate(timeout=60)
    assert goodbye(agent).reason == ingest_pb2.Goodbye.VANISHED
    agent.sessions.clear()
    process = script(BEGIN + "os.kill(os.getpid(), signal.SIGSEGV)")
    process.communicate(timeout=60)
    assert goodbye(agent).reason == ingest_pb2.Goodbye.VANISHED


def test_finish_twice_log_after_finish_init_twice(agent: Agent, script: Script) -> None:
    code = """
sdk.finish(4); sdk.finish(); sdk.log(loss=2.0); sdk.text("a", "b")
with sdk.phase("x"): pass
sdk.init(name="second"); sdk.log(other=1.0)
sdk.init(name="third"); sdk.log(third=1.0)
"""
    process = script(BEGIN + code)
    assert "Traceback" not in process.communicate(timeout=60)[1]
    wait_for(lambda: len(agent.sessions) == 3 and all(kept.goodbye for kept in agent.sessions.values()))
    by_name = {kept.hello.name: kept for kept in agent.sessions.values()}
    assert by_name["n"].scalar("loss") == [(41, 1.0)]
    assert by_name["n"].goodbye is not None
    assert by_name["n"].goodbye.exit_code == 4
    assert by_name["second"].scalar("other") == [(0, 1.0)]
    assert by_name["third"].scalar("third") == [(0, 1.0)]
    assert len({kept.hello.run_id for kept in agent.sessions.values()}) == 3


def test_init_from_many_threads_leaves_one_session_and_nothing_of_the_others(agent: Agent, script: Script) -> None:
    process = script("""
        import os, subprocess, threading
        from rankscope import sdk
        threads = [threading.Thread(target=sdk.init, kwargs={"name": str(number)}) for number in range(8)]
        for thread in threads: thread.start()
        for thread in threads: thread.join()
        sdk.log(loss=1.0)
        sdk.finish()
        files = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
        held = [os.readlink(file) for file in files if os.path.lexists(file)]
        print([link for link in held if os.environ["RANKSCOPE_SPOOL"] in link])
    """)
    assert process.communicate(timeout=60)[0] == "[]\n"
    wait_for(lambda: len(agent.sessions) == 8 and all(kept.goodbye for kept in agent.sessions.values()))
    ends = [kept.goodbye.reason for kept in agent.sessions.values() if kept.goodbye is not None]
    assert ends == [ingest_pb2.Goodbye.FINISHED] * 8
    assert sum(len(kept.scalar("loss")) for kept in agent.sessions.values()) == 1


def test_shutdown_with_threads_that_still_log(agent: Agent, script: Script) -> None:
    code = """
def work():
    while True:
        sdk.log(other=1.0)
for _ in range(4): threading.Thread(target=work, daemon=True).start()
time.sleep(0.3)
"""
    process = script(BEGIN + code, flags=("-X", "dev"))
    output = process.communicate(timeout=60)[1]
    assert process.returncode == 0, output
    assert "Warning" not in output
    assert goodbye(agent).reason == ingest_pb2.Goodbye.FINISHED


def test_asyncio(agent: Agent, script: Script) -> None:
    code = """
import asyncio
async def job(name):
    for number in range(100):
        with sdk.phase(name):
            await asyncio.sleep(0)
        sdk.log({name: float(number)})
async def main(): await asyncio.gather(*(job(f"j{n}") for n in range(5)))
asyncio.run(main())
"""
    process = script(BEGIN + code)
    assert process.communicate(timeout=60)[1].count("\n") == 1
    assert goodbye(agent).reason == ingest_pb2.Goodbye.FINISHED
    assert all([v for _, v in agent.only.scalar(f"j{n}")] == [float(k) for k in range(100)] for n in range(5))


def test_no_process_descriptor_or_warning_is_left_behind(agent: Agent, script: Script) -> None:
    code = """
sdk.finish()
before = set(os.listdir("/proc/self/fd"))
for n in range(5):
    sdk.init(); sdk.log(a=1.0); sdk.finish()
assert set(os.listdir("/proc/self/fd")) == before
import subprocess, gc
gc.collect()
children = subprocess.run(["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True).stdout
print(children.split())
"""
    process = script(BEGIN + code, flags=("-X", "dev", "-W", "error"))
    output, error = process.communicate(timeout=60)
    assert "Warning" not in error
    assert output.strip() == "['ps']", error
