"""What happens inside the model: gradients, weights, updates, activations, learning rate, loss scale, memory."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from rankscope.sdk import _guard as guard
from rankscope.sdk import _session
from rankscope.sdk.torch import _blame, _clipping, _scaler, _spread
from rankscope.sdk.torch._activations import Activations
from rankscope.sdk.torch._later import Later
from rankscope.sdk.torch._layers import census, layers_of, local, names_of
from rankscope.sdk.torch._norms import Norms
from rankscope.sdk.torch._pace import Pace
from rankscope.sdk.torch._readings import frozen, memory, on_host, rates
from rankscope.sdk.torch._updates import Before

Step: TypeAlias = "tuple[tuple[Any, ...], dict[str, Any]]"  # what an optimizer's step is called with

HISTOGRAMS = 4  # parameters a sample; the next sample takes the next ones
RATES_EVERY = 10  # steps between two looks at the learning rates

_watched: weakref.WeakKeyDictionary[Module, Watch] = weakref.WeakKeyDictionary()


def watch(
    model: Module,
    optimizer: Optimizer | None = None,
    *,
    every: int = 100,
    histograms: bool = True,
    activations: bool = True,
) -> None:
    """Watch a model from here on, at every `every`-th step of its optimizer (None: of any that holds its parameters).

    Logged under the names that rules look for: `grad_norm` (before clipping), `first_layer_grad_norm`,
    `last_layer_grad_norm`, `update_ratio`, `unchanged_fraction`, `dead_fraction` and `saturated_fraction` (of the worst
    layer), `lr`, `grad_scale`; and in detail under `grad_norm/`, `gradients/`, `weights/`, `activations/`, `memory/`.
    What the user logs under the same name is left to the user. The first gradient that is not finite is traced to the
    layer where it began.

    `grad_norm_clipped` is what clipping left, at steps where torch's own clipping was seen (`torch.nn.utils`, by
    whatever name). Other code's clipping is not seen: then `grad_norm` is what it left.

    Where parameters are sharded (DTensor: FSDP2, tensor parallel), each rank logs its share of each norm without any
    communication, as `grad_norm_share` and so on: the whole is the root of the sum of the shares' squares over all
    ranks. The agent adds them up where it has all ranks.
    """
    if model in _watched:
        _watched[model].pace.every = max(1, every)
        return
    _watched[model] = Watch(model, optimizer, max(1, every), histograms, activations)


class Watch:
    """One model under watch. All its work is done in hooks around the optimizer's step, on sampled steps."""

    def __init__(
        self, model: Module, optimizer: Optimizer | None, every: int, histograms: bool, activations: bool
    ) -> None:
        self.pace = Pace(every)
        self._model = weakref.ref(model)
        self._names = names_of(model)
        self._layers = layers_of(self._names.values())
        self._order = list(dict.fromkeys(self._layers[name] for name in self._names.values()))
        self._histograms = histograms
        self._activations = Activations(weakref.ref(_blame.bare(model))) if activations else None
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._several = optimizer is None  # another optimizer may be about to make the step that is sampled
        self._later = Later()
        self._call: tuple[tuple[object, ...], Mapping[str, object]] | None = None
        self._broken: bool | None = False  # None: explained
        self._before: Before | None = None
        self._scale = _scaler.Scale(self._later, self._emit, self._scales)
        self._clipping = _clipping.Clipping(self)
        self._turn = 0  # which parameters' histograms come next
        self._hook(model, optimizer)

    def _hook(self, model: Module, optimizer: Optimizer | None) -> None:
        inside = any(getattr(module, "_compiled_call_impl", None) is not None for module in model.modules())
        if not inside:
            model.register_forward_pre_hook(self._called, with_kwargs=True)
        if self._activations is not None and (inside or hasattr(model, "_orig_mod")):
            self._activations = None
            guard.warn("watch:compiled", "watch: activations are not seen, since torch.compile hides the layers")
        if self._activations is not None and not self._activations.listen():
            self._activations = None
            guard.warn(
                "watch:activations", "watch: no activations are seen: none is a module (torch.nn.ReLU and the like)"
            )
        if optimizer is not None:
            self._optimizers.append(weakref.ref(optimizer))
            optimizer.register_step_pre_hook(self._pre)
            optimizer.register_step_post_hook(self._post)
        else:
            for handle in (
                register_optimizer_step_pre_hook(self._pre),
                register_optimizer_step_post_hook(self._post),
            ):
                weakref.finalize(model, handle.remove)  # these two are every optimizer's, whatever becomes of the model
        _scaler.observe(self._scale)
        _clipping.observe(self._clipping)

    def _scales(self, optimizers: set[int]) -> bool:
        """True when a scaler that knows these optimizers scales for this model."""
        return any(id(known()) in optimizers for known in self._optimizers)

    def _called(self, _model: Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled():
            return
        self._clipping.forget()  # of a step that was skipped
        if self._broken is not None:
            self._call = args, kwargs

    def awaits(self) -> bool:
        """True while the step being prepared is to be sampled."""
        return _session.current is not None and (self.pace.near or (self.pace.due and self._several))

    def parameters(self) -> Iterator[Tensor]:
        """Yield what is trained: the model's parameters, and what the optimizers hold besides."""
        yield from () if (model := self._model()) is None else model.parameters()
        for known in self._optimizers:
            for group in cast("list[dict[str, list[Tensor]]]", getattr(known(), "param_groups", [])):
                yield from group["params"]

    # --- around the optimizer's step ---------------------------------------------------------------------------------

    def _pre(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Step | None:
        """Look at the gradients before a step; where a closure makes them, at once after it."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._look(optimizer)
            return None
        looked = False

        def call() -> object:
            nonlocal looked
            loss = closure()
            if not looked:
                looked = True
                self._look(optimizer)
            return loss

        return ((args[0], call, *args[2:]), kwargs) if len(args) > 1 else (args, {**kwargs, "closure": call})

    @guard.guarded(guard.nothing)
    def _look(self, optimizer: Optimizer) -> None:
        session = _session.current
        if session is None or torch.compiler.is_compiling():
            return
        place = self._place(optimizer)
        if place is None:
            return
        started = time.perf_counter()
        self._scale.stepped = True
        self._later.poll()
        if place == 0:
            self.pace.advance(session.step, started)
        with torch.no_grad():
            self._probe(optimizer)
            if self.pace.due or self.pace.steps % RATES_EVERY == 1:
                self._rates(session, optimizer, place)
            if self.pace.due:
                self._sample(session, optimizer, place)
        self.pace.spend(started)

    @guard.guarded(guard.nothing)
    def _post(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        session = _session.current
        if session is None or torch.compiler.is_compiling() or (place := self._place(optimizer)) is None:
            return
        started = time.perf_counter()
        self._call = None
        self._clipping.forget(optimizer)
        if self._before is not None:
            self._compare(session, f"optimizer{place}/" if place else "")
        self.pace.spend(started)
        if self.pace.near and self._activations is not None and session.live.rate("activations") > 0:
            self._activations.stop()
            self._activations.listen()

    def _place(self, optimizer: Optimizer) -> int | None:
        """Return which of the model's optimizers this is, or None where it is another model's."""
        for i, known in enumerate(self._optimizers):
            if known() is optimizer:
                return i
        if not any(id(parameter) in self._names for group in optimizer.param_groups for parameter in group["params"]):
            return None
        self._optimizers.append(weakref.ref(optimizer))
        return len(self._optimizers) - 1

    # --- what is looked at -------------------------------------------------------------------------------------------

    def _emit(self, session: _session.Session, values: Mapping[str, float], step: int, at: int) -> None:
        """Log numbers, but for those that the user logs under the same name."""
        own = {name: value for name, value in values.items() if not session.knows(name)}
        if own:
            session.scalars(own, step, at)

    def _rates(self, session: _session.Session, optimizer: Optimizer, place: int) -> None:
        values = rates(optimizer, f"optimizer{place}/" if place else "")
        self._emit(session, values, self.pace.number, time.monotonic_ns())

    def _probe(self, optimizer: Optimizer) -> None:
        """Look at one small gradient, at every step: what is not finite anywhere behind it arrives there."""
        if self._broken is None:
            return
        if self._broken:
            self._explain(optimizer)
            return
        for parameter in cast("list[dict[str, list[Tensor]]]", optimizer.param_groups)[0]["params"]:
            gradient = parameter.grad
            if gradient is not None and not gradient.is_sparse and (held := local(gradient)).numel():
                self._later.put([held.sum().reshape(1)], self._probed)
                break
        if self._broken and on_host(optimizer):
            self._explain(optimizer)

    def _probed(self, numbers: list[float]) -> None:
        if self._broken is not None and not math.isfinite(numbers[0]):
            self._broken = True

    def _explain(self, optimizer: Optimizer) -> None:
        """Say once where the first value that is not finite came from."""
        model, session = self._model(), _session.current
        self._broken = None
        if model is None or session is None:
            return
        found = _blame.explain(model, self._call, census(optimizer, self._names))
        step = self.pace.number
        text = f"At step {step} a gradient is not finite.\n\n{found}"
        session.event("text", {"tag": "watch/first_nonfinite", "value": text}, step=step)
        self._call = None

    def _sample(self, session: _session.Session, optimizer: Optimizer, place: int) -> None:
        found = census(optimizer, self._names, self._clipping.seen)
        step, at = self.pace.number, time.monotonic_ns()
        prefix = f"optimizer{place}/" if place else ""
        if found.sharded:
            guard.warn("watch:sharded", "watch: the model is sharded: each rank logs its share, as grad_norm_share")
        self._before = Before(found)
        for name in found.trained:
            self._layers.setdefault(name, name.rpartition(".")[0] or name)
        norms = Norms(found, self._layers, self._order)

        def measured(numbers: list[float]) -> None:
            if _session.current is not None:
                self._emit(_session.current, norms.values(numbers, prefix), step, at)

        scale = cast("Tensor | None", getattr(optimizer, "grad_scale", None))
        self._later.put(norms.vectors(scale), measured)
        idle = found.idle / found.parameters if found.parameters else 0.0
        self._emit(session, {f"{prefix}no_gradient_fraction": idle, **frozen(self._model()), **memory()}, step, at)
        if place == 0 and self._activations is not None:
            self._activations.send(self._later, lambda session, values: self._emit(session, values, step, at))
        if self._histograms and session.live.rate("histograms") > 0:
            most = max(1, round(HISTOGRAMS * min(1.0, session.live.rate("histograms"))))
            _spread.send(found, self._turn, most, step, self._later)
            self._turn += most

    def _compare(self, session: _session.Session, prefix: str) -> None:
        """Log how much the step changed the weights."""
        before, self._before = self._before, None
        if before is None:
            return
        with torch.no_grad():
            vectors = before.compare()
        step, at = self.pace.number, time.monotonic_ns()

        def compared(numbers: list[float]) -> None:
            change, size, unchanged, elements = (sum(numbers[i::4]) for i in range(4))
            values: dict[str, float] = {}
            if size > 0:
                values[f"{prefix}update_ratio"] = math.sqrt(change / size)
            if elements + before.idle:
                values[f"{prefix}unchanged_fraction"] = (unchanged + before.idle) / (elements + before.idle)
            elif not before.trains:
                values[f"{prefix}unchanged_fraction"] = 1.0
            self._emit(session, values, step, at)

        self._later.put(vectors, compared)
