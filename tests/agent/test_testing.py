"""The contract checks that third parties use: our own parts pass them, and bad ones do not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import httpx
import pytest

from rankscope.agent.component import Notification, Notifier, Refused, Retry, discover
from rankscope.agent.exporters.tensorboard import Tensorboard
from rankscope.agent.model import Batch, Finding, RankInfo, Severity, Span, Verdict
from rankscope.agent.notifiers._http import retry_after
from rankscope.agent.runs.state import Node, Run
from rankscope.agent.testing import check_exporter, check_notifier, check_rule

RULES = {name: cls for name, cls in discover("rankscope.agent.rules").items() if name != "metric_threshold"}


@pytest.mark.parametrize("name", RULES)
def test_every_rule_keeps_its_contract(name: str) -> None:
    check_rule(RULES[name]())


def test_the_record_keeps_its_contract(tmp_path: Path) -> None:
    check_exporter(lambda: Tensorboard(dir=str(tmp_path)))


@dataclass
class Bad:
    """A rule that does whatever it is told."""

    verdict: Verdict = ()
    grows: bool = False
    severity: Severity = "warning"
    for_: Span = field(default_factory=Span)
    count: int = 0
    scope: ClassVar[Literal["run", "node"]] = "run"
    needs: ClassVar[tuple[str, ...]] = ()

    def check(self, node: Node, run: Run | None, now: float) -> Verdict:
        self.count += self.grows
        return self.verdict


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Bad(severity="grave"), "none of"),  # type: ignore[arg-type]
        (Bad((Finding("all is bad"),)), "where nothing is known"),
        (Bad(grows=True), "pure function"),
    ],
)
def test_a_bad_rule_is_found_out(rule: Bad, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_rule(rule)


class Forgetful:
    """An exporter that keeps nothing."""

    def begin(self, rank: RankInfo) -> int:
        return 0

    def write(self, rank: RankInfo, batch: Batch) -> None:
        pass

    def commit(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_forgetful_exporter_is_found_out() -> None:
    with pytest.raises(AssertionError, match="what was committed is safe"):
        check_exporter(Forgetful)


@dataclass
class Simple:
    """A notifier that posts, and has a flaw."""

    url: str = field(repr=False)
    flaw: str = ""
    min_severity: Severity = "info"

    async def send(self, notification: Notification) -> None:
        async with httpx.AsyncClient(follow_redirects=self.flaw == "follows") as client:
            try:
                answer = await client.post(self.url, json={"id": notification.id, "text": str(notification.payload)})
            except httpx.TransportError as error:
                raise Retry(f"{self.url if self.flaw == 'tells' else type(error).__name__}") from None
        if answer.status_code >= 500 or answer.status_code == 429:
            if self.flaw == "gives up":
                raise Refused("busy")
            raise Retry("busy", None if self.flaw == "hasty" else retry_after(answer.headers.get("Retry-After", "")))
        if not answer.is_success and self.flaw != "careless":
            raise Refused("no")

    async def close(self) -> None:
        pass


def with_flaw(flaw: str) -> Callable[[str], Notifier]:
    return lambda url: Simple(url, flaw)


def test_a_notifier_of_ones_own_passes(tmp_path: Path) -> None:
    check_notifier(with_flaw(""), tmp_path)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("gives up", "must be tried again"),
        ("hasty", "Retry-After"),
        ("careless", "must not be tried again"),
        ("follows", "must not be tried again"),
        ("tells", "a secret is told"),
    ],
)
def test_a_bad_notifier_is_found_out(flaw: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message) as error:
        check_notifier(with_flaw(flaw), tmp_path)
    assert "s3cr3t" not in str(error.value)
