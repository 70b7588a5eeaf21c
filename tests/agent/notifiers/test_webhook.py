"""The webhook: Alertmanager's payload version 4 to the letter, signed and authorised where that is asked for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rankscope.agent.alerts.lane import fit
from rankscope.agent.component import Retry
from rankscope.agent.fakes import Arrived, Inbox, a_notification, inbox
from rankscope.agent.notifiers.webhook import Webhook, signature

CLASSIC = {
    "receiver",
    "status",
    "alerts",
    "groupLabels",
    "commonLabels",
    "commonAnnotations",
    "externalURL",
    "version",
    "groupKey",
    "truncatedAlerts",
}
NEWER = {"notification_reason", "routeLabels"}


@pytest.fixture
def box() -> Any:
    with inbox() as running:
        yield running


async def post(box: Inbox, **settings: Any) -> Arrived:
    notifier = Webhook(url=box.url + "/hook", **settings)
    try:
        await notifier.send(a_notification())
    finally:
        await notifier.close()
    return box.arrived[-1]


async def test_the_body_has_every_key_of_version_4_and_no_other(box: Inbox) -> None:
    body = (await post(box)).json()
    assert isinstance(body, dict)
    assert body.keys() == CLASSIC | NEWER
    assert body["version"] == "4"
    assert all(
        alert.keys() == {"status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"}
        for alert in body["alerts"]
    )


@pytest.mark.parametrize("resolved", [False, True])
async def test_golden_bodies(box: Inbox, golden: Callable[[str, str], None], resolved: bool) -> None:
    notifier = Webhook(url=box.url)
    fitted = fit(a_notification(resolved=resolved), "webhook-0", notifier)
    assert fitted is not None
    await notifier.send(fitted)
    await notifier.close()
    text = json.dumps(box.arrived[0].json(), indent=2, ensure_ascii=False) + "\n"
    golden("webhook_resolved.json" if resolved else "webhook.json", text)


async def test_values_that_json_lacks_are_words(box: Inbox) -> None:
    request = await post(box)
    assert b'"value": "NaN"' in request.body
    request.json()


async def test_headers(box: Inbox) -> None:
    request = await post(box, headers={"X-Team": "nlp"}, bearer_token="abc")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("rankscope/")
    assert request.headers["x-team"] == "nlp"
    assert request.headers["authorization"] == "Bearer abc"


async def test_basic_authentication(box: Inbox) -> None:
    request = await post(box, username="me", password="pä:ss")
    assert request.headers["authorization"] == "Basic " + base64.b64encode("me:pä:ss".encode()).decode()


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The vector is that of the specification."""
    assert (
        signature(
            "whsec_plJ3nmyCDGBKInavdOK15jsl",
            "msg_loFOjxBNrRLzqYUf",
            "1731705121",
            b'{"event_type":"ping","data":{"success":true}}',
        )
        == "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="
    )


async def test_a_receiver_can_verify_what_it_got(box: Inbox) -> None:
    request = await post(box, secret="any text")
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.".encode() + request.body
    digest = base64.b64encode(hmac.new(b"any text", signed, hashlib.sha256).digest()).decode()
    assert request.headers["webhook-signature"] == f"v1,{digest}"


async def test_without_a_secret_nothing_is_signed(box: Inbox) -> None:
    assert "webhook-signature" not in (await post(box)).headers


async def test_secrets_in_files_are_read_anew_each_time(box: Inbox, tmp_path: Path) -> None:
    token, url = tmp_path / "token", tmp_path / "url"
    url.write_text(box.url + "/from-file\n")
    notifier = Webhook(url_file=str(url), bearer_token_file=str(token))
    with pytest.raises(Retry, match="bearer_token_file cannot be read"):
        await notifier.send(a_notification())
    for value in ("first", "second"):
        token.write_text(value + "\n")
        await notifier.send(a_notification())
        assert box.arrived[-1].headers["authorization"] == f"Bearer {value}"
    assert box.arrived[-1].path == "/from-file"
    await notifier.close()


async def test_a_receiver_that_never_answers_is_left_after_the_timeout(box: Inbox) -> None:
    box.answers = [-1]
    with pytest.raises(Retry, match=r"did not answer in 0\.05 s"):
        await post(box, timeout=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "url is missing"),
        ({"url": "http://x", "url_file": "y"}, "either url or url_file"),
        ({"url": "ftp://example.org"}, "https://example.org/hook"),
        ({"url": "http://"}, "https://example.org/hook"),
        ({"url": "http://x:99999"}, "https://example.org/hook"),
        ({"url": "http://x", "min_severity": "high"}, "info, warning, critical"),
        ({"url": "http://x", "username": "a", "bearer_token": "b"}, "not both"),
        ({"url": "http://x", "secret": "whsec_???"}, "no Base64"),
        ({"url": "http://x", "headers": {"A": "b\nC: d"}}, "printable"),
        ({"url": "http://x", "max_alerts": -1}, "negative"),
    ],
)
def test_wrong_settings_are_refused_with_what_to_do(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Webhook(**settings)


async def test_a_long_list_is_cut_where_asked_for_and_the_rest_is_counted(box: Inbox) -> None:
    notification = a_notification()
    alerts = notification.payload["alerts"]
    assert isinstance(alerts, list)
    alerts *= 5
    notifier = Webhook(url=box.url, max_alerts=2)
    await notifier.send(notification)
    await notifier.close()
    body = box.arrived[0].json()
    assert isinstance(body, dict)
    assert (len(body["alerts"]), body["truncatedAlerts"]) == (2, 3)
