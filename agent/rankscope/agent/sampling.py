"""The loop around each sampler: interval, deadline, success and failure; a sampler only reads."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future

from rankscope.agent.component import Sampler
from rankscope.agent.model import Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.telemetry import Telemetry

log = logging.getLogger("rankscope.sampling")

DEADLINE = 5.0  # seconds, or three intervals if that is longer


class _Thread:
    """Runs one call after the other. Python waits for the threads of an executor when it ends, and not for this one:
    a sampler that hangs for ever must not keep the agent from ending.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[tuple[Sample, ...]], Callable[[], tuple[Sample, ...]]] | None]
        self._calls = queue.SimpleQueue()
        self._last: Callable[[], object] | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def call(self, function: Callable[[], tuple[Sample, ...]]) -> asyncio.Future[tuple[Sample, ...]]:
        future: Future[tuple[Sample, ...]] = Future()
        self._calls.put((future, function))
        return asyncio.wrap_future(future)

    def end(self, last: Callable[[], object]) -> None:
        """End it after the call that it is in, with a last one."""
        self._last = last
        self._calls.put(None)

    def _run(self) -> None:
        while (waiting := self._calls.get()) is not None:
            future, function = waiting
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - whoever waits for it must know
                future.set_exception(error)
            else:
                future.set_result(result)
        if self._last is not None:
            self._last()


class Sampling:
    """Runs samplers, each in a thread of its own, so that one that hangs holds up no other."""

    def __init__(self, node: Node, telemetry: Telemetry) -> None:
        self._node = node
        self._telemetry = telemetry
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._samplers: dict[str, Sampler] = {}

    def start(self, samplers: Mapping[str, Sampler]) -> None:
        """Run these samplers, in place of those that run now."""
        gone = self._samplers.keys() - samplers.keys()
        self.stop()
        for name in gone:  # neither blind nor stale: switched off
            self._telemetry.forget(name)
            self._node.forget(name)
        self._samplers = dict(samplers)
        for name, sampler in samplers.items():
            self._tasks[name] = asyncio.create_task(self._loop(name, sampler), name=f"sampler {name}")

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        for name in self._samplers:
            self._node.samples.pop(name, None)
        self._samplers.clear()

    async def _loop(self, name: str, sampler: Sampler) -> None:
        thread = _Thread(f"sampler-{name}")
        deadline = max(DEADLINE, 3 * sampler.interval)
        loop = asyncio.get_running_loop()
        due = loop.time()
        collection: asyncio.Future[tuple[Sample, ...]] | None = None
        try:
            while True:
                started = time.perf_counter()
                collection = thread.call(lambda: tuple(sampler.sample(self._node)))
                failure = await self._result(name, collection, deadline)
                self._telemetry.sampled(name, time.perf_counter() - started, failure, self._node.clock.now())
                if failure is not None:
                    if self._node.failing.get(name) != failure:
                        log.warning("sampler %s: %s", name, failure)
                    self._node.fail(name, failure)
                    await asyncio.wait({collection})  # a thread that hangs gets no second one beside it
                due = max(due + sampler.interval, loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            if collection is not None:
                collection.cancel()
            thread.end(sampler.close)  # by its own thread: what it reads from now is not taken away under it

    async def _result(self, name: str, collection: asyncio.Future[tuple[Sample, ...]], deadline: float) -> str | None:
        """Take a collection into the node's state; return why there is none."""
        done, _ = await asyncio.wait({collection}, timeout=deadline)
        if not done:
            return f"no answer within {deadline:g} s"
        error = collection.exception()
        if error is not None:
            return f"{type(error).__name__}: {error}"
        self._node.observe(name, collection.result(), self._node.clock.now())
        return None
