"""What tests share: what they may require of the machine, and processes that end with them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest


@pytest.fixture(scope="session")
def require() -> Callable[..., str]:
    """Return the path of a program; skip where it is missing, or fail where RANKSCOPE_REQUIRE_ALL is set."""

    def find(*names: str, why: str = "") -> str:
        for name in names:
            if (path := shutil.which(name)) is not None:
                return path
        _lacks(f"needs {' or '.join(names)}{': ' + why if why else ''}")

    return find


@pytest.fixture(scope="session")
def require_library() -> Callable[[str], None]:
    """Skip where a library is not installed, or fail where RANKSCOPE_REQUIRE_ALL is set; imports nothing."""

    def check(name: str) -> None:
        if importlib.util.find_spec(name) is None:
            _lacks(f"needs {name}, which is not installed here: pip install {name}")

    return check


def _lacks(message: str) -> NoReturn:
    if os.environ.get("RANKSCOPE_REQUIRE_ALL") == "1":
        pytest.fail(f"{message}, and RANKSCOPE_REQUIRE_ALL=1 says that nothing may be missing")
    pytest.skip(message)


@pytest.fixture
def anyones_path() -> Iterator[Path]:
    """Give a temporary folder that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        yield path


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text with a file under tests/golden; `--update` writes it instead."""

    def check(name: str, text: str) -> None:
        path = Path(__file__).parent / "golden" / name
        if request.config.getoption("--update"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {name}: run pytest --update and look at it"
        assert text == path.read_text()

    return check


def pytest_configure() -> None:
    # A shell lets what it runs in the background ignore Ctrl-C, and every process that a test starts inherits that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="rewrite golden files instead of comparing with them")
