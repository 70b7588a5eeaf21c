"""The loop around each sampler: interval, deadline, success and failure; a sampler only reads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from rankscope.agent.component import Sampler
from rankscope.agent.model import Sample
from rankscope.agent.runs.state import Node
from rankscope.agent.telemetry import Telemetry

log = logging.getLogger("rankscope.sampling")

DEADLINE = 5.0  # seconds, or three intervals if that is longer


class Sampling:
    """Runs samplers, each in a thread of its own, so that one that hangs holds up no other."""

    def __init__(self, node: Node, telemetry: Telemetry) -> None:
        self._node = node
        self._telemetry = telemetry
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._samplers: dict[str, Sampler] = {}

    def start(self, samplers: Mapping[str, Sampler]) -> None:
        """Run these samplers, in place of those that run now."""
        self.stop()
        self._samplers = dict(samplers)
        for name, sampler in samplers.items():
            self._tasks[name] = asyncio.create_task(self._loop(name, sampler), name=f"sampler {name}")

    def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()
        for sampler in self._samplers.values():
            sampler.close()
        for name in self._samplers:
            self._node.samples.pop(name, None)
        self._samplers.clear()

    async def _loop(self, name: str, sampler: Sampler) -> None:
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sampler-{name}")
        deadline = max(DEADLINE, 3 * sampler.interval)
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            while True:
                started = time.perf_counter()
                collection = loop.run_in_executor(executor, self._collect, sampler)
                failure = await self._result(name, collection, deadline)
                self._telemetry.sampled(name, time.perf_counter() - started, failure, time.time())
                if failure is not None:
                    if self._node.failing.get(name) != failure:
                        log.warning("sampler %s: %s", name, failure)
                    self._node.fail(name, failure)
                    await asyncio.wait({collection})  # a thread that hangs gets no second one beside it
                due = max(due + sampler.interval, loop.time())
                await asyncio.sleep(due - loop.time())
        finally:
            executor.shutdown(wait=False, cancel_futures=True)

    def _collect(self, sampler: Sampler) -> tuple[Sample, ...]:
        return tuple(sampler.sample(self._node))

    async def _result(self, name: str, collection: asyncio.Future[tuple[Sample, ...]], deadline: float) -> str | None:
        """Take a collection into the node's state; return why there is none."""
        done, _ = await asyncio.wait({collection}, timeout=deadline)
        if not done:
            return f"no answer within {deadline:g} s"
        error = collection.exception()
        if error is not None:
            return f"{type(error).__name__}: {error}"
        self._node.observe(name, collection.result(), time.time())
        return None
