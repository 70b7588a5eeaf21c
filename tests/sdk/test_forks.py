"""Worker processes of every kind: they never hang, never log, and never break the rank that made them."""

from __future__ import annotations

import os
import signal

import pytest

from tests.waiting import wait_for

from .conftest import Script
from .server import Agent

pytestmark = pytest.mark.e2e

LOADER = """
import gc, os, sys, time, warnings
import torch
from torch.utils.data import DataLoader, Dataset
from rankscope import sdk

def links():
    files = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    return [link for link in (os.readlink(file) for file in files if os.path.lexists(file)) if "torch" not in link]

class Data(Dataset):
    def __len__(self): return 8
    def __getitem__(self, index):
        assert not [link for link in links() if os.environ["RANKSCOPE_SPOOL"] in link]  # nothing of the rank's is held
        sdk.log(worker=1.0); sdk.text("worker", "x")  # must go nowhere
        with sdk.phase("worker"): pass
        sdk.init(name="worker")
        sdk.log(worker=2.0)
        return torch.tensor(float(index))

def main():
    warnings.simplefilter("error")
    when, method, persistent, epochs = sys.argv[1:] or ORDER
    make = lambda: DataLoader(Data(), batch_size=4, num_workers=2, multiprocessing_context=method,
                              persistent_workers=persistent == "True")
    loader = None
    if when == "before":
        loader = make(); iter(loader)
    sdk.init(name="rank")
    loader = loader or make()
    for epoch in range(int(epochs)):
        for batch in sdk.batches(loader):
            sdk.log(loss=float(batch.sum()))
        if epoch == 0:
            gc.collect()
            before = len(links())
    gc.collect()
    assert len(links()) == before, links()
    del loader
    sdk.log(done=1.0)
    print("done", flush=True)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_dataloader_workers(agent: Agent, script: Script, when: str, method: str, persistent: bool) -> None:
    epochs = 10 if method == "fork" or persistent else 2
    check_epochs(agent, script, when, method, persistent, epochs)


def test_two_hundred_epochs_of_new_workers(agent: Agent, script: Script) -> None:
    check_epochs(agent, script, "after", "fork", False, 200)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_two_hundred_epochs(agent: Agent, script: Script, when: str, method: str, persistent: bool) -> None:
    check_epochs(agent, script, when, method, persistent, 200)


def check_epochs(agent: Agent, script: Script, when: str, method: str, persistent: bool, epochs: int) -> None:
    process = script(LOADER.replace("ORDER", repr([when, method, str(persistent), str(epochs)])))
    output, error = process.communicate(timeout=15 * epochs + 200)
    assert output == "done\n", error
    assert error.count("\n") == 1, error  # the line that names the run
    wait_for(lambda: bool(agent.sessions) and agent.only.goodbye is not None)
    assert [value for _, value in agent.only.scalar("loss")] == [6.0, 22.0] * epochs
    assert agent.only.scalar("worker") == []
    assert [event for event in agent.only.events if event.WhichOneof("body") == "text"] == []


FORK = """
import os, subprocess, sys, threading, time, multiprocessing
from rankscope import sdk
before = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
          and os.path.exists(f"/proc/self/fd/{fd}")]
sdk.init(name="rank")
stop = threading.Event()
def work():
    while not stop.is_set(): sdk.log(thread=1.0); time.sleep(0.0005)
thread = threading.Thread(target=work); thread.start()
"""


def test_a_fork_of_the_users_is_no_rank_and_holds_nothing_of_it(agent: Agent, script: Script) -> None:
    code = """
for n in range(50):
    pid = os.fork()
    if pid == 0:
        sdk.log(child=1.0); sdk.text("child", "x"); sdk.init(); sdk.log(child=1.0); sdk.finish()
        with sdk.phase("child"): pass
        held = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if int(fd) > 2
                and os.path.exists(f"/proc/self/fd/{fd}")]
        os._exit(1 if held != before else 0)
    assert os.waitpid(pid, 0)[1] == 0
    sdk.log(loss=float(n))
stop.set(); thread.join()
sdk.finish()
"""
    process = script(FORK + code)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert [value for _, value in agent.only.scalar("loss")] == [float(n) for n in range(50)]
    assert agent.only.scalar("child") == []


def test_a_session_that_ends_while_another_thread_forks_leaves_no_signal_blocked(agent: Agent, script: Script) -> None:
    process = script("""
        import os, signal
        from rankscope import sdk
        os.register_at_fork(before=sdk.finish)  # hooks run last to first: this one when the session's has run
        sdk.init(name="n")
        if pid := os.fork():
            os.waitpid(pid, 0)
        print(signal.pthread_sigmask(signal.SIG_BLOCK, ()), flush=True)
        os._exit(0)
    """)
    assert process.communicate(timeout=60)[0].split() == ["set()", "set()"]


def test_a_fork_waits_for_what_another_thread_is_writing(agent: Agent, script: Script) -> None:
    process = script("""
        import os, threading, time
        from rankscope import sdk
        begun, done = threading.Event(), threading.Event()

        class Slow:
            def __index__(self):
                begun.set()
                time.sleep(0.2)
                done.set()
                return 7

        sdk.init(name="n")
        sdk.log(loss=1.0)
        thread = threading.Thread(target=lambda: sdk.log(loss=2.0, step=Slow()))
        thread.start()
        begun.wait()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if done.is_set() else 1)
        print(os.waitpid(pid, 0)[1])
        thread.join()
    """)
    assert process.communicate(timeout=60)[0] == "0\n"
    assert agent.only.scalar("loss") == [(0, 1.0), (7, 2.0)]


def test_a_fork_in_the_middle_of_init_gives_the_child_nothing_of_it(agent: Agent, script: Script) -> None:
    """The fork waits: the child of a session that was half begun would keep its files, and take itself for a rank."""
    process = script("""
        import os, sys, threading
        from rankscope import sdk

        begun, forked = threading.Event(), threading.Event()

        def look(event, arguments):
            if event == "open" and str(arguments[0]).endswith("hello.tmp") and not begun.is_set():
                begun.set()
                forked.wait(0.2)

        sdk.init(name="first"); sdk.finish()  # the hooks are there
        sys.addaudithook(look)
        thread = threading.Thread(target=sdk.init, kwargs={"name": "second"})
        thread.start()
        begun.wait()
        pid = os.fork()
        if pid == 0:
            files = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
            held = [os.readlink(file) for file in files if os.path.lexists(file)]
            sdk.init(name="child")
            os._exit(any(os.environ["RANKSCOPE_SPOOL"] in link for link in held))
        forked.set()
        print(os.waitpid(pid, 0)[1])
        thread.join()
    """)
    assert process.communicate(timeout=60)[0] == "0\n"
    assert sorted(kept.hello.name for kept in agent.sessions.values()) == ["first", "second"]


def test_a_forked_child_may_warn_while_another_thread_of_the_parent_did(agent: Agent, script: Script) -> None:
    process = script("""
        import os, signal, threading
        from rankscope import sdk
        from rankscope.sdk import _guard

        sdk.init(name="n")
        noting, done = threading.Event(), threading.Event()

        def warn():
            with _guard._lock:
                noting.set()
                done.wait()

        thread = threading.Thread(target=warn)
        thread.start()
        noting.wait()
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)  # ends a child that hangs
            sdk.init(no_such_argument=1)
            os._exit(0)
        print(os.waitpid(pid, 0)[1])
        done.set()
    """)
    assert process.communicate(timeout=60)[0] == "0\n"


def test_a_forked_child_that_ends_does_not_end_the_run(agent: Agent, script: Script) -> None:
    code = """
if os.fork() == 0:
    sys.exit(3)
os.wait()
def child(): sys.exit(4)
p = multiprocessing.get_context("fork").Process(target=child); p.start(); p.join()
p = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,)); p.start(); p.terminate(); p.join()
assert subprocess.run([sys.executable, "-c", "import rankscope.sdk"]).returncode == 0
sdk.log(loss=1.0)
stop.set(); thread.join()
"""
    process = script(FORK + code)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    wait_for(lambda: agent.only.goodbye is not None)
    assert agent.only.scalar("loss")[-1][1] == 1.0
    goodbye = agent.only.goodbye
    assert goodbye is not None
    assert (goodbye.reason, goodbye.exit_code, goodbye.traceback) == (goodbye.FINISHED, 0, "")


def test_the_death_of_a_rank_is_noticed_while_its_workers_live_on(agent: Agent, script: Script) -> None:
    code = """
worker = os.fork()
if worker == 0:
    time.sleep(90)
    os._exit(0)
print(worker, flush=True)
time.sleep(0.5)
os.kill(os.getpid(), 9)
"""
    process = script(FORK + code)
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    try:
        process.wait(60)
        wait_for(lambda: bool(agent.sessions) and agent.only.goodbye is not None)
    finally:
        os.kill(worker, signal.SIGKILL)  # raises where the worker had not outlived the rank
    assert agent.only.goodbye is not None
    assert agent.only.goodbye.reason == agent.only.goodbye.VANISHED


def test_a_script_started_by_a_training_is_a_run_of_its_own(agent: Agent, script: Script) -> None:
    code = """
stop.set(); thread.join()
subprocess.run([sys.executable, "-c", "from rankscope import sdk; sdk.init(name='other'); sdk.log(a=1.0)"], check=True)
"""
    process = script(FORK + code)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    wait_for(lambda: {kept.hello.name for kept in agent.sessions.values()} == {"rank", "other"})


def test_ranks_that_a_script_spawns_are_ranks(agent: Agent, script: Script) -> None:
    code = """
import os, multiprocessing
from rankscope import sdk
def rank(number):
    os.environ.update(RANK=str(number), WORLD_SIZE="2", LOCAL_RANK=str(number))
    sdk.init(name="spawned"); sdk.log(a=float(number)); sdk.finish()
if __name__ == "__main__":
    sdk.init(name="before"); sdk.finish()  # a session that is over owns no child
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=rank, args=(n,)) for n in range(2)]
    [p.start() for p in ranks]; [p.join() for p in ranks]
"""
    script(code).communicate(timeout=60)
    wait_for(lambda: len(agent.sessions) == 3)
    agent.sessions = {number: kept for number, kept in agent.sessions.items() if kept.hello.name == "spawned"}
    assert {kept.hello.rank for kept in agent.sessions.values()} == {0, 1}
    assert len({kept.hello.run_id for kept in agent.sessions.values()}) == 1


CHILDREN = """
import multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from rankscope import sdk

def child(*_):
    sdk.init(name="child"); sdk.log(child=1.0); sdk.finish()

def parent(method):
    process = multiprocessing.get_context(method).Process(target=child); process.start(); process.join()

def quiet(*_): pass

if __name__ == "__main__":
    method = "METHOD"
    context = multiprocessing.get_context(method)
    early = context.Process(target=quiet); early.start(); early.join()  # a fork server is there before the session
    sdk.init(name="rank")
    process = context.Process(target=child); process.start(); process.join()
    for inner in ("fork", "spawn", "forkserver"):
        process = context.Process(target=parent, args=(inner,)); process.start(); process.join()
    with context.Pool(2) as pool:
        pool.map(child, range(4))
    with ProcessPoolExecutor(2, mp_context=context) as pool:  # its processes come from a thread
        list(pool.map(child, range(4)))
    sdk.log(loss=1.0)
    sdk.finish()
    process = context.Process(target=child); process.start(); process.join()
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_whom_a_rank_starts_by_multiprocessing_is_no_rank_as_long_as_the_session_lasts(
    agent: Agent, script: Script, method: str
) -> None:
    """Also its children, also from a fork server whose environment is older than the session."""
    process = script(CHILDREN.replace("METHOD", method))
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    wait_for(lambda: all(kept.goodbye for kept in agent.sessions.values()))
    assert sorted(kept.hello.name for kept in agent.sessions.values()) == ["child", "rank"], error
