"""Rankscope in a training script: `init`, `log`, `phase`, `finish`; nothing here raises, blocks or synchronises.

from rankscope import sdk

sdk.init(project="sql-generator", name="exp-1", config={"lr": 2e-5})
for batch in sdk.batches(loader):
    with sdk.phase("forward"):
        loss = model(batch)
    ...
    sdk.log(loss=loss, lr=lr)
sdk.finish()
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, TypeVar

from rankscope.sdk import _guard, _runtime, _session
from rankscope.sdk._batches import timed
from rankscope.sdk._begin import Request
from rankscope.sdk._columns import MAX_NAME
from rankscope.sdk._phases import NoPhase
from rankscope.sdk._values import clean

if TYPE_CHECKING:
    from torch.nn import Module
    from torch.optim import Optimizer

__all__ = [
    "alert",
    "artifact",
    "batches",
    "expect",
    "finish",
    "graph",
    "histogram",
    "image",
    "init",
    "log",
    "phase",
    "table",
    "text",
    "watch",
]

T = TypeVar("T")
MAX_TEXT = 256 * 1024  # characters
_NO_PHASE = NoPhase()


@_guard.guarded(_guard.nothing)
def init(
    project: str | None = None,
    name: str | None = None,
    config: Mapping[str, object] | None = None,
    *,
    id: str | None = None,  # noqa: A002 (what W&B users know)
    tags: Sequence[str] = (),
    notes: str | None = None,
    agent: str | None = None,
    mode: Literal["online", "disabled"] | None = None,
) -> None:
    """Start the run on this rank; arguments win over the environment (`RANKSCOPE_PROJECT`, `RANKSCOPE_AGENT`, …).

    Who the rank is comes from torchrun, Slurm or Open MPI; every rank of a job gets the same run. `id` names the run
    for good: the same `id` later goes on with it. `agent` is `unix:/path` or `host:port`; an agent that is not there is
    normal: points wait on disk. A second `init` finishes the first.
    """
    environ = os.environ
    project = project or environ.get("RANKSCOPE_PROJECT", "")
    name = name or environ.get("RANKSCOPE_NAME", "")
    _runtime.start(Request(project, name, config, tags, notes), id, agent, mode)


if TYPE_CHECKING:

    def log(metrics: Mapping[str, object] | None = None, /, *, step: int | None = None, **scalars: object) -> None:
        """Log scalars of a step: Python or numpy numbers, tensors of one element on any device.

        `step` omitted: the previous one plus 1 (the first is 0). Nested dicts join with `/`. What is no number is
        dropped, counted and warned about once for each name. A tensor on a device costs no synchronisation: its value
        arrives when it is ready, at the step where it was logged.
        """
else:
    # Takes, at run time, more positional arguments than it has, as in wandb's `log(data, step)`: a call like that in
    # hour eight must not end a training.

    def log(metrics=None, /, *surplus, step=None, **scalars):
        """Log scalars of a step, by name: numbers, and tensors of one element. `step` omitted: the next one."""
        session = _session.current
        if session is None:
            return
        try:
            if surplus:
                step = _runtime.surplus(surplus, step)
            session.log(metrics, step, scalars)
        except Exception:  # noqa: BLE001 (this is the SDK's guard, unrolled for speed)
            if session is _session.current:  # else a signal handler has ended it in the middle
                try:
                    _guard.failed("log")
                except RecursionError:  # the training is so deep in calls that there is no room for a word
                    return


def _no_phase(*_args: object, **_kwargs: object) -> AbstractContextManager[None]:
    return _NO_PHASE


@_guard.guarded(_no_phase)
def phase(name: str) -> AbstractContextManager[None]:
    """Time a part of the step: `data`, `forward`, `backward`, `optimizer`, `eval`, `checkpoint`, `other`, or your own.

    What runs in a nested phase counts for that one alone. The times of a step travel with its `log()`.
    """
    session = _session.current
    return _NO_PHASE if session is None else session.phase(name)


def _untimed(iterable: Iterable[T] = (), *_args: object, **_kwargs: object) -> Iterable[T]:
    return iterable


@_guard.guarded(_untimed)
def batches(iterable: Iterable[T]) -> Iterable[T]:
    """Iterate over a loader and time the wait for each batch as the phase `data`."""
    return iterable if _session.current is None else timed(iterable)


@_guard.guarded(_guard.nothing)
def text(tag: str, value: str, *, step: int | None = None) -> None:
    """Log a text (Markdown, in TensorBoard) at `step`, or at the step of the last `log()`."""
    if (session := _session.current) is not None:
        session.event("text", {"tag": clean(tag, MAX_NAME), "value": clean(value, MAX_TEXT)}, step=step)


@_guard.guarded(_guard.nothing)
def image(tag: str, value: object, *, step: int | None = None) -> None:
    """Log an image: an array or tensor (H×W, H×W×C or C×H×W; bytes, or floats from 0 to 1), a PIL image, a figure.

    A figure is matplotlib's. Sides beyond 2,048 pixels are thinned out. A tensor on a device is waited for.
    """
    if (session := _session.current) is not None:
        from rankscope.sdk import _images

        found = _images.encode(value)
        size = {"height": found.height, "width": found.width, "channels": found.channels}
        session.media("image", tag, found.png, size, step)


@_guard.guarded(_guard.nothing)
def histogram(tag: str, value: object, *, step: int | None = None) -> None:
    """Log the distribution of an array, tensor or list; values that are not finite are counted apart.

    64 equal buckets from the lowest to the highest finite value. A tensor on a device is waited for.
    """
    if (session := _session.current) is not None:
        from rankscope.sdk import _histograms

        data, metadata = _histograms.encode(value)
        session.media("histogram", tag, data, metadata, step)


@_guard.guarded(_guard.nothing)
def table(tag: str, value: object, *, step: int | None = None) -> None:
    """Log a table: a data frame, a dict of columns, a list of dicts, or a list of rows whose first is the header.

    TensorBoard shows its first 100 rows as text; all of it (at most 100,000 rows) is kept as CSV in the run's folder.
    """
    if (session := _session.current) is not None:
        from rankscope.sdk import _tables

        session.media("table", tag, _tables.encode(value), {}, step)


@_guard.guarded(_guard.nothing)
def artifact(tag: str, value: str | os.PathLike[str], *, step: int | None = None) -> None:
    """Keep a file with the run: copied into its folder up to 32 MiB, else named there with path, size and digest."""
    if (session := _session.current) is not None:
        from rankscope.sdk import _artifacts

        file, metadata = _artifacts.describe(value)
        if file.stat().st_size <= _artifacts.COPIED:
            session.media("artifact", tag, _artifacts.parts(file), metadata, step)
        else:
            session.media("reference", tag, b"", metadata, step)


@_guard.guarded(_guard.nothing)
def graph(tag: str, value: Module, inputs: object = None, *, step: int | None = None) -> None:
    """Log a model's graph as `torch.export` traces it, without computing anything.

    `inputs` are what the model is called with (a tensor, a tuple, or a dict of keywords); None: those of its next call.
    """
    if _session.current is not None:
        from rankscope.sdk.torch.graph import log_graph

        log_graph(tag, value, inputs, step)


@_guard.guarded(_guard.nothing)
def alert(title: str, text: str = "", *, severity: Literal["info", "warning", "critical"] = "warning") -> None:
    """Raise an alert of your own, through the agent's engine and notifiers."""
    if (session := _session.current) is not None:
        level = severity if severity in ("info", "warning", "critical") else "warning"
        session.event("alert", {"title": clean(title, MAX_NAME), "text": clean(text, MAX_TEXT), "severity": level})


@_guard.guarded(_guard.nothing)
def expect(seconds: float) -> None:
    """Announce that the next progress may take this long (a long evaluation, a compilation)."""
    if (session := _session.current) is not None:
        session.event("expect", {"seconds": float(seconds)})


@_guard.guarded(_guard.nothing)
def watch(
    model: Module,
    optimizer: Optimizer | None = None,
    *,
    every: int = 100,
    histograms: bool = True,
    activations: bool = True,
) -> None:
    """Watch gradients, weights, updates and activations of a model, every so many steps."""
    if _session.current is not None:
        from rankscope.sdk.torch import watch as start_watching

        start_watching(model, optimizer, every=every, histograms=histograms, activations=activations)


@_guard.guarded(_guard.nothing)
def finish(exit_code: int = 0) -> None:
    """End the run on this rank: flush for at most 2 s, leave the rest on disk for the agent, return."""
    _runtime.stop(exit_code)
