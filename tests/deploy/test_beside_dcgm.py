"""What is said beside dcgm-exporter's metrics: names that we export, and all that an H100 gives."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "deploy" / "prometheus" / "README.md").read_text().split("## Beside dcgm-exporter")[1]


def said() -> dict[str, set[str]]:
    """Return the metrics that the text names, each with the labels that it names."""
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"`(gpu_\w+)(?:\{(.*?)\})?`", TEXT):
        found.setdefault(name, set()).update(re.findall(r"([a-z]+)(?:=|, |$)", labels))
    return found


def test_metrics_and_labels_that_are_named_exist() -> None:
    lines = (ROOT / "tests" / "golden" / "names_metrics.txt").read_text().splitlines()
    exported = {name.removeprefix("rankscope_"): set(labels) for name, _, *labels in map(str.split, lines)}
    assert said().keys() <= exported.keys()
    assert {name: labels - exported[name] for name, labels in said().items() if labels - exported[name]} == {}


def test_all_that_an_h100_gives_is_named() -> None:
    lines = (ROOT / "tests" / "golden" / "gpu-h100.txt").read_text().splitlines()
    given = {line.split("{")[0] for line in lines}
    assert sorted(given - said().keys()) == ["gpu_driver_info", "gpu_info"]  # what labels are for
