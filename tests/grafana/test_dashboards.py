"""The committed dashboards are those that the code makes, and keep the rules of good dashboards."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from rankscope.agent import telemetry
from rankscope.agent.alerts import metrics as alert_metrics
from rankscope.agent.component import discover
from rankscope.agent.model import Metric
from rankscope.agent.runs import metrics

from .dashboards import BOARDS, FOLDER, Target, panels, targets

ROOT = FOLDER.parents[1]
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UIDS = {"rankscope-fleet", "rankscope-run", "rankscope-ranks", "rankscope-node", "rankscope-alerts"}

TARGETS = list(targets())
# A counter of which nothing is exported before there is something to count: what it begins with counts as well.
GROWN = re.compile(r"\(max_over_time\((\S+)\[(\S+)\]\) unless \1 offset \2\) or increase\(\1\[\2\]\)")


def catalogue() -> dict[str, set[str]]:
    """Return the labels of every metric that an agent can export, by full name."""
    rows: list[Metric] = [*telemetry.METRICS, *metrics.METRICS, *alert_metrics.METRICS]
    for sampler in discover("rankscope.agent.samplers").values():
        rows += getattr(sampler, "metrics", ())
    found = {f"rankscope_{row.name}": {"job", "instance", "hostname", *row.labels} for row in rows}
    for row in rows:
        if row.kind == "histogram":
            for suffix in ("_bucket", "_sum", "_count"):
                found[f"rankscope_{row.name}{suffix}"] = {"job", "instance", "hostname", "le", *row.labels}
        if row.kind == "summary":
            found[f"rankscope_{row.name}"].add("quantile")
    return found


def recorded() -> dict[str, set[str]]:
    """Return the labels of every series that the recording rules make, by name."""
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules" / "recording.yaml").read_text())
    found: dict[str, set[str]] = {}
    for rule in itertools.chain.from_iterable(group["rules"] for group in rules["groups"]):
        first = re.search(r"by \(([^)]*)\)", rule["expr"])
        assert first is not None, rule
        found[rule["record"]] = {label.strip() for label in first[1].split(",")}
    return found


KNOWN = catalogue() | recorded()


def selectors(expression: str) -> Iterator[tuple[str, str]]:
    """Yield name and matchers of every series that an expression selects."""
    yield from re.findall(r"\b((?:rankscope|up|scrape)(?:[_:][\w:]+)?)\b(?:\{([^}]*)\})?", expression)


def test_the_five_dashboards_are_there_with_their_uids() -> None:
    assert set(BOARDS) == UIDS
    assert {board["uid"] for board in BOARDS.values()} == UIDS


def test_the_committed_ones_are_what_the_code_makes(require_library: Callable[[str], None]) -> None:
    require_library("grafana_foundation_sdk")
    checked = subprocess.run(
        [sys.executable, str(ROOT / "grafana" / "generate.py"), "--check"], check=False, capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("uid", sorted(UIDS))
def test_grafanas_own_model_knows_every_key(uid: str, require_library: Callable[[str], None]) -> None:
    """Reading and writing a dashboard with Grafana's types loses nothing: no key is misspelt anywhere."""
    require_library("grafana_foundation_sdk")
    model: Any = importlib.import_module("grafana_foundation_sdk.models.dashboard")
    encoder: Any = importlib.import_module("grafana_foundation_sdk.cog.encoder")
    again = json.loads(encoder.JSONEncoder().encode(model.Dashboard.from_json(BOARDS[uid])))
    assert again == BOARDS[uid]


@pytest.mark.parametrize("uid", sorted(UIDS))
def test_a_dashboard_can_be_provisioned_and_imported(uid: str) -> None:
    board = BOARDS[uid]
    assert "__inputs" not in board
    assert "id" not in board
    assert board["editable"] is False
    assert board["description"]
    identities = [panel["id"] for panel in board["panels"]]
    assert len(identities) == len(set(identities))


@pytest.mark.parametrize("uid", sorted(UIDS))
def test_panels_do_not_overlap_and_stay_on_the_grid(uid: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[uid]["panels"]:
        place = panel["gridPos"]
        assert place.get("x", 0) + place["w"] <= 24
        for x, y in itertools.product(range(place["w"]), range(place["h"])):
            cell = (place.get("x", 0) + x, place.get("y", 0) + y)
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]


@pytest.mark.parametrize("uid", sorted(UIDS))
def test_panels_have_title_description_unit_and_the_chosen_datasource(uid: str) -> None:
    for panel in panels(BOARDS[uid]):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == DATASOURCE, panel["title"]
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == DATASOURCE, panel["title"]


@pytest.mark.parametrize("uid", sorted(UIDS))
def test_nothing_is_red_by_default(uid: str) -> None:
    """Where no thresholds are set Grafana paints 80 red; where the first is red, low must really be bad."""
    for panel in panels(BOARDS[uid]):
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        assert steps, panel["title"]
        assert steps[0]["value"] is None, panel["title"]
        if steps[0]["color"] == "red":
            assert steps[-1]["color"] == "green", panel["title"]


@pytest.mark.parametrize("uid", sorted(UIDS))
def test_variables_refresh_follow_the_datasource_and_work_with_all(uid: str) -> None:
    variables = BOARDS[uid]["templating"]["list"]
    assert [v["name"] for v in variables if v["type"] == "datasource"] == ["datasource"]
    assert "job" in {v["name"] for v in variables}
    for variable in variables:
        if variable["type"] == "query":
            assert variable["datasource"] == DATASOURCE
            assert (variable["refresh"], variable["includeAll"], variable["allValue"]) == (2, True, ".+"), variable[
                "name"
            ]
            assert variable["query"]["query"].startswith("label_values("), variable["name"]
            assert variable["label"]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_query_asks_for_series_that_exist_by_labels_that_they_have(target: Target) -> None:
    found = list(selectors(target.expr))
    assert found
    for name, matchers in found:
        if name.startswith(("up", "scrape")):
            continue
        assert name in KNOWN, f"{name} is exported by nothing"
        for label in re.findall(r'(\w+)(?:=~|!~|!=|=)"', matchers):
            assert label in KNOWN[name], f"{name} has no label {label}"


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_query_follows_the_chosen_job(target: Target) -> None:
    for name, matchers in selectors(target.expr):
        assert 'job=~"$job"' in matchers, name


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_counters_are_rated_and_rates_fit_the_scrapes(target: Target) -> None:
    """A counter alone says nothing; `$__rate_interval` never is shorter than four scrapes."""
    rated = GROWN.sub(r"increase(\1[\2])", target.expr)
    for match in re.finditer(r"\b(rankscope_\w+_(?:total|bucket))\{[^}]*\}(\[[^\]]+\])?", rated):
        if "xid" in match[1]:  # a code that was ever seen is what is shown, and a new series has no increase
            continue
        assert match[2] is not None, f"{match[1]} is a counter"
        before = rated[: match.start()]
        assert re.search(r"(rate|increase|irate)\($", before), match[1]
        assert match[2] in ("[$__rate_interval]", "[$__range]", "[5m]"), match[2]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_panel_that_can_be_empty_says_what_is_missing(target: Target) -> None:
    assert not re.search(r"no data", target.empty, re.IGNORECASE)


def test_the_links_lead_to_dashboards_that_exist() -> None:
    for board in BOARDS.values():
        for uid in re.findall(r"/d/([\w-]+)\?", json.dumps(board)):
            assert uid in UIDS
