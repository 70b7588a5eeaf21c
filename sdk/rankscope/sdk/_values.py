"""From what users log to numbers, without importing what they made them with."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, SupportsFloat, TypeAlias, cast

MAX_DEPTH = 16
MAX_VALUES = 20_000  # of nested dicts in one call: of dicts that hold each other there may be any number
SEPARATOR = "/"

Refuse: TypeAlias = "Callable[[str, str, str], None]"  # takes reason, name and message


class NotANumber(Exception):
    """What was logged is no number."""


class NestedTooDeep:
    """Stands for a dict that lies too deep, or within itself."""


class Tensor(Protocol):
    """What a tensor of any framework looks like from here."""

    def detach(self) -> Tensor: ...
    def numel(self) -> int: ...
    def item(self) -> object: ...
    @property
    def device(self) -> object: ...


class Mesh(Protocol):
    def size(self, dim: int) -> int: ...


class Placement(Protocol):
    def is_replicate(self) -> bool: ...


class Spread(Protocol):
    """A DTensor: FSDP2's gradient norm is one."""

    def detach(self) -> Spread: ...
    def to_local(self) -> object: ...
    @property
    def device_mesh(self) -> Mesh: ...
    @property
    def placements(self) -> Sequence[Placement]: ...


def is_tensor(value: object) -> bool:
    """True for a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    kind = getattr(torch, "Tensor", None)
    return isinstance(kind, type) and isinstance(value, kind)


def whole(value: object) -> object:
    """Return what this process holds of a DTensor, anything else as it is.

    Raises NotANumber where the value is spread over ranks: to put it together would be a collective.
    """
    placements = getattr(value, "placements", None)
    if placements is None or not is_tensor(value):
        return value
    spread = cast("Spread", value)
    if any(spread.device_mesh.size(dim) > 1 and not one.is_replicate() for dim, one in enumerate(spread.placements)):
        raise NotANumber("a DTensor spread over ranks (its full_tensor() is whole)")
    return spread.detach().to_local()


def on_device(value: object) -> bool:
    """True for a tensor whose value would have to be waited for."""
    return is_tensor(value) and str(getattr(getattr(value, "device", None), "type", "cpu")) != "cpu"


def number(value: object) -> float:
    """Return a Python or numpy number or a tensor of one element on the CPU as a float. Raises NotANumber."""
    if isinstance(value, (float, int)):
        try:
            return float(value)
        except OverflowError:
            raise NotANumber("an integer too large for a float") from None
    if is_tensor(value):
        tensor = cast("Tensor", value)
        if tensor.numel() != 1:
            raise NotANumber(f"a tensor of {tensor.numel()} elements")
        return number(tensor.detach().item())
    if isinstance(value, (str, bytes, bytearray, complex)) or not isinstance(value, SupportsFloat):
        raise NotANumber(type(value).__name__)
    if getattr(value, "size", 1) != 1 or getattr(value, "shape", ()) not in ((), (1,)):
        raise NotANumber(f"an array of shape {getattr(value, 'shape', '?')}")
    item = getattr(value, "item", None)
    if callable(item):
        value = item()
        if isinstance(value, (float, int)):
            return float(value)
    try:
        return float(cast("SupportsFloat", value))
    except (TypeError, ValueError, OverflowError):
        raise NotANumber(type(value).__name__) from None


def flatten(metrics: Mapping[object, object], prefix: str, refuse: Refuse) -> Iterator[tuple[str, object]]:
    """Yield names and values; nested mappings join with `/`."""
    for number, found in enumerate(_walk(metrics, prefix, ())):
        if number >= MAX_VALUES:
            refuse("too_many_names", "", f"there are more than {MAX_VALUES} values in a dict: the rest is dropped")
            return
        yield found


def _walk(metrics: Mapping[object, object], prefix: str, above: tuple[object, ...]) -> Iterator[tuple[str, object]]:
    above = (*above, metrics)
    for key, value in metrics.items():
        name = prefix + (str.__str__(key) if isinstance(key, str) else str(key))  # of an Enum of strings, its value
        if not isinstance(value, Mapping):
            yield name, value
        elif len(above) > MAX_DEPTH or any(value is one for one in above):
            yield name, NestedTooDeep()
        else:
            yield from _walk(cast("Mapping[object, object]", value), name + SEPARATOR, above)


def merge(metrics: object, scalars: Mapping[str, object], refuse: Refuse) -> Mapping[str, object]:
    """Return what was given as a dict and by name as one flat mapping."""
    if not isinstance(metrics, Mapping):
        kind = type(metrics).__name__
        hint = "; the step goes in by name: step=…" if isinstance(metrics, int) else ""
        refuse("bad_argument", "", f"the first argument is of type {kind}, no dict of metrics: dropped{hint}")
        return scalars
    given = cast("Mapping[object, object]", metrics)
    if not scalars and isinstance(metrics, dict):
        for name, value in given.items():
            if type(name) is not str or isinstance(value, Mapping):
                break
        else:
            return cast("Mapping[str, object]", given)
    return {**dict(flatten(given, "", refuse)), **scalars}


def sort_out(values: Mapping[str, object], refuse: Refuse) -> tuple[dict[str, float], dict[str, object]]:
    """Return the numbers, and the tensors that are still on a device; what is neither is refused."""
    numbers: dict[str, float] = {}
    late: dict[str, object] = {}
    for name, value in values.items():
        if type(value) is float:
            numbers[name] = value
        elif type(value) is int and -(2**53) <= value <= 2**53:
            numbers[name] = float(value)
        elif isinstance(value, Mapping):
            for inner, part in flatten(cast("Mapping[object, object]", value), name + SEPARATOR, refuse):
                _sort(inner, part, numbers, late, refuse)
        else:
            _sort(name, value, numbers, late, refuse)
    return numbers, late


def _sort(name: str, value: object, numbers: dict[str, float], late: dict[str, object], refuse: Refuse) -> None:
    try:
        value = whole(value)
        if on_device(value):
            late[name] = value
        else:
            numbers[name] = number(value)
    except NotANumber as error:
        refuse("not_a_number", name, f"{name} is dropped: {error} is no number")
    except Exception as error:  # noqa: BLE001 (an object of the user's whose conversion fails)
        refuse("not_a_number", name, f"{name} is dropped: {type(error).__name__} when it was made a number")


def clean(text: object, most: int) -> str:
    """Return something as text that can travel: valid Unicode of at most `most` characters."""
    string = text if isinstance(text, str) else str(text)
    if len(string) > most:
        string = string[: most - 1] + "…"
    return string.encode("utf-8", "replace").decode()
