"""`rankscope demo`: the main job with nothing else installed."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console, RenderableType
from rich.live import Live

from rankscope.agent.commands._failure import FOUND, Failure
from rankscope.agent.demo import screen, stage
from rankscope.agent.demo.page import Page, scrape
from rankscope.agent.demo.webhooks import Arrival, Webhooks

FAULTS = ("none", "nan", "spike", "plateau", "overfit", "explode", "stall", "straggler", "kill", "slow-data")
PATIENCE = 300.0  # seconds that a training may log nothing: the fault "stall" takes 90, many ranks start slowly
SETTLE = 8.0  # seconds after the training for what it caused to be resolved


@click.command(short_help="See all of it, on any machine, in a minute.")
@click.option("--ranks", default=2, show_default=True, type=click.IntRange(1, 64), help="Processes that train.")
@click.option("--steps", default=400, show_default=True, type=click.IntRange(10), help="400 take half a minute.")
@click.option(
    "--fault", default="none", show_default=True, type=click.Choice(FAULTS), metavar="FAULT", help="What goes wrong."
)
@click.option(
    "--runs",
    default="rankscope-demo",
    show_default=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the run is kept.",
)
@click.option("--serve", is_flag=True, help="Keep the agent up afterwards, until Ctrl-C.")
def command(ranks: int, steps: int, fault: str, runs: Path, serve: bool) -> None:
    """See all of it: an agent, a torchrun job that really trains, a webhook receiver that shows what arrives.

    \b
    rankscope demo                     a healthy training
    rankscope demo --fault nan         a bad batch: its loss is NaN on one rank
    rankscope demo --serve             look at the page, scrape the metrics

    \b
    FAULT is one of these; most set in after a third of the steps.
    nan        a bad batch: three steps whose loss is NaN on one rank
    spike      a corrupted shard of data: five steps with a high loss
    plateau    the learning rate is 0: nothing is learned any more
    overfit    so little text that the model soon knows it by heart
    explode    a learning rate 1000 times too large, gradients not clipped
    stall      one rank hangs for a minute and a half
    straggler  one rank computes 0.1 s a step more than the others
    kill       one rank is killed, and torchrun starts all of them again
    slow-data  storage that takes longer than the step

    Faults really happen inside the training, not in the reporting. Where the machine has no GPU, GPUs are simulated,
    and everything that shows them says so.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was started ends with the demo
    console = Console()
    simulated = not stage.has_gpu()
    console.print("[bold]Rankscope demo[/]: an agent, and a small transformer that learns English on", ranks, "ranks")
    if simulated:
        console.print("No NVIDIA driver here: [yellow]the GPUs shown are simulated[/], the rest is real.")
    try:
        with contextlib.ExitStack() as stack:
            stack.callback(stage.end_children, 5.0)
            webhooks = stack.enter_context(Webhooks(None if console.is_terminal else _say(console)))
            config: dict[str, object] = {
                "notifiers": {"webhook": [{"url": webhooks.url}]},
                "samplers": {"gpu": {"source": "simulated" if simulated else "auto"}},
                "alerts": {"group_interval": "2s", "resolve_after": "2s"},
                "rules": {"LossSpike": {"hold": "2s"}},  # all is over in a minute
            }
            agent = stack.enter_context(stage.agent(runs.absolute(), config))
            console.print(f"agent: {agent.url}   webhook receiver: {webhooks.url}   runs: {runs.absolute()}\n")
            log = Path(stack.enter_context(tempfile.TemporaryDirectory()), "training.log")
            arguments = ["--steps", str(steps), "--fault", fault, "--project", "demo", "--name", f"demo-{fault}"]
            training = stage.torchrun(agent, ranks, arguments, log, restarts=1 if fault == "kill" else 0)
            stack.callback(stage.end, training, 5.0)
            page = _watch(console, training, agent.url, steps, webhooks)
            failure = f"the training ended with status {training.poll()}" if training.poll() else ""
            if training.poll() is None:
                stage.end(training, 5.0)
                failure = f"the training logged nothing for {PATIENCE:g} s and was ended"
            if failure:
                last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                console.print(last, style="dim", highlight=False, markup=False)
                console.print(failure, style="red")
            screen.ending(console, page, runs.absolute(), agent.url, list(webhooks.arrivals), serving=serve)
            if serve:
                with contextlib.suppress(KeyboardInterrupt):
                    console.print("\nThe agent stays up: Ctrl-C ends it.")
                    while True:  # not signal.pause(): a signal that comes just before it would be waited for again
                        time.sleep(1)
            if failure:
                raise Failure(failure, FOUND)
    except stage.StageError as error:
        raise Failure(str(error)) from None


def _watch(console: Console, training: subprocess.Popen[bytes], url: str, steps: int, webhooks: Webhooks) -> Page:
    """Show the training until it is over and what it caused is settled; return the last page of metrics.

    Returns early, with the training still there, where it has logged nothing for PATIENCE.
    """
    page = Page()
    over: float | None = None
    logged, heard = 0.0, time.monotonic()
    with Live(console=console, refresh_per_second=8) if console.is_terminal else _Lines(console) as view:
        while over is None or (time.monotonic() - over < SETTLE and _unsettled(webhooks)):
            page = scrape(url) if training.poll() is None or not page.series else page
            view.update(screen.live(page, steps, list(webhooks.arrivals)))
            points = sum(count for _, count in page.get("ingest_points_total"))
            if points != logged:
                logged, heard = points, time.monotonic()
            if over is None and training.poll() is not None:
                over = time.monotonic()
                page = scrape(url)
            if over is None and time.monotonic() - heard > PATIENCE:
                break
            time.sleep(0.25)
        page = scrape(url)
        view.update(screen.live(page, steps, list(webhooks.arrivals)))
    return page


def _unsettled(webhooks: Webhooks) -> bool:
    """True while something that was announced as firing has not been announced as resolved."""
    last = {str(a.body["groupKey"]): a.body["status"] for a in webhooks.arrivals}
    return "firing" in last.values()


def _say(console: Console) -> Callable[[Arrival], None]:
    return lambda arrival: console.print("webhook:", screen.headline(arrival), highlight=False)


class _Lines:
    """Where there is no terminal: a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next = 0.0

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, view: RenderableType) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 5.0
            self._console.print(view)
