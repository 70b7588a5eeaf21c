"""The hardware cuts a GPU's clocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._cards import Card, cards
from rankscope.agent.runs.state import Node, Run

_WHY = {
    "hw_thermal": Cause(
        "the card is too hot", "", "check fans, dust, air flow and the room; lower the power limit until then"
    ),
    "sw_thermal": Cause("the card is near its limit of heat", "", "check fans, dust, air flow and the room"),
    "hw_power_brake": Cause(
        "the power supply asks for less", "", "check the power supplies and the rack's power budget"
    ),
    "sw_power_cap": Cause("the card is at its power limit", "", "raise the limit if cooling allows (nvidia-smi -pl)"),
}


@dataclass(eq=False)
class GpuThrottled:
    """A GPU's clocks are cut for one of `reasons` for at least `threshold` of the last `window` seconds.

    A card at its power limit (`sw_power_cap`) is what a good training looks like and is not among the defaults; nor is
    `sw_thermal`, which many cards show all day.

    Needs `gpu_throttle_seconds_total`, or `gpu_throttle_active`.

    Defaults: nvidia_gpu_exporter's alert rules wait 5 minutes for hardware reasons and leave software's to the user.
    """

    scope: ClassVar[Literal["run", "node"]] = "node"
    needs: ClassVar[tuple[str, ...]] = ("gpu_throttle_active",)
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    reasons: tuple[str, ...] = ("hw_thermal", "hw_power_brake")
    threshold: float = 0.5  # of the time
    window: Seconds = 300.0

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        judged = False
        findings: list[Finding] = []
        for card in cards(node, now):
            for reason in self.reasons:
                share = self._share(card, reason)
                judged |= share is not None
                if share is not None and share >= self.threshold:
                    findings.append(self._finding(card, reason, share, now))
        return tuple(findings) if judged else Incomplete("no GPU tells for long enough why its clocks are cut")

    def _share(self, card: Card, reason: str) -> float | None:
        """Return the share of the window in which a reason held: counted by the driver, else seen by the sampler."""
        if card.recent(self.window, "gpu_throttle_seconds_total", reason) is not None:
            return min(1.0, card.growth(self.window, "gpu_throttle_seconds_total", reason) / self.window)
        active = card.recent(self.window, "gpu_throttle_active", reason)
        return float(active.mean()) if active is not None else None

    def _finding(self, card: Card, reason: str, share: float, now: float) -> Finding:
        clock, most = card.last("gpu_clock_hertz", "sm"), card.last("gpu_clock_max_hertz", "sm")
        at = f", it runs at {clock / 1e6:.0f} of {most / 1e6:.0f} MHz" if clock and most else ""
        heat = card.last("gpu_temperature_celsius", "gpu")
        evidence = f"{reason} held for {share:.0%} of {self.window / 60:.0f} min" + (
            f" at {heat:.0f} °C" if heat else ""
        )
        why = _WHY.get(reason, Cause("the driver cuts the clocks", "", "see nvidia-smi -q -d PERFORMANCE"))
        return Finding(
            f"{card.name}: clocks are cut ({reason}) for {share:.0%} of the time{at}",
            time=now,
            value=share,
            gpu=card.gpu,
            causes=(Cause(why.cause, evidence, why.fix),),
            labels={"reason": reason},
        )
