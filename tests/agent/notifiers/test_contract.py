"""Every notifier keeps the same contract: what is tried again, what is told, and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from rankscope.agent.component import Notifier, discover
from rankscope.agent.notifiers.alertmanager import Alertmanager
from rankscope.agent.notifiers.dingtalk import Dingtalk
from rankscope.agent.notifiers.discord import Discord
from rankscope.agent.notifiers.feishu import Feishu
from rankscope.agent.notifiers.slack import Slack
from rankscope.agent.notifiers.webhook import Webhook
from rankscope.agent.notifiers.wecom import Wecom
from rankscope.agent.testing import SECRET, check_notifier

MAKERS: Mapping[str, Callable[[str], Notifier]] = {
    "alertmanager": lambda url: Alertmanager(url=url, bearer_token=SECRET),
    "dingtalk": lambda url: Dingtalk(url=url, secret=SECRET),
    "discord": lambda url: Discord(url=url),
    "feishu": lambda url: Feishu(url=url, secret=SECRET),
    "slack": lambda url: Slack(url=url),
    "webhook": lambda url: Webhook(
        url=url, secret=SECRET, username="rankscope", password=SECRET, headers={"X-Key": SECRET}
    ),
    "wecom": lambda url: Wecom(url=url),
}
OTHERS = {"apprise"}  # no HTTP of its own: test_apprise.py


def test_every_notifier_is_checked() -> None:
    assert set(discover("rankscope.agent.notifiers")) == MAKERS.keys() | OTHERS


@pytest.mark.parametrize("name", MAKERS)
def test_contract(name: str, tmp_path: Path) -> None:
    check_notifier(MAKERS[name], tmp_path)


@pytest.mark.parametrize("cls", discover("rankscope.agent.notifiers").values())
def test_what_can_be_configured_is_the_same_everywhere(cls: type) -> None:
    assert {"url", "url_file", "min_severity", "send_resolved"} <= {field.name for field in dataclasses.fields(cls)}
