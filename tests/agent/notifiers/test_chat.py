"""Chat services: bodies as they ask for them, signatures where they have them, and no mark-up from strangers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import pytest

from rankscope.agent.component import Notification, Refused, Retry
from rankscope.agent.fakes import Inbox, a_notification, inbox
from rankscope.agent.notifiers._chat import Chat
from rankscope.agent.notifiers._message import cut_bytes, message
from rankscope.agent.notifiers.dingtalk import Dingtalk
from rankscope.agent.notifiers.discord import Discord
from rankscope.agent.notifiers.feishu import Feishu
from rankscope.agent.notifiers.slack import Slack
from rankscope.agent.notifiers.wecom import Wecom

KINDS: dict[str, Callable[[str], Chat]] = {
    "dingtalk": lambda url: Dingtalk(url=url),
    "discord": lambda url: Discord(url=url),
    "feishu": lambda url: Feishu(url=url),
    "slack": lambda url: Slack(url=url),
    "wecom": lambda url: Wecom(url=url),
}


@pytest.fixture
def box() -> Iterator[Inbox]:
    with inbox() as running:
        yield running


async def post(notifier: Chat, box: Inbox, notification: Notification | None = None) -> Any:
    try:
        await notifier.send(notification or a_notification())
    finally:
        await notifier.close()
    return box.arrived[-1].json() if box.arrived else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resolved", [False, True])
async def test_golden_bodies(kind: str, resolved: bool, box: Inbox, golden: Callable[[str, str], None]) -> None:
    body = await post(KINDS[kind](box.url), box, a_notification(resolved=resolved))
    text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    golden(f"webhook_{kind}{'_resolved' if resolved else ''}.json", text)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_matters_is_said(kind: str, box: Inbox) -> None:
    text = json.dumps(await post(KINDS[kind](box.url), box), ensure_ascii=False)
    for words in (
        "critical",
        "LossNaN",
        "loss is NaN at step 100",
        "learning rate is too high",
        "lower it by a factor",
    ):
        assert words in text, words


@pytest.mark.parametrize("kind", KINDS)
async def test_a_long_story_stays_within_the_services_limits(kind: str, box: Inbox) -> None:
    notification = a_notification()
    (alert,) = cast("list[dict[str, dict[str, str]]]", notification.payload["alerts"])
    alert["annotations"] |= {"description": "ä<&" * 3000, "summary": "s" * 8000}
    cast("list[object]", notification.payload["alerts"]).extend([alert] * 30)
    body = await post(KINDS[kind](box.url), box, notification)
    if kind == "slack":
        sections = body["attachments"][0]["blocks"]
        assert len(sections) <= 50
        assert all(len(section["text"]["text"]) <= 3000 for section in sections)
    elif kind == "discord":
        embed = body["embeds"][0]
        assert len(embed["title"]) <= 256
        assert len(embed["description"]) <= 4096
    elif kind == "wecom":
        assert len(body["markdown"]["content"].encode()) <= 4096
    else:
        assert len(box.arrived[-1].body) <= 20_000


async def test_a_run_called_everyone_wakes_nobody(box: Inbox) -> None:
    slack = json.dumps(await post(Slack(url=box.url), box))
    assert "&lt;@everyone&gt;" in slack
    assert "<@everyone>" not in slack
    assert (await post(Discord(url=box.url), box))["allowed_mentions"] == {"parse": []}


async def test_an_event_of_the_script_is_not_followed_by_its_end(box: Inbox) -> None:
    over = a_notification("UserAlert", resolved=True)
    assert message(over.payload) is None
    await post(Slack(url=box.url), box, over)
    assert box.arrived == []


async def test_dingtalk_signs_the_address(box: Inbox) -> None:
    await post(Dingtalk(url=box.url + "/robot/send?access_token=abc", secret="SEC123"), box)
    query = parse_qs(urlsplit(box.arrived[0].path).query)
    stamp = query["timestamp"][0]
    expected = hmac.new(b"SEC123", f"{stamp}\nSEC123".encode(), hashlib.sha256).digest()
    assert query["sign"] == [base64.b64encode(expected).decode()]
    assert query["access_token"] == ["abc"]
    assert len(stamp) == 13, "milliseconds"


async def test_feishu_signs_the_body(box: Inbox) -> None:
    body = await post(Feishu(url=box.url, secret="abc"), box)
    expected = hmac.new(f"{body['timestamp']}\nabc".encode(), b"", hashlib.sha256).digest()
    assert body["sign"] == base64.b64encode(expected).decode()


@pytest.mark.parametrize(
    ("kind", "answer", "error"),
    [
        ("feishu", {"code": 0, "msg": "success"}, None),
        ("feishu", {"code": 11232, "msg": "frequency limited"}, Retry),
        ("feishu", {"code": 19021, "msg": "sign match fail"}, Refused),
        ("dingtalk", {"errcode": 0, "errmsg": "ok"}, None),
        ("dingtalk", {"errcode": 130101, "errmsg": "send too fast"}, Retry),
        ("dingtalk", {"errcode": 310000, "errmsg": "keywords not in content"}, Refused),
        ("wecom", {"errcode": 0, "errmsg": "ok"}, None),
        ("wecom", {"errcode": 45009, "errmsg": "api freq out of limit"}, Retry),
        ("wecom", {"errcode": 93000, "errmsg": "invalid webhook url"}, Refused),
    ],
)
async def test_services_that_say_no_with_status_200(
    kind: str, answer: dict[str, object], error: type[Exception] | None, box: Inbox
) -> None:
    box.answer = json.dumps(answer).encode()
    if error is None:
        await post(KINDS[kind](box.url), box)
        return
    with pytest.raises(error) as raised:
        await post(KINDS[kind](box.url), box)
    if error is Refused:
        assert str(next(v for v in answer.values() if isinstance(v, str))) in str(raised.value), "why is said"


async def test_what_a_service_says_is_told_without_the_secret_in_it(box: Inbox) -> None:
    box.answers = [404]
    box.answer = b"no_service for hooks/T0KEN-1234"
    with pytest.raises(Refused, match="no_service") as raised:
        await post(Slack(url=box.url + "/hooks/T0KEN-1234"), box)
    assert "T0KEN" not in str(raised.value)


def test_a_text_is_cut_between_characters() -> None:
    assert cut_bytes("ä" * 10, 10) == "äää…"
    assert len(cut_bytes("ä" * 10, 10).encode()) <= 10
    assert cut_bytes("short", 10) == "short"


def test_libraries_that_would_log_addresses_are_quiet() -> None:
    assert logging.getLogger("httpx").level >= logging.WARNING
    assert logging.getLogger("httpcore").level >= logging.WARNING
