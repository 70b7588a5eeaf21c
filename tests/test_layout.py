"""The house as DESIGN says it stands: folders, namespace, and who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("sdk", "agent", "proto")

AGENT = "rankscope.agent."
PARTS = ("receivers", "samplers", "rules", "exporters", "notifiers", "reports")
BELOW = {"rankscope.agent.runs", "rankscope.agent.component", "rankscope.agent.model"}
LIGHT = set(sys.stdlib_module_names) | {"numpy", "rankscope"}


def modules(folder: str) -> Iterator[tuple[Path, str]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        if "_pb2" not in path.name:
            dotted = path.relative_to(ROOT / folder).with_suffix("").as_posix().replace("/", ".")
            yield path, dotted.removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a file imports when it is run, not those for type checkers alone."""
    tree = ast.parse(path.read_text())
    checking = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if node in checking:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_top_level_holds_the_folders_of_the_design_and_no_other() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folders = {line.split("/")[0] for line in tracked.splitlines() if "/" in line and not line.startswith(".")}
    assert folders == {"agent", "sdk", "proto", "deploy", "grafana", "tests"}


def test_the_namespace_is_never_closed() -> None:
    closed = [
        path
        for folder in SOURCES
        for path in (ROOT / folder / "__init__.py", ROOT / folder / "rankscope" / "__init__.py")
        if path.exists()
    ]
    assert closed == []


def test_names_say_something() -> None:
    empty = {"utils.py", "helpers.py", "common.py", "base.py", "manager.py", "misc.py"}
    assert [path for folder in SOURCES for path, _ in modules(folder) if path.name in empty] == []


@pytest.mark.parametrize(("folder", "forbidden"), [("sdk", "rankscope.agent"), ("agent", "rankscope.sdk")])
def test_sdk_and_agent_share_the_protocol_alone(folder: str, forbidden: str) -> None:
    guilty = [
        f"{name} imports {used}"
        for path, name in modules(folder)
        for used in imports(path)
        if used == forbidden or used.startswith(forbidden + ".")
    ]
    assert guilty == []


def test_the_protocol_imports_nothing_of_ours() -> None:
    for path in (ROOT / "proto" / "rankscope").rglob("*_pb2*.py"):
        ours = {used for used in imports(path) if used.startswith("rankscope") and not used.startswith("rankscope.v1")}
        assert ours == set(), path


@pytest.mark.parametrize("part", PARTS)
def test_parts_of_the_agent_are_blind_to_each_other(part: str) -> None:
    allowed = BELOW | {f"{AGENT}{part}"} | ({"rankscope.v1"} if part == "receivers" else set())
    for path, name in modules("agent"):
        if name.startswith(f"{AGENT}{part}."):
            for used in imports(path):
                if used.startswith("rankscope"):
                    assert any(used == a or used.startswith(a + ".") for a in allowed) or used in (
                        "rankscope.agent",
                        "rankscope",
                    ), f"{name} imports {used}"


def test_state_rules_and_values_are_light() -> None:
    for path, name in modules("agent"):
        if name.startswith((f"{AGENT}runs.", f"{AGENT}rules.")) or name in (f"{AGENT}model", f"{AGENT}component"):
            heavy = {used for used in imports(path) if used.split(".")[0] not in LIGHT}
            assert heavy == set(), name


def test_runs_know_only_what_is_below_them() -> None:
    for path, name in modules("agent"):
        if name.startswith(f"{AGENT}runs."):
            for used in imports(path):
                if used.startswith(AGENT):
                    assert any(used == b or used.startswith(b + ".") for b in BELOW), f"{name} imports {used}"


def test_only_receivers_see_the_protocol() -> None:
    seers = {name for path, name in modules("agent") if any(used.startswith("rankscope.v1") for used in imports(path))}
    assert all(name.startswith(f"{AGENT}receivers.") for name in seers), seers


def test_importing_the_sdk_brings_nothing_heavy_along() -> None:
    heavy = ("torch", "numpy", "grpc", "google.protobuf", "rankscope.agent", "rankscope.v1", "tensorboard")
    code = f"import sys; from rankscope import sdk; print([m for m in {heavy!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
