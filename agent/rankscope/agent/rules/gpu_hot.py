"""A GPU is near the temperature at which it slows down."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._cards import Card, cards
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class GpuHot:
    """A GPU stays within `margin` degrees of where its clocks are cut, or its memory above `memory_threshold`.

    The card's own figures decide: the margin that it gives, else its slow-down temperature, and only where it tells
    neither the fixed `threshold`. All values of the last `window` seconds must be in that range.

    Needs `gpu_temperature_margin_celsius` or `gpu_temperature_celsius`.

    Defaults: safe temperatures differ between generations, therefore margins; 85 to 87 °C and, for HBM, 95 °C are where
    data centre cards of the last generations start to slow down.
    """

    scope: ClassVar[Literal["run", "node"]] = "node"
    needs: ClassVar[tuple[str, ...]] = ("gpu_temperature_celsius",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    margin: float = 3.0  # degrees
    threshold: float = 87.0  # °C
    memory_threshold: float = 95.0  # °C
    window: Seconds = 60.0

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        judged = False
        findings: list[Finding] = []
        for card in cards(node, now):
            left = self._left(card)
            judged |= left is not None
            if left is not None and left <= self.margin:
                heat = card.last("gpu_temperature_celsius", "gpu")
                at = f"at {heat:.0f} °C, " if heat is not None else ""
                findings.append(self._finding(card, "gpu", f"{at}{max(left, 0):.0f} °C below its slow-down", heat, now))
            memory = card.recent(self.window, "gpu_temperature_celsius", "memory")
            if memory is not None and memory.min() >= self.memory_threshold:
                heat = float(memory[-1])
                findings.append(self._finding(card, "memory", f"its memory is at {heat:.0f} °C", heat, now))
        return tuple(findings) if judged else Incomplete("no GPU gave its temperature for long enough")

    def _left(self, card: Card) -> float | None:
        """Return the most degrees that were left in the window, None where the card does not tell."""
        margins = card.recent(self.window, "gpu_temperature_margin_celsius")
        if margins is not None:
            return float(margins.max())
        heat = card.recent(self.window, "gpu_temperature_celsius", "gpu")
        if heat is None:
            return None
        limit = card.last("gpu_temperature_slowdown_celsius")
        return (limit if limit is not None else self.threshold + self.margin) - float(heat.min())

    def _finding(self, card: Card, sensor: str, how: str, value: float | None, now: float) -> Finding:
        watts, fan = card.last("gpu_power_watts"), card.last("gpu_fan_speed_ratio")
        evidence = [
            f"it draws {watts:.0f} W" if watts is not None else "",
            f"fan at {fan:.0%}" if fan is not None else "",
        ]
        cause = Cause(
            "cooling does not keep up with the load",
            ", ".join(each for each in evidence if each) or how,
            "check fans, dust, air flow and the room's temperature; lower the power limit until then",
        )
        return Finding(
            f"{card.name}: {how}", time=now, value=value, gpu=card.gpu, causes=(cause,), labels={"sensor": sensor}
        )
