"""Where a rank is: its stacks, asked for by the agent and written whatever the rank hangs in."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from rankscope.sdk import _stacks, _traces
from rankscope.v1 import ingest_pb2
from tests.waiting import wait_for

from .server import Agent

Script = Callable[..., "subprocess.Popen[str]"]

HANGS = """
    import ctypes, os, sys, threading
    from rankscope import sdk
    sdk.init(project="p", name="n")
    def wait_for_ever():
        read, _ = os.pipe()
        print("there", flush=True)
        {how}
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    sdk.log(loss=1.0)
    wait_for_ever()
"""
SLEEPS = HANGS.format(how="os.read(read, 1)")
HOLDS_THE_GIL = HANGS.format(how="ctypes.PyDLL(None).read(read, ctypes.create_string_buffer(1), 1)")  # PyDLL keeps it


def started(script: Script, code: str, **environ: str) -> subprocess.Popen[str]:
    process = script(code, **environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def answer(agent: Agent) -> ingest_pb2.Stacks:
    wait_for(lambda: bool(agent.sessions))
    before = len(agent.only.stacks)
    agent.ask_for_stacks()
    wait_for(lambda: len(agent.only.stacks) > before)
    return agent.only.stacks[-1]


@pytest.mark.parametrize("code", [SLEEPS, HOLDS_THE_GIL], ids=["sleeps", "holds the GIL"])
def test_a_rank_that_hangs_says_where_in_all_its_threads(agent: Agent, script: Script, code: str) -> None:
    process = started(script, code)
    for _ in range(2):  # the second answer holds nothing of the first
        found = answer(agent)
        assert not found.refused
        assert found.text.startswith("main thread: sleeping")
        assert found.text.count("in wait_for_ever") == 1
        assert found.text.count("most recent call first") == 2
    assert process.poll() is None, "and goes on"


def test_a_rank_that_is_stopped_says_so_and_answers_when_it_goes_on(agent: Agent, script: Script) -> None:
    process = started(script, SLEEPS)
    process.send_signal(signal.SIGSTOP)
    found = answer(agent)
    assert "stopped" in found.refused
    process.send_signal(signal.SIGCONT)
    assert "in wait_for_ever" in answer(agent).text


def test_nobody_is_killed_who_does_not_catch_the_signal(agent: Agent, script: Script) -> None:
    """The rest of its life a rank may be another program: after exec, nothing of the handler is left."""
    process = script("""
        import faulthandler, sys
        from rankscope import sdk
        from rankscope.sdk import _traces
        sdk.init(project="p", name="n")
        faulthandler.unregister(_traces.SIGNAL)
        print("there", flush=True)
        sys.stdin.readline()
    """)
    assert process.stdout is not None
    process.stdout.readline()
    assert "does not listen" in answer(agent).refused
    assert process.poll() is None


def test_a_signal_that_another_library_has_stays_its_own(agent: Agent, script: Script) -> None:
    process = script("""
        import signal, sys
        from rankscope import sdk
        from rankscope.sdk import _traces
        signal.signal(_traces.SIGNAL, lambda *_: print("theirs", flush=True))
        sdk.init(project="p", name="n")
        print("there", flush=True)
        signal.pause()
    """)
    assert process.stdout is not None
    process.stdout.readline()
    assert "another library has it" in answer(agent).refused
    os.kill(process.pid, _traces.SIGNAL)
    assert process.stdout.readline() == "theirs\n"


def test_a_rank_that_is_gone_is_not_asked(short: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    with pytest.raises(_stacks.Unknown, match="does not listen"):
        asyncio.run(_stacks.ask(short, gone.pid))


def test_after_the_session_the_handler_is_gone(agent: Agent, script: Script) -> None:
    process = script("""
        import os
        from rankscope import sdk
        from rankscope.sdk import _stacks
        descriptors = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            sdk.init(project="p", name="n")
            assert _stacks.catches(os.getpid())
            if os.fork() == 0:
                os._exit(_stacks.catches(os.getpid()))
            assert os.wait()[1] == 0, "nor in a child"
            sdk.finish()
            assert not _stacks.catches(os.getpid())
        assert len(os.listdir("/proc/self/fd")) == descriptors
        print("fine")
    """)
    assert process.communicate(timeout=60)[0] == "fine\n"
