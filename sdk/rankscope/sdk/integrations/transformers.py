"""Hugging Face Trainer: `TrainingArguments(report_to="rankscope")`, or `callbacks=[RankscopeCallback()]`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

from transformers import TrainerCallback  # pyright: ignore[reportMissingImports, reportUnknownVariableType]
from transformers.integrations import (  # pyright: ignore[reportMissingImports]
    integration_utils,  # pyright: ignore[reportUnknownVariableType]
)

from rankscope import sdk
from rankscope.sdk import _session


class RankscopeCallback(TrainerCallback):  # type: ignore[misc] # pyright: ignore[reportUntypedBaseClass]
    """Logs what the Trainer logs, on every rank, with the phases of each step; watches the model.

    Begins a run with the Trainer's arguments and the model's configuration, unless `sdk.init()` has begun one. Every
    step counts as progress, however rarely the Trainer logs. Importing this module makes `report_to="rankscope"` known.
    """

    def __init__(self, *, watch: bool = True, every: int = 100) -> None:
        self._watch = watch
        self._every = every
        self._phase: AbstractContextManager[None] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        _begin(args, model)
        if self._watch and model is not None:
            sdk.watch(model, every=self._every)
        self._enter("data")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._enter("forward_backward")

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._enter("forward_backward")

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._enter("optimizer")

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._enter(None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._enter(None)
        sdk.log({} if state.epoch is None else {"epoch": state.epoch}, step=state.global_step)
        self._enter("data")

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        _begin(args, kwargs.get("model"))
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        sdk.log(numbers, step=state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._enter(None)

    def _enter(self, name: str | None) -> None:
        """Leave the phase that runs and begin another one."""
        if self._phase is not None:
            self._phase.__exit__(None, None, None)
        self._phase = sdk.phase(name) if name else None
        if self._phase is not None:
            self._phase.__enter__()


def _begin(args: Any, model: Any) -> None:
    """Begin a run if there is none."""
    if _session.current is not None:
        return
    config = dict(cast("dict[str, object]", args.to_dict()))
    described = getattr(model, "config", None)
    if described is not None and hasattr(described, "to_dict"):
        config["model"] = described.to_dict()
    name = getattr(args, "run_name", None)
    sdk.init(name=name if name and name != args.output_dir else None, config=config)


integration_utils.INTEGRATION_TO_CALLBACK["rankscope"] = RankscopeCallback  # pyright: ignore[reportArgumentType, reportUnknownMemberType]
