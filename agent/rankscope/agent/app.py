"""The agent: the one place that knows all parts, starts them, and ends them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator
from importlib.metadata import version
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from rankscope.agent.alerts.dispatcher import Dispatcher
from rankscope.agent.alerts.engine import Alerts
from rankscope.agent.component import Receiver
from rankscope.agent.config import Config, ConfigError
from rankscope.agent.exporters.prometheus import Prometheus
from rankscope.agent.ingest import Ingest
from rankscope.agent.judging import Judging
from rankscope.agent.model import Batch, Sample
from rankscope.agent.runs import metrics
from rankscope.agent.runs.folder import make_folder
from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.retention import prune
from rankscope.agent.runs.roles import Roles
from rankscope.agent.runs.state import Node
from rankscope.agent.sampling import Sampling
from rankscope.agent.stacks import Searching
from rankscope.agent.telemetry import Telemetry
from rankscope.agent.web import credentials
from rankscope.agent.web.app import View, create

log = logging.getLogger("rankscope.agent")

SWEEP_EVERY = 5.0  # seconds
PRUNE_EVERY = 3600.0  # seconds
DRAIN = 2.0  # seconds that the record may take to become safe at the end


class _WebServer(uvicorn.Server):
    """uvicorn without hands on the process' signals, and without ten looks a second whether it is to end."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._over = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._over.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # the date in the headers moves on
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._over.wait(), 1.0)


class Agent:
    """One agent, made of a configuration; `read` reads the configuration again.

    Raises OSError where the address of its page cannot be had, or its folder not be written.
    """

    def __init__(self, config: Config, read: Callable[[], Config]) -> None:
        self.config = config
        self._read = read
        hostname = config.hostname
        runs = Path(config.runs.dir)
        self.node = Node(hostname, roles=Roles(config.roles))
        self.telemetry = Telemetry()
        state = _prepare(runs, hostname)
        self._listener = _listen(*config.http.address)
        alerts = config.alerts.at(config.http.url(hostname, self._listener.getsockname()[1]))
        self.dispatcher = Dispatcher(state / "outbox", alerts, self.node.clock.now)
        self.alerts = Alerts(hostname, state, alerts, runs_dir=runs, deliver=self.dispatcher.put)
        self.dispatcher.announced = self.alerts.announced
        self.prometheus = config.exporters.get("prometheus")
        self._judging = Judging(self.node, self.alerts)
        self._judging.dated = (self.node, self.alerts, self.dispatcher, self.telemetry)
        self._sampling = Sampling(self.node, self.telemetry)
        self._stop = asyncio.Event()
        self.ready = False

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT. Raises OSError where an address cannot be had."""
        loop = asyncio.get_running_loop()
        ingest = Ingest(self.node, self.config.record, self._changed, self._record_failed)
        searching = Searching(self.node, Path(self.config.runs.dir), ingest.where, self._stalled)
        web = self._web(searching)
        receivers: list[Receiver] = [self.config.grpc, self.config.journals]
        self._adopt(self.config)
        host, port = self._listener.getsockname()[:2]
        self.config.grpc.agent_version = version("rankscope")
        scheme = "https" if web.config.ssl_certfile else "http"
        there = self.config.hostname if host in ("0.0.0.0", "::") else host
        self.config.grpc.url = self.config.alerts.external_url or f"{scheme}://{there}:{port}"
        self.config.journals.agent = self.config.grpc.listen
        tasks: list[asyncio.Task[None]] = []
        try:
            for receiver in receivers:
                await receiver.start(ingest)
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, self._stop.set)
            loop.add_signal_handler(signal.SIGHUP, self.reload)
            serving = web.serve([self._listener])
            jobs = (self._judging.run(), self.dispatcher.run(), self._sweep(), searching.run(), serving)
            for job in jobs:
                task = asyncio.create_task(job)
                task.add_done_callback(self._ended)
                tasks.append(task)
            self.ready = True
            gc.freeze()  # what was imported stays: the collector need not go through it again and again
            log.info("ranks connect to %s, %s shows the rest", self.config.grpc.listen, self.config.grpc.url)
            await self._stop.wait()
        finally:
            self.ready = False
            log.info("draining")
            for receiver in receivers:
                await receiver.stop()
            await ingest.close(DRAIN)
            self.alerts.tick(self.node.clock.now())
            await self.dispatcher.close(1.0)
            self._sampling.stop()
            web.end()
            for task in tasks:
                task.remove_done_callback(self._ended)
            await asyncio.wait(tasks, timeout=0.5) if tasks else None
            for task in tasks:
                task.cancel()
        failed = [error for task in tasks if task.done() and not task.cancelled() and (error := task.exception())]
        if failed:
            raise failed[0]

    def reload(self) -> str | None:
        """Read the configuration again; a wrong one is refused, with the reason, and the old one stays."""
        try:
            config = self._read()
        except (ConfigError, OSError) as error:
            log.error("the old configuration stays: %s", error)
            return str(error)
        self._adopt(config)
        log.info("configuration read again")
        return None

    def _adopt(self, config: Config) -> None:
        """Take over what can change while the agent runs: rules, notifiers, samplers, roles."""
        self._judging.rules = config.rules
        self.dispatcher.use(dict(config.notifiers))
        self._sampling.start(config.samplers)

    def _web(self, searching: Searching) -> _WebServer:
        view = View(
            node=self.node,
            alerts=self.alerts,
            telemetry=self.telemetry,
            runs_dir=Path(self.config.runs.dir),
            render=self.render,
            reload=self.reload,
            ready=lambda: self.ready,
            where=searching.where,
            now=self.node.clock.now,
        )
        web: ASGIApp = create(view)
        settings = uvicorn.Config(web, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=1)
        if self.config.http.web_config_file:
            asked = credentials.load(Path(self.config.http.web_config_file))
            if asked.users:
                settings.app = credentials.BasicAuth(web, asked.users)
            if asked.cert_file:
                settings.ssl_certfile, settings.ssl_keyfile = asked.cert_file, asked.key_file
                settings.ssl_ca_certs, settings.ssl_cert_reqs = asked.client_ca_file or None, asked.client_auth
        return _WebServer(settings)

    def samples(self, now: float) -> Iterator[Sample]:
        """Everything that is known now, the agent's own health first: a budget cuts from the end."""
        yield from self.telemetry.samples(self.node)
        yield from self.alerts.samples()
        yield from self.dispatcher.samples()
        selection = self.prometheus.selection if isinstance(self.prometheus, Prometheus) else metrics.EVERYTHING
        yield from metrics.samples(self.node, now, selection, self._stragglers())
        for collection in list(self.node.samples.values()):
            yield from collection

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the page of metrics and its content type."""
        if not isinstance(self.prometheus, Prometheus):
            return b"", "text/plain"
        page = self.prometheus.render(self.samples(self.node.clock.now()), accept)
        self.telemetry.exposed(self.prometheus.series, self.prometheus.refused | self.alerts.refused)
        return page

    def _stragglers(self) -> set[tuple[str, int]] | None:
        """Return the ranks that are held for stragglers, by run; None while no rule judges that."""
        if all(name != "Straggler" for name, _ in self._judging.rules):
            return None
        return self.alerts.ranks_of("Straggler")

    def _stalled(self) -> set[str]:
        """Return the names of the runs that stand still."""
        return {run for run, _ in self.alerts.ranks_of("TrainingStalled")}

    def _changed(self, rank: Rank, batch: Batch | None) -> None:
        self._judging.news(rank, batch)

    def _record_failed(self, reason: str) -> None:
        log.error("%s: ranks keep their points until it can be written", reason)

    async def _sweep(self) -> None:
        """Forget runs that are over, and remove those that are older than they are to be kept."""
        pruned = 0.0
        while True:
            now = self.node.clock.now()
            for run in self.node.sweep(now, self.config.runs.forget_after):
                self.alerts.forget(run, now)
            if time.monotonic() - pruned > PRUNE_EVERY or not pruned:
                pruned = time.monotonic()
                try:
                    gone = await asyncio.to_thread(
                        prune, Path(self.config.runs.dir), self.config.runs.keep_days, self.node.clock
                    )
                    for folder in gone:
                        log.info("removed %s: older than %g days", folder, self.config.runs.keep_days)
                except OSError as error:
                    log.warning("cannot remove old runs: %s", error)
            await asyncio.sleep(SWEEP_EVERY)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A part that ends by itself ends the agent: half an agent would look healthy."""
        self._stop.set()


def _prepare(runs: Path, hostname: str) -> Path:
    """Make the folder of runs and, in it, this agent's own; return the latter. Raises OSError with what to do."""
    state = runs / f".agent-{hostname}"
    try:
        make_folder(state)
        probe = state / "writable"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"runs.dir: cannot write in {runs}: {error.strerror}: choose another folder with --runs"
        ) from None
    return state


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(
            f"http.listen: cannot listen on {host}:{port}: {error.strerror}: choose another with --http host:port"
        ) from None
    return listener
