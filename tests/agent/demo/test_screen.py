"""What the demo says at its end."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from rankscope.agent.demo.screen import explained
from rankscope.agent.demo.webhooks import Arrival


def test_what_goes_on_in_another_line_stays_below_its_text() -> None:
    long = "the loss was 2.687 one step before, with no rise; the gradient norm was 0.4852"
    annotations = {"summary": long, "causes": f"1. {long}\n2. [a] short one", "fixes": long}
    alert = {"annotations": annotations}
    body: dict[str, object] = {
        "status": "firing",
        "commonLabels": {"alertname": "LossNaN", "severity": "critical"},
        "alerts": [alert],
    }
    out = StringIO()
    Console(file=out, width=60).print(explained(Arrival(0.0, body)))
    assert [line.rstrip() for line in out.getvalue().splitlines()] == [
        "  firing  LossNaN  the loss was 2.687 one step before, with",
        "          no rise; the gradient norm was 0.4852",
        "          causes:",
        "            1. the loss was 2.687 one step before, with no",
        "               rise; the gradient norm was 0.4852",
        "            2. [a] short one",
        "          fixes:",
        "            the loss was 2.687 one step before, with no",
        "            rise; the gradient norm was 0.4852",
    ]
