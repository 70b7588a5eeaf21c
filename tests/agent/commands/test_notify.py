"""`rankscope notify`: whether receivers can be reached is known before they are needed."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from rankscope.agent.commands.notify import command
from rankscope.agent.fakes import inbox


def test_every_receiver_is_tried_and_what_became_of_it_is_said(tmp_path: Path) -> None:
    with inbox() as box:
        file = tmp_path / "rankscope.yaml"
        hooks = [{"url": box.url, "min_severity": "critical"}, {"url": "http://127.0.0.1:1/T0KEN"}]
        file.write_text(json.dumps({"notifiers": {"webhook": hooks, "slack": {"url": box.url}}}))
        done = CliRunner().invoke(command, ["--config", str(file)])
        assert done.exit_code == 3
        lines = [line.split() for line in done.output.splitlines()]
        assert [line[:2] for line in lines] == [["ok", "webhook-0"], ["failed", "webhook-1:"], ["ok", "slack-0"]]
        assert "T0KEN" not in done.output
        assert len(box.arrived) == 2
        (body,) = (request.json() for request in box.arrived if b'"version"' in request.body)
        assert isinstance(body, dict)
        assert body["alerts"][0]["annotations"]["summary"] == "Rankscope can reach you"
        one = CliRunner().invoke(command, ["--config", str(file), "slack-0", "--json"])
        assert json.loads(one.output) == {"receiver": "slack-0", "delivered": True, "error": None}
        assert one.exit_code == 0


def test_wrong_use(tmp_path: Path) -> None:
    file = tmp_path / "rankscope.yaml"
    file.write_text('notifiers: {webhook: {url: "http://127.0.0.1:1"}}')
    done = CliRunner().invoke(command, ["--config", str(file), "pager"])
    assert (done.exit_code, "webhook-0" in done.output) == (2, True)
    file.write_text("")
    done = CliRunner().invoke(command, ["--config", str(file)])
    assert (done.exit_code, "no notifiers are configured" in done.output) == (2, True)
