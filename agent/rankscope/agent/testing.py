"""Contract checks for rules, exporters and notifiers of one's own.

A check raises AssertionError with what is wrong. They are what Rankscope's own parts are tested with.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path

from rankscope.agent.alerts.dispatcher import Dispatcher
from rankscope.agent.alerts.settings import Settings
from rankscope.agent.component import Exporter, Notification, Notifier, Refused, Retry, Rule, summary
from rankscope.agent.fakes import a_batch, a_notification, a_rank, a_run, inbox
from rankscope.agent.model import SEVERITIES, Incomplete
from rankscope.agent.runs.state import Node, Run

SECRET = "s3cr3t-T0KEN-0123456789"


def check_notifier(make: Callable[[str], Notifier], folder: Path) -> None:
    """Check that a notifier keeps its contract. `make` builds one that posts to an address; `folder` is empty.

    2xx is delivered; 429, 5xx and no answer raise Retry (with what Retry-After says); all else raises Refused. What is
    sent is proper JSON. No part of the address is seen in an error, a log line or the notifier's repr. Behind a queue,
    order holds over failures, and what was not delivered is after a restart.
    """
    asyncio.run(_check_answers(make))
    asyncio.run(_check_secrets(make))
    asyncio.run(_check_order(make, folder))


async def _check_answers(make: Callable[[str], Notifier]) -> None:
    with inbox() as box:
        notifier = make(box.url + "/hook")
        assert notifier.min_severity in SEVERITIES, "min_severity is no severity"
        for status in (200, 201, 204):
            box.answers = [status]
            for notification in (a_notification(), a_notification(resolved=True)):
                assert await _outcome(notifier, notification) is None, f"{status} is a success"
        assert len(box.arrived) == 6, "a notification is one request"
        for request in box.arrived:
            request.json()
        for status in (429, 500, 502, 503):
            box.answers = [status]
            assert isinstance(await _outcome(notifier), Retry), f"{status} must be tried again"
        box.answers, box.headers = [429], {"Retry-After": "7"}
        error = await _outcome(notifier)
        assert isinstance(error, Retry), "429 must be tried again"
        assert error.after == 7, "Retry-After must be heeded"
        box.headers = {"Location": box.url + "/elsewhere"}
        for status in (301, 400, 401, 403, 404, 413):
            box.answers = [status]
            before = len(box.arrived)
            assert isinstance(await _outcome(notifier), Refused), f"{status} must not be tried again"
            assert len(box.arrived) == before + 1, "a redirection must not be followed: it would take secrets along"
        box.answers = [0]
        assert isinstance(await _outcome(notifier), Retry), "no answer must be tried again"
        await notifier.close()
    nobody = make(box.url)
    assert isinstance(await _outcome(nobody), Retry), "a receiver that is not there must be tried again"
    await nobody.close()
    await nobody.close()


async def _check_secrets(make: Callable[[str], Notifier]) -> None:
    seen: list[str] = []
    handler = _Keep(seen)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        with inbox() as box:
            notifier = make(f"{box.url}/{SECRET}/hook?token={SECRET}-2&key={SECRET}-3")
            for status in (400, 403, 429, 500, 0, 200):
                box.answers = [status]
                seen.append(str(await _outcome(notifier)))
        seen.append(str(await _outcome(notifier)))
        seen.append(repr(notifier))
        await notifier.close()
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    told = [text for text in seen if SECRET in text]
    assert told == [], f"a secret is told: {told[0].replace(SECRET, '<SECRET>')}"


async def _check_order(make: Callable[[str], Notifier], folder: Path) -> None:
    settings = Settings(retry_first=0.01, retry_longest=0.02)
    notifications = [a_notification(name) for name in ("First", "Second", "Third")]
    with inbox() as box:
        box.answers = [503] * 1000
        dispatcher = Dispatcher(folder, settings)
        dispatcher.use({"receiver": make(box.url)})
        for notification in notifications[:2]:
            dispatcher.put(notification)
        work = asyncio.create_task(dispatcher.run())
        await _until(lambda: len(box.arrived) >= 3)
        await dispatcher.close(0.5)
        await work
        box.answers = [503]
        box.arrived.clear()
        again = Dispatcher(folder, settings)
        again.use({"receiver": make(box.url)})
        again.put(notifications[1])  # known already
        again.put(notifications[2])
        work = asyncio.create_task(again.run())
        await _until(lambda: len(box.arrived) >= 4)
        await again.close(0.5)
        await work
    names = [next(n for n in (b"First", b"Second", b"Third") if n in request.body) for request in box.arrived]
    assert names == [b"First", b"First", b"Second", b"Third"], f"order is lost over failures or a restart: {names}"


async def _outcome(notifier: Notifier, notification: Notification | None = None) -> Refused | Retry | None:
    try:
        await notifier.send(notification or a_notification())
    except (Refused, Retry) as error:
        return error
    return None


async def _until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"it did not come about within {seconds:g} s"
        await asyncio.sleep(0.005)


class _Keep(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage() + str(record.exc_info or ""))


def check_rule(rule: Rule, node: Node | None = None, run: Run | None = None, now: float = 1e9) -> None:
    """Check that a rule keeps its contract, on a given state or on one in which nothing is known.

    It is a documented dataclass with a severity; it abstains or stays silent without data; it changes nothing; it
    says the same thing of the same state twice; its findings have a summary of one line, and sane fields.
    """
    kind = type(rule)
    assert dataclasses.is_dataclass(kind), f"{kind.__name__} is no dataclass"
    assert summary(kind), f"{kind.__name__} has no documentation"
    assert rule.severity in SEVERITIES, f"severity {rule.severity!r} is none of {SEVERITIES}"
    assert rule.scope in ("run", "node"), f"scope {rule.scope!r} is neither run nor node"
    fresh = node is None
    if node is None:
        node, run = a_run(2, now=now)
    judged = run if rule.scope == "run" else None
    before = copy.deepcopy(_parameters(rule))
    verdict = rule.check(node, judged, now)
    assert rule.check(node, judged, now) == verdict, f"{kind.__name__} says two things of one state"
    assert _parameters(rule) == before, f"{kind.__name__} keeps something: a rule is a pure function"
    if isinstance(verdict, Incomplete):
        assert verdict.reason, "what is missing must be said"
        return
    assert not (fresh and verdict), f"{kind.__name__} finds something where nothing is known: {verdict}"
    for finding in verdict:
        assert finding.summary.strip(), "a finding needs a summary"
        assert "\n" not in finding.summary, "a summary is one line"
        assert finding.severity in (None, *SEVERITIES), f"severity {finding.severity!r} is none of {SEVERITIES}"
        for cause in finding.causes:
            assert cause.cause, "a cause needs words"
            assert cause.fix, "a cause needs a fix"


def _parameters(rule: Rule) -> dict[str, object]:
    return {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}  # type: ignore[arg-type]


def check_exporter(make: Callable[[], Exporter]) -> None:
    """Check that an exporter keeps its contract. `make` builds it, twice, over the same store.

    Nothing is safe at first; after a commit all that was written is; a second exporter over the same store says so,
    and goes on from there; another session of the same rank starts at nothing.
    """
    info = a_rank(0)
    exporter = make()
    assert exporter.begin(info) == 0, "nothing is safe before anything was written"
    exporter.write(info, a_batch(1, 3))
    exporter.write(info, a_batch(4, 6))
    exporter.commit()
    assert exporter.begin(info) == 6, "what was committed is safe"
    exporter.commit()  # nothing new: no harm
    exporter.close()
    second = make()
    assert second.begin(info) == 6, "what was committed is still safe after a restart"
    second.write(info, a_batch(7, 7))
    second.commit()
    later = dataclasses.replace(info, session=info.session + 1, attempt=1)
    assert second.begin(later) == 0, "another session starts at nothing"
    second.write(later, a_batch(1, 2))
    second.commit()
    assert second.begin(later) == 2, "what was committed of another session is safe"
    second.close()
