"""`kill -9`, again and again, at any moment: the receiver still hears every beginning and every end, in order."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from rankscope.agent.fakes import Inbox, inbox

PROCESS = '''
"""An engine and a dispatcher at work: a problem comes and goes, as a clock that outlives the process says."""
import asyncio, pathlib, sys, time
from rankscope.agent.alerts.dispatcher import Dispatcher
from rankscope.agent.alerts.engine import Alerts
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.fakes import FixedRule, a_run
from rankscope.agent.model import Finding, UserAlert
from rankscope.agent.notifiers.webhook import Webhook

async def main(folder, url):
    settings = Settings(group_wait=0.01, group_interval=0.02, resolve_after=0.02, flap_window=0.0,
                        retry_first=0.01, retry_longest=0.02)
    dispatcher = Dispatcher(folder / "outbox", settings)
    dispatcher.use({"webhook-0": Webhook(url=url)})
    alerts = Alerts("node-1", folder, settings, deliver=dispatcher.put)
    work = asyncio.create_task(dispatcher.run())
    node, run = a_run(8)
    rule = FixedRule("critical")
    print("up", flush=True)
    while not (folder / "stop").exists():
        now = time.time()
        wrong = int(now * 10) % 3 == 0  # a tenth of a second in three
        found = tuple(Finding("loss is NaN", step=1, rank=rank) for rank in range(8)) if wrong else ()
        alerts.judge("LossNaN", rule, run, found, now)
        alerts.tick(now)
        await asyncio.sleep(0.005)
    alerts.forget(run, time.time())
    for _ in range(20):
        alerts.tick(time.time())
        await asyncio.sleep(0.01)
    await dispatcher.close(5)

asyncio.run(main(pathlib.Path(sys.argv[1]), sys.argv[2]))
'''


@pytest.mark.e2e
def test_every_beginning_and_every_end_arrive_in_order(tmp_path: Path) -> None:
    chance = random.Random(7)
    with inbox() as box:
        lives = 0
        while lives < 12 or len({request.headers["webhook-id"] for request in box.arrived}) <= 10:
            lives += 1
            assert lives < 100, "the receiver hears too little"
            process = _start(tmp_path, box)
            time.sleep(chance.uniform(0.1, 0.7))  # when the blow falls, not how long something takes
            process.send_signal(signal.SIGKILL)
            process.wait()
            box.answers[:] = [503] * chance.randrange(3)  # a receiver with troubles of its own
        box.answers.clear()  # who drains does not wait for a receiver with troubles
        last = _start(tmp_path, box)
        (tmp_path / "stop").touch()
        assert last.wait(60) == 0
    told: dict[str, tuple[str, str]] = {}  # by id: a delivery may be repeated, under the same id
    for request in box.arrived:
        body = cast("dict[str, Any]", request.json())
        alerts = cast("Sequence[dict[str, str]]", body["alerts"])
        assert len(alerts) == 1
        told.setdefault(request.headers["webhook-id"], (alerts[0]["status"], alerts[0]["startsAt"]))
    statuses = [status for status, _ in told.values()]
    assert len(statuses) > 10, "the test tests something"
    assert statuses == ["firing", "resolved"] * (len(statuses) // 2)
    starts = [start for _, start in told.values()]
    assert starts[::2] == starts[1::2], "each end belongs to the beginning before it"
    assert starts == sorted(starts)
    assert json.loads((tmp_path / "alerts.json").read_text())["open"] == []


def _start(folder: Path, box: Inbox) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", PROCESS, str(folder), box.url], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process
