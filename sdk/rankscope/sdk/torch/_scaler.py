"""The loss scale of mixed precision, seen when a GradScaler updates it: also while it skips every step."""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TypeAlias, cast

from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from rankscope.sdk import _guard as guard
from rankscope.sdk import _session
from rankscope.sdk.torch._later import Later

Emit: TypeAlias = "Callable[[_session.Session, Mapping[str, float], int, int], None]"

EVERY = 10  # updates between two looks while nothing is skipped


class Scale:
    """Logs `grad_scale` and `skipped_steps`. `stepped` is set by each step that the optimizer makes."""

    def __init__(self, later: Later, emit: Emit, mine: Callable[[set[int]], bool]) -> None:
        """`mine` tells whether optimizers, by identity, are those that are watched."""
        self.mine = mine
        self.stepped = True
        self._later = later
        self._emit = emit
        self._updates = self._skipped = 0

    def updated(self, scale: Tensor) -> None:
        """A scaler has updated its scale: called also after steps that it skipped."""
        session = _session.current
        if session is None:
            return
        self._updates += 1
        skipped, self.stepped = not self.stepped, False
        self._skipped += skipped
        if not skipped and self._updates > EVERY and self._updates % EVERY:
            return
        step, at, skips = session.step + 1, time.monotonic_ns(), float(self._skipped)
        self._later.put(
            [scale.reshape(1)],
            lambda numbers: self._emit(session, {"grad_scale": numbers[0], "skipped_steps": skips}, step, at),
        )
        self._later.poll()


_scales: weakref.WeakSet[Scale] = weakref.WeakSet()
_wrapped = False


def observe(scale: Scale) -> None:
    """Tell of each update of any scaler from now on."""
    global _wrapped
    _scales.add(scale)
    if _wrapped:
        return
    _wrapped = True
    original = cast("Callable[..., None]", GradScaler.update)

    @functools.wraps(original)
    def update(self: GradScaler, *args: object, **kwargs: object) -> None:
        states = cast("Mapping[int, object]", getattr(self, "_per_optimizer_states", {}))
        optimizers = set(states)  # the update forgets them
        original(self, *args, **kwargs)
        _tell(self, optimizers)

    GradScaler.update = update  # type: ignore[method-assign]


@guard.guarded(guard.nothing)
def _tell(scaler: GradScaler, optimizers: set[int]) -> None:
    held = cast("Tensor | None", getattr(scaler, "_scale", None))
    if held is not None:
        for scale in [scale for scale in _scales if scale.mine(optimizers)]:
            scale.updated(held.detach())
