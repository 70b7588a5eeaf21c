"""A model's graph, as torch itself traces it: with stand-ins for tensors, so that nothing is computed or changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TypeAlias, cast

import torch
from torch.fx import Node
from torch.nn import Module

from rankscope.sdk import _guard as guard
from rankscope.sdk import _session

GraphNode: TypeAlias = "tuple[str, str, list[str], list[int] | None]"  # name, operation, inputs, shape

MAX_NODES = 20_000


def log_graph(tag: str, model: Module, inputs: object, step: int | None) -> None:
    """Trace a model and send its graph; without inputs, at its next call."""
    if inputs is None:

        def traced(module: Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            handle.remove()
            _try(tag, module, args, kwargs, step)

        handle = model.register_forward_pre_hook(traced, with_kwargs=True)
    elif isinstance(inputs, Mapping):
        _try(tag, model, (), dict(cast("Mapping[str, object]", inputs)), step)
    else:
        _try(tag, model, inputs if isinstance(inputs, tuple) else (inputs,), {}, step)  # pyright: ignore[reportUnknownArgumentType]


def _try(tag: str, model: Module, args: tuple[object, ...], kwargs: dict[str, object], step: int | None) -> None:
    try:
        nodes = trace(model, args, kwargs)
    except Exception as error:  # noqa: BLE001 (a tracer may raise anything; a model that it cannot trace is no fault)
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        guard.warn("graph", f"sdk.graph: {tag} cannot be traced: {type(error).__name__}: {reason[:200]}")
        return
    _session.media("graph", tag, json.dumps(nodes).encode(), {"nodes": len(nodes)}, step)


def trace(model: Module, args: tuple[object, ...], kwargs: dict[str, object]) -> list[GraphNode]:
    """Return the nodes of a model's graph, named by the modules that they belong to. Raises what the tracer raises."""
    bare = getattr(model, "_orig_mod", model)
    bare = getattr(bare, "module", bare) if type(bare).__name__ == "DistributedDataParallel" else bare
    with torch.no_grad():
        program = torch.export.export(bare, args, kwargs, strict=False)
    names: dict[Node, str] = {}
    taken: set[str] = set()
    nodes: list[GraphNode] = []
    parameters = dict(program.graph_signature.inputs_to_parameters)
    buffers = dict(program.graph_signature.inputs_to_buffers)
    for node in program.graph.nodes:
        held = parameters.get(node.name) or buffers.get(node.name)
        name = held.replace(".", "/") if held else "/".join([*_scope(node), node.name])
        while name in taken:
            name += "_"
        taken.add(name)
        names[node] = name
        operation = "parameter" if held else str(node.target).removeprefix("aten.") if node.op != "output" else "output"
        shape = getattr(node.meta.get("val"), "shape", None)
        known = [int(size) for size in shape] if shape is not None and all(isinstance(n, int) for n in shape) else None
        nodes.append((name, operation, [names[source] for source in node.all_input_nodes if source in names], known))
        if len(nodes) >= MAX_NODES:
            break
    return nodes


def _scope(node: Node) -> list[str]:
    """Return the path of the module that a node belongs to."""
    stack = cast("Mapping[str, tuple[str, object]]", node.meta.get("nn_module_stack") or {})
    paths: Iterable[str] = [path for path, _ in stack.values()]
    deepest = next(iter(reversed(list(paths))), "")
    return [part for part in str(deepest).split(".") if part]
