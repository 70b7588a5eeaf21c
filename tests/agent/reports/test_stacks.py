"""What faulthandler wrote, read back, and the ranks at one place put together."""

from __future__ import annotations

import subprocess
import sys

from rankscope.agent.reports.stacks import Frame, parse, places, shown

PROGRAM = """
import faulthandler, sys, threading
begun = threading.Event()
def waits():
    begun.set()
    threading.Event().wait()
def computes():
    faulthandler.dump_traceback(all_threads=True)
threading.Thread(target=waits, daemon=True).start()
begun.wait()
computes()
"""


def text(calls: list[str], kernel: str = "main thread: running") -> str:
    frames = "".join(f'  File "/home/kim/train.py", line {i}, in {call}\n' for i, call in enumerate(calls))
    return f"{kernel}\nCurrent thread 0x00007f (most recent call first):\n{frames}".replace(", in", " in")


def test_it_reads_what_this_python_writes() -> None:
    written = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stderr
    stack = parse(f"main thread: sleeping in pipe_read; others: 1 sleeping\n{written}")
    assert stack.kernel == "main thread: sleeping in pipe_read; others: 1 sleeping"
    assert [frame.function for frame in stack.main] == ["computes", "<module>"]
    (other,) = stack.others
    assert "waits" in [frame.function for frame in other.frames]
    assert all(frame.line > 0 for frame in stack.main)


def test_names_of_threads_are_read_where_python_tells_them() -> None:
    stack = parse(
        'k\nThread 0x1 [pin_memory] (most recent call first):\n  File "a.py", line 3 in f\n' + text(["g"])[2:]
    )
    assert [thread.name for thread in stack.others] == ["pin_memory"]


def test_the_fewest_ranks_come_first() -> None:
    waiting, behind = parse(text(["all_reduce", "step"])), parse(text(["load", "step"]))
    found = places({0: waiting, 1: waiting, 2: behind, 3: waiting})
    assert [place.ranks for place in found] == [(2,), (0, 1, 3)]
    assert found[0].main[0].function == "load"


def test_text_that_is_no_stack_gives_none_and_hurts_nobody() -> None:
    for nonsense in (
        "",
        "x",
        "\n\n\n",
        'k\n  File "a", line 1 in f',
        "k\nThread 0x1 (most recent call first):\n  <no>",
    ):
        assert parse(nonsense).main == ()


def test_what_the_user_wrote_is_told_from_what_was_installed() -> None:
    files = {
        "/home/kim/train.py": False,
        "train.py": False,
        "/usr/lib/python3.11/threading.py": True,
        "/opt/venv/lib/python3.12/site-packages/torch/nn/modules/module.py": True,
        "<frozen runpy>": True,
    }
    assert {file: Frame(file, 1, "f").library for file in files} == files
    assert Frame("/opt/venv/lib/python3.12/site-packages/torch/nn/m.py", 1, "f").short == "torch/nn/m.py"


def test_a_long_stack_keeps_the_newest_calls_and_the_users_own() -> None:
    library = [Frame("/usr/lib/python3.11/x.py", line, "f") for line in range(20)]
    own = Frame("train.py", 7, "step")
    kept, left_out = shown([*library, own, *library], 5)
    assert (kept[-1], len(kept), left_out) == (own, 5, 36)
    assert shown(library, 20) == (library, 0)
