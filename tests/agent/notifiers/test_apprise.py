"""Apprise, and a clear word where it is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from rankscope.agent.component import Refused, Retry
from rankscope.agent.fakes import a_notification, inbox
from rankscope.agent.notifiers.apprise import Apprise


def test_where_it_is_missing_the_configuration_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apprise", None)  # Python's own way to say that there is no such module
    with pytest.raises(ValueError, match=r"pip install 'rankscope\[apprise\]'"):
        Apprise(url="json://localhost")


async def test_it_sends_through_apprise(require_library: Callable[[str], None]) -> None:
    require_library("apprise")
    with inbox() as box:
        await Apprise(url=box.url.replace("http://", "json://")).send(a_notification())
    body = box.arrived[0].json()
    assert isinstance(body, dict)
    assert "LossNaN" in body["title"]
    assert "loss is NaN at step 100" in body["message"]


async def test_what_it_cannot_deliver_is_tried_again_and_what_it_does_not_know_is_not(
    require_library: Callable[[str], None],
) -> None:
    require_library("apprise")
    with pytest.raises(Retry):
        await Apprise(url="json://127.0.0.1:1/T0KEN").send(a_notification())
    with pytest.raises(Refused) as raised:
        await Apprise(url="nonsense").send(a_notification())
    assert "nonsense" not in str(raised.value)
