"""The agent does not see what it should."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, Finding, Severity, Span, Verdict
from rankscope.agent.rules._cards import cards
from rankscope.agent.runs.state import Node, Run


@dataclass(eq=False)
class AgentBlind:
    """A sampler fails, or a GPU does not answer: what the other rules say of it is silence, not health.

    Needs nothing.

    Defaults: 10 seconds are several collections, and less than the time that a driver's own recovery takes.
    """

    scope: ClassVar[Literal["run", "node"]] = "node"
    needs: ClassVar[tuple[str, ...]] = ()
    severity: Severity = "warning"
    for_: Span = field(default_factory=lambda: Span(seconds=10.0))

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        findings = [self._sampler(node, name, reason, now) for name, reason in tuple(node.failing.items())]
        there = cards(node, now)
        for card in there:
            if card.last("gpu_up") == 0.0:
                others = sum(each.last("gpu_up") == 1.0 for each in there)
                cause = Cause(
                    "the card fell off the bus, or its driver hangs",
                    f"NVML answers for {others} other GPUs and not for this one",
                    "look for XID errors in the kernel's log (dmesg); reset the card or reboot the node",
                )
                summary = f"{card.name} does not answer"
                findings.append(
                    Finding(
                        summary, time=now, gpu=card.gpu, severity="critical", causes=(cause,), labels={"sampler": "gpu"}
                    )
                )
        return tuple(findings)

    def _sampler(self, node: Node, name: str, reason: str, now: float) -> Finding:
        last = node.sampled.get(name)
        since = f"for {now - last:.0f} s" if last is not None else "since the agent started"
        fix = "see the agent's log"
        if name == "gpu":
            fix = "try nvidia-smi; if it hangs too, look for XID errors in dmesg and reset the card or reboot the node"
        return Finding(
            f"the {name} sampler sees nothing {since}: {reason}",
            time=now,
            value=now - last if last is not None else None,
            causes=(Cause(reason, f"no success {since}", fix),),
            labels={"sampler": name},
        )
