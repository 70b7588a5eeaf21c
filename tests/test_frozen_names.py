"""What users and their tools depend on by name: a rename here is a decision, and a line in CHANGELOG.md."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from rankscope.agent import telemetry
from rankscope.agent.alerts import metrics as alerts
from rankscope.agent.component import discover
from rankscope.agent.config import Config
from rankscope.agent.model import Metric
from rankscope.agent.runs import metrics as runs
from rankscope.agent.runs.roles import ROLES


def metrics() -> Iterator[Metric]:
    yield from telemetry.METRICS
    yield from runs.METRICS
    yield from (value for value in vars(alerts).values() if isinstance(value, Metric))
    for sampler in discover("rankscope.agent.samplers").values():
        yield from getattr(sampler, "metrics", ())


def keys(cls: type) -> str:
    return " ".join(sorted(f.name.rstrip("_") for f in dataclasses.fields(cls) if f.init))


def test_metric_names_and_labels_are_frozen(golden: Callable[[str, str], None]) -> None:
    lines = {f"rankscope_{m.name} {m.kind} {' '.join(('hostname', *m.labels))}" for m in metrics()}
    golden("names_metrics.txt", "\n".join(sorted(lines)) + "\n")


def test_a_metric_has_one_row() -> None:
    rows: dict[str, Metric] = {}
    for metric in metrics():
        assert rows.setdefault(metric.name, metric) == metric


def test_no_series_has_more_than_ten_labels() -> None:
    """Info metrics apart, which exist to carry labels: one series a thing."""
    assert [m.name for m in metrics() if m.kind != "info" and len(m.labels) + 1 > 10] == []


def test_configuration_keys_and_component_names_are_frozen(golden: Callable[[str, str], None]) -> None:
    sections = ("http", "grpc", "journals", "runs", "alerts")
    lines = [f"config: {keys(Config)}", *(f"{name}: {keys(type(getattr(Config(), name)))}" for name in sections)]
    for family in ("samplers", "rules", "notifiers", "exporters"):
        for name, cls in discover(f"rankscope.agent.{family}").items():
            lines.append(f"{family}.{cls.__name__ if family == 'rules' else name}: {keys(cls)}")
    golden("names_config.txt", "\n".join(lines) + "\n")


def test_roles_and_their_names_are_frozen(golden: Callable[[str, str], None]) -> None:
    golden("names_roles.txt", "".join(f"{role}: {', '.join(names)}\n" for role, names in sorted(ROLES.items())))
