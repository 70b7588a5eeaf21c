"""A guest never breaks the house: no call raises, whatever it is given, and what failed is said once and counted."""

from __future__ import annotations

import decimal
import fractions
import inspect
import logging
import numbers
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rankscope import sdk
from rankscope.sdk import _guard
from rankscope.sdk.testing import capture


class Hostile:
    """An object all of whose special methods fail."""

    def _fail(self, *_args: object) -> Any:
        raise RuntimeError("hostile")

    __float__ = __int__ = __index__ = __str__ = __repr__ = __len__ = __iter__ = __hash__ = __eq__ = __bool__ = _fail
    __getitem__ = __format__ = keys = item = numel = detach = _fail

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name) if name.startswith("_") else RuntimeError(name)


class Endless:
    """An object that never comes to an end."""

    def _again(self, *_args: object) -> Any:
        return self._again()

    __float__ = __int__ = __index__ = __str__ = __iter__ = __hash__ = __len__ = item = _again


class Disguised:
    """An object that does not even say what it is."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("disguised")


class Odd(str):
    """A string that is none where it matters."""

    __slots__ = ()

    def _odd(self, *_args: object) -> Any:
        return 7

    __str__ = __len__ = encode = __radd__ = __getitem__ = strip = _odd  # type: ignore[assignment]

    def __hash__(self) -> int:
        return hash("odd")


class Unlisted(dict[Any, Any]):
    """A dict that cannot be looked through."""

    def _fail(self, *_args: object) -> Any:
        raise RuntimeError("unlisted")

    items = keys = values = __iter__ = _fail


@numbers.Real.register
class Own:
    """A number of somebody's own, which fails to be one."""

    def __float__(self) -> float:
        raise ArithmeticError("own")


def itself() -> dict[str, object]:
    found: dict[str, object] = {"loss": 1.0}
    found.update(a=found, b=[found])
    return found


ODDITIES: list[Callable[[], object]] = [
    Endless,
    lambda: Odd("x" * 300),
    lambda: {Odd("name"): 1.0},
    lambda: Unlisted(a=1.0),
    Own,
    itself,
    lambda: 10**5000,
    lambda: "\ud800" * 300,
    lambda: (number for number in range(3)),
    lambda: decimal.Decimal("sNaN"),
    lambda: fractions.Fraction(10**400, 3),
    lambda: np.array(decimal.Decimal(1), dtype=object),
    lambda: np.array(10**400, dtype=object),
    lambda: np.array([None, "x"], dtype=object),
    lambda: np.complex64(1j),
    lambda: np.datetime64("NaT"),
    lambda: np.ma.masked,
    lambda: np.zeros((0, 3)),
    lambda: torch.empty((), device="meta"),
    lambda: torch.tensor([1.0]).to_sparse(),
    lambda: torch.quantize_per_tensor(torch.tensor(1.0), 0.1, 0, torch.qint8),
    lambda: torch.tensor(1j, requires_grad=True),
    lambda: torch.zeros(2, 0),
    lambda: torch.nn.Linear(1, 1),
]

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.binary()
    | st.builds(Hostile)
    | st.just(np.zeros(3))
    | st.just(np.float32("nan"))
    | st.just(object)
    | st.just(...)
    | st.sampled_from(ODDITIES).map(lambda make: make()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=6,
)
CALLS = [
    "log",
    "phase",
    "batches",
    "text",
    "alert",
    "expect",
    "image",
    "histogram",
    "table",
    "artifact",
    "graph",
    "watch",
]


def call(name: str, args: list[object], kwargs: dict[str, object]) -> None:
    function: Any = getattr(sdk, name)
    result = function(*args, **kwargs)
    if name == "phase":
        with result:
            pass


@pytest.mark.parametrize("name", [name for name in CALLS if hasattr(sdk, name)])
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ANYTHING, max_size=4), st.dictionaries(st.text(max_size=5) | st.just("step"), ANYTHING, max_size=4))
def test_no_call_raises_and_the_session_goes_on(name: str, args: list[object], kwargs: dict[str, object]) -> None:
    with capture() as sent:
        call(name, args, kwargs)
        sdk.log(after=1.0)
    assert [value for _, value in sent.scalar("after")] == [1.0]
    call(name, args, kwargs)  # nor without a session


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(ANYTHING, max_size=4), st.dictionaries(st.text(max_size=8), ANYTHING, max_size=4))
def test_init_and_finish_take_anything(args: list[object], kwargs: dict[str, object]) -> None:
    with capture() as sent:
        init: Any = sdk.init
        init(*args, **kwargs)
        sdk.log(after=1.0)
        finish: Any = sdk.finish
        finish(*args[:1])
    assert sent.scalar("after") == [(0, 1.0)]


@pytest.mark.e2e
@pytest.mark.parametrize("what", ["project", "name", "config", "id", "tags", "notes", "agent", "mode"])
@pytest.mark.parametrize(
    "value", [Hostile(), [Hostile()], "\ud800", "x" * 2_000_000], ids=["hostile", "list", "surrogate", "long"]
)
def test_a_real_init_with_anything_leaves_a_session_or_none_but_never_raises(
    what: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKSCOPE_SPOOL", str(tmp_path))
    monkeypatch.setenv("RANKSCOPE_AGENT", f"unix:{tmp_path}/none")
    init: Any = sdk.init
    init(**{what: value})
    sdk.log(loss=1.0)
    sdk.finish()


def test_what_is_no_exception_is_somebodys_wish_to_end_and_leaves_the_session_as_it_was() -> None:
    """Ctrl-C, a time limit, sys.exit() in a signal handler: these pass, wherever they come, and nothing is held."""

    class Limit(BaseException):
        pass

    class Interrupted:
        def _end(self, *_args: object) -> Any:
            raise Limit

        __float__ = __int__ = __index__ = __str__ = __iter__ = __len__ = _end

    given: Any = Interrupted()
    calls: list[Callable[[], object]] = [
        lambda: sdk.log(loss=given),
        lambda: sdk.log({given: 1.0}),
        lambda: sdk.log(loss=1.0, step=given),
        lambda: sdk.text("tag", given),
        lambda: sdk.text("tag", "text", step=given),
        lambda: sdk.expect(given),
        lambda: sdk.table("tag", given),
    ]
    with capture() as sent:
        for call in calls:
            with pytest.raises(Limit):
                call()
        other = threading.Thread(target=sdk.log, kwargs={"after": 1.0}, daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive()
        assert [value for _, value in sent.scalar("after")] == [1.0]


@pytest.mark.parametrize("make", [Disguised, *ODDITIES])  # hypothesis itself needs to know what something is
@pytest.mark.filterwarnings("ignore")  # of numpy and torch, about what is made here
@pytest.mark.parametrize("name", ["log", "phase", "batches", "text", "image", "histogram", "table", "expect", "alert"])
def test_each_oddity_in_each_place(name: str, make: Callable[[], object]) -> None:
    with capture() as sent:
        for args, kwargs in (
            ((make(),), {}),
            (("tag", make()), {}),
            (("tag", "value"), {"step": make()}),
            ((), {"loss": make(), "step": make()}),
            (({"loss": make(), "other": 1.0},), {}),
        ):
            call(name, list(args), kwargs)
        sdk.log(after=1.0)
    assert [value for _, value in sent.scalar("after")] == [1.0]


def test_deep_in_calls_nothing_raises_that_would_not_have_without_the_sdk() -> None:
    """Where a function still can call another one, but so deep that there is no room for a warning."""

    def leaf() -> None:
        return None

    def function() -> None:
        leaf()

    def small() -> None:
        function()

    def at(depth: int, call: Callable[[], object]) -> bool:
        return at(depth - 1, call) if depth else fits(call)

    def fits(call: Callable[[], object]) -> bool:
        try:
            call()
        except RecursionError:
            return False
        return True

    calls: list[Callable[[], object]] = [
        lambda: sdk.log(loss=1.0),
        lambda: sdk.log(loss="no number"),
        lambda: sdk.phase("forward"),
        lambda: sdk.text("tag", "value"),
    ]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(400)
    try:
        with capture() as sent:
            for depth in range(200, 390):
                try:
                    room = at(depth, small)
                except RecursionError:
                    break
                for number, call in enumerate(calls):
                    done = at(depth, call)
                    assert done or not room, (depth, number)
            sdk.log(after=1.0)
            assert len(sent.scalar("after")) == 1
    finally:
        sys.setrecursionlimit(limit)


def test_what_failed_is_said_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    expect: Any = sdk.expect
    with capture() as sent:
        for _ in range(4):
            expect("long")
    assert [record.message for record in caplog.records] == [
        "sdk.expect: ValueError: could not convert string to float: 'long' (__init__.py:"
        + caplog.records[0].message.rpartition("__init__.py:")[2]
    ]
    assert sent.warnings == {"expect:ValueError": 4}


def test_a_broken_log_handler_of_the_users_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object) -> None:
        raise RuntimeError("handler")

    monkeypatch.setattr(_guard.log, "warning", broken)
    with capture() as sent:
        sdk.log(loss="x")
    assert sent.dropped == {"not_a_number": 1}


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_disabled_leaves_no_trace(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSCOPE_SPOOL", str(tmp_path / "spool"))
    if how == "environment":
        monkeypatch.setenv("RANKSCOPE_MODE", "disabled")
        sdk.init()
    else:
        sdk.init(mode="disabled")
    sdk.log(loss=1.0)
    sdk.finish()
    assert not (tmp_path / "spool").exists()


def test_importing_the_sdk_imports_nothing_heavy() -> None:
    code = """
import sys
import rankscope.sdk
heavy = {"torch", "numpy", "grpc", "google.protobuf", "rankscope.agent", "asyncio", "logging.config"} & set(sys.modules)
print(sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_signatures_are_those_of_the_contract() -> None:
    """What users type; a change here is a line in CHANGELOG.md."""
    path = Path(inspect.getfile(sdk))
    source = path.read_text()
    assert (
        "def log(metrics: Mapping[str, object] | None = None, /, *, step: int | None = None, **scalars: object)"
        in source
    )
    parameters = {
        "init": "(project, name, config, *, id, tags, notes, agent, mode)",
        "phase": "(name)",
        "batches": "(iterable)",
        "text": "(tag, value, *, step)",
        "alert": "(title, text, *, severity)",
        "expect": "(seconds)",
        "watch": "(model, optimizer, *, every, histograms, activations)",
        "finish": "(exit_code)",
    }
    for name, expected in parameters.items():
        found = inspect.signature(getattr(sdk, name)).parameters.values()
        bare = [
            parameter.replace(annotation=inspect.Parameter.empty, default=inspect.Parameter.empty)
            for parameter in found
        ]
        assert str(inspect.Signature(bare)) == expected, name
    defaults = inspect.signature(sdk.watch).parameters
    assert (defaults["every"].default, defaults["histograms"].default, defaults["activations"].default) == (
        100,
        True,
        True,
    )
    assert typing.get_type_hints(sdk.expect) == {"seconds": float, "return": type(None)}


def test_a_log_handler_that_logs_through_the_sdk_cannot_stand_in_the_way_of_a_warning() -> None:
    """One thread holds the handler's lock and wants the session's; the other one, with the session's, has to warn."""
    inside = threading.Event()

    class Forward(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.name == "training":
                inside.set()
                time.sleep(0.2)  # until the other one is under way: it must not matter what it does meanwhile
            sdk.text("log", record.getMessage())

    handler = Forward()
    logging.getLogger().addHandler(handler)
    try:
        with capture() as sent:
            other = threading.Thread(target=logging.getLogger("training").warning, args=("hello",), daemon=True)
            other.start()
            assert inside.wait(10)
            warns = threading.Thread(target=sdk.log, args=({"x" * 300: 1.0},), daemon=True)
            warns.start()
            for thread in (warns, other):
                thread.join(10)
                assert not thread.is_alive()
            sdk.log(loss=1.0)
    finally:
        logging.getLogger().removeHandler(handler)
    assert "hello" in sent.texts("log")
    assert any("a name has 1 to 256 characters" in text for text in sent.texts("log"))


def test_ever_new_kinds_of_failures_do_not_grow_without_bound() -> None:
    with capture() as sent:
        for number in range(5000):
            sdk.log({f"sample_{number}": "text"})
        assert len(_guard.failures) < 2000
    assert sum(sent.warnings.values()) == 5000
    assert sent.dropped == {"not_a_number": 5000}
