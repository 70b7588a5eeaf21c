"""A GPU reports a fault of its hardware."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from rankscope.agent.model import Cause, Finding, Incomplete, Seconds, Severity, Span, Verdict
from rankscope.agent.rules._cards import Card, cards
from rankscope.agent.rules._xid import meaning
from rankscope.agent.runs.state import Node, Run

# nvmlDeviceGpuRecoveryAction_t in nvml.h
_ACTIONS = {
    1: "a reset",
    2: "a reboot of the node",
    3: "to drain its peers",
    4: "to drain it and reset it",
    5: "the IMEX domain to be recovered",
    6: "a reset of its bus",
    7: "a reboot of the whole system",
}


@dataclass(eq=False)
class GpuHardwareError:
    """A GPU reports a fault: an XID error, uncorrectable memory errors, a failed row remap, a recovery that the driver
    asks for, an NVLink that went down, a PCIe link that lost lanes.

    XID errors of the list `critical` and of the list `warning` fire for `window` seconds after the last one; the errors
    of a program that is at fault itself (13, 31, 43, 45) are in neither, nor is 154, which `gpu_recovery_action` tells.
    Uncorrectable memory errors are critical while they grow, and a warning afterwards until the driver is loaded anew.

    Needs `gpu_up` and what the card supports of `gpu_xid_last_timestamp_seconds`, `gpu_ecc_errors_total`,
    `gpu_row_remap_failed`, `gpu_row_remap_pending`, `gpu_recovery_action`, `gpu_nvlink_links_up` and
    `gpu_pcie_link_width`.

    Defaults: the tiers and the window of nvidia_gpu_exporter's alert rules, and NVIDIA's criterion for returning a card
    (a failed row remap).
    """

    scope: ClassVar[Literal["run", "node"]] = "node"
    needs: ClassVar[tuple[str, ...]] = ("gpu_up",)
    severity: Severity = "critical"
    for_: Span = field(default_factory=Span)
    window: Seconds = 600.0
    critical: tuple[int, ...] = (48, 62, 64, 74, 79, 95, 119, 120, 140, 143, 157, 158, 167, 171, 172)
    warning: tuple[int, ...] = (63, 92, 94, 109, 136, 144, 145, 146, 147, 148, 149, 150, 156)
    _most_links: dict[str, float] = field(default_factory=dict[str, float], init=False, repr=False)  # by uuid

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        there = cards(node, now)
        if not there:
            return Incomplete("no GPU is sampled")
        return tuple(finding for card in there for finding in self._card(card, now))

    def _card(self, card: Card, now: float) -> Iterator[Finding]:
        yield from self._xids(card, now)
        yield from self._memory(card, now)
        yield from self._links(card, now)
        action = int(card.last("gpu_recovery_action") or 0)
        if action:
            asks = _ACTIONS.get(action, f"recovery {action}")
            yield self._finding(
                card,
                "recovery",
                now,
                f"{card.name}: the driver asks for {asks}",
                action,
                "the driver found a fault",
                f"gpu_recovery_action is {action}",
                f"drain the node, then do what it asks: {asks}",
            )

    def _xids(self, card: Card, now: float) -> Iterator[Finding]:
        for (code,), when in card.labels("gpu_xid_last_timestamp_seconds"):
            number = int(code)
            if now - when > self.window or number not in (*self.critical, *self.warning):
                continue
            means = meaning(number)
            yield self._finding(
                card,
                "xid",
                when,
                f"{card.name}: XID {code}, {means.text}",
                number,
                means.text,
                f"the driver reported XID {code} {max(0.0, now - when):.0f} s ago",
                means.fix,
                severity="critical" if number in self.critical else "warning",
                xid=code,
            )

    def _memory(self, card: Card, now: float) -> Iterator[Finding]:
        errors = card.last("gpu_ecc_errors_total", "uncorrected") or 0.0
        grown = card.growth(self.window, "gpu_ecc_errors_total", "uncorrected")
        if errors:
            yield self._finding(
                card,
                "ecc",
                now,
                f"{card.name}: {errors:.0f} uncorrectable memory errors since the driver was loaded",
                errors,
                "a memory cell is failing",
                f"{grown:.0f} of them in the last {self.window / 60:.0f} min",
                "reset the GPU so that the row is remapped; have the card replaced if they come back",
                severity="critical" if grown else "warning",
            )
        if card.last("gpu_row_remap_failed"):
            yield self._finding(
                card,
                "row_remap",
                now,
                f"{card.name}: a memory row could not be remapped",
                1,
                "no spare rows are left",
                "gpu_row_remap_failed is 1",
                "have the card replaced: this is NVIDIA's criterion for it",
            )
        elif card.last("gpu_row_remap_pending"):
            yield self._finding(
                card,
                "row_remap",
                now,
                f"{card.name}: a row remap waits for a reset",
                1,
                "a memory cell failed",
                "gpu_row_remap_pending is 1",
                "reset the GPU when the run is over",
                severity="warning",
            )

    def _links(self, card: Card, now: float) -> Iterator[Finding]:
        links = card.series("gpu_nvlink_links_up")
        seen = float(links.value.max()) if links is not None else 0.0
        most = self._most_links[card.uuid] = max(seen, self._most_links.get(card.uuid, 0.0))
        if links is not None and links.last < most:
            down = most - links.last
            yield self._finding(
                card,
                "nvlink",
                now,
                f"{card.name}: {down:.0f} of {most:.0f} NVLinks went down",
                down,
                "a link, the switch or the card at its other end failed",
                "they were up before",
                "check the fabric manager's log and the other end; collectives go on slower, or hang",
            )
        width, full = card.last("gpu_pcie_link_width"), card.last("gpu_pcie_link_width_max")
        busy = card.recent(60.0, "gpu_utilization_ratio")
        narrow = card.recent(60.0, "gpu_pcie_link_width")
        if width and full and narrow is not None and narrow.max() < full and busy is not None and busy.mean() > 0.1:
            yield self._finding(
                card,
                "pcie",
                now,
                f"{card.name}: its PCIe link runs {width:.0f} of {full:.0f} lanes wide",
                width,
                "a lane failed, or the card sits badly or in a narrow slot",
                f"x{width:.0f} of x{full:.0f} under load",
                "reseat the card or the riser; check the slot's wiring in the board's manual",
                severity="warning",
            )

    def _finding(
        self,
        card: Card,
        problem: str,
        time: float,
        summary: str,
        value: float,
        cause: str,
        evidence: str,
        fix: str,
        *,
        severity: Severity | None = None,
        xid: str = "",
    ) -> Finding:
        labels = {"problem": problem, **({"xid": xid} if xid else {})}
        causes = (Cause(cause, evidence, fix),)
        return Finding(summary, time=time, value=value, gpu=card.gpu, severity=severity, causes=causes, labels=labels)
