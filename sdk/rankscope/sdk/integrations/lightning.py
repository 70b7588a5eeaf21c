"""Lightning: `Trainer(logger=RankscopeLogger())`, and `callbacks=[RankscopeCallback()]` for phases and `watch()`."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch.distributed as dist
from lightning.pytorch.callbacks import Callback  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
from lightning.pytorch.loggers import Logger  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

from rankscope import sdk
from rankscope.sdk import _session


def _init(project: str | None, name: str | None, config: Mapping[str, object]) -> None:
    """Begin a run; ranks that Lightning itself has started are told who they are, and that they are one run."""
    alone = not (dist.is_available() and dist.is_initialized()) or "RANK" in os.environ or "SLURM_PROCID" in os.environ
    if alone:
        sdk.init(project, name, config)
        return
    local = os.environ.get("LOCAL_RANK", "0")
    launcher = os.getpid() if local == "0" else os.getppid()  # the first rank starts the others
    told = {"RANK": str(dist.get_rank()), "WORLD_SIZE": str(dist.get_world_size()), "LOCAL_RANK": local}
    before = {key: os.environ.get(key) for key in told}
    os.environ.update(told)
    try:
        port = os.environ.get("MASTER_PORT", "")
        sdk.init(project, name, config, id=os.environ.get("RANKSCOPE_RUN_ID") or f"lightning-{launcher}-{port}")
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


class RankscopeLogger(Logger):  # type: ignore[misc] # pyright: ignore[reportUntypedBaseClass]
    """Logs what Lightning modules log, on every rank, with their hyperparameters.

    Begins a run unless `sdk.init()` has begun one.
    """

    def __init__(self, project: str | None = None, name: str | None = None, **config: object) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._project = project
        self._name = name
        self._config = dict(config)

    @property
    def name(self) -> str | None:
        return self._name

    @property
    def version(self) -> str | int | None:
        return None

    def log_hyperparams(self, params: Any, *_args: Any, **_kwargs: Any) -> None:
        given = vars(params) if isinstance(params, Namespace) else params
        self._config.update(given)
        self._begin()

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self._begin()
        sdk.log(dict(metrics), step=step)

    def finalize(self, status: str) -> None:
        if status == "failed":
            sdk.finish(1)

    def _begin(self) -> None:
        if _session.current is None:
            _init(self._project, self._name, self._config)


class RankscopeCallback(Callback):  # type: ignore[misc] # pyright: ignore[reportUntypedBaseClass]
    """Times the phases of each step, marks every step as progress, and watches the model."""

    def __init__(self, *, watch: bool = True, every: int = 100) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self._watch = watch
        self._every = every
        self._phase: AbstractContextManager[None] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if _session.current is None:
            _init(None, None, dict(getattr(pl_module, "hparams", {})))
        if self._watch:
            sdk.watch(pl_module, every=self._every)
        self._enter("data")

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._enter("forward")

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        self._enter("backward")

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        self._enter("forward" if trainer.fit_loop._should_accumulate() else "optimizer")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._enter(None)
        if not trainer.fit_loop._should_accumulate():
            sdk.log({"epoch": trainer.current_epoch}, step=trainer.global_step - 1)
        self._enter("data")

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        self._enter("eval")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._enter(None)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._enter(None)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._enter(None)

    def _enter(self, name: str | None) -> None:
        """Leave the phase that runs and begin another one."""
        if self._phase is not None:
            self._phase.__exit__(None, None, None)
        self._phase = sdk.phase(name) if name else None
        if self._phase is not None:
            self._phase.__enter__()
