"""Images of every common kind as PNG: arrays, tensors, PIL images, matplotlib figures."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast, runtime_checkable

from rankscope.sdk import _png

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_SIDE = 2048  # pixels; larger images are thinned out


class Image(NamedTuple):
    """A PNG and what TensorBoard wants to know of it."""

    png: bytes
    height: int
    width: int
    channels: int


@runtime_checkable
class Figure(Protocol):
    """A matplotlib figure."""

    def savefig(self, fname: object, *, format: str) -> None: ...  # noqa: A002


@runtime_checkable
class Picture(Protocol):
    """A PIL image."""

    mode: str
    size: tuple[int, int]

    def convert(self, mode: str) -> Picture: ...
    def tobytes(self) -> bytes: ...


def encode(value: object) -> Image:
    """Return an image as PNG. Raises ValueError and TypeError where it is none."""
    if isinstance(value, Figure):
        file = io.BytesIO()
        value.savefig(file, format="png")
        png = file.getvalue()
        return Image(png, int.from_bytes(png[20:24], "big"), int.from_bytes(png[16:20], "big"), 4)
    if isinstance(value, Picture):
        picture = value if value.mode in ("L", "RGB", "RGBA") else value.convert("RGB")
        (width, height), channels = picture.size, len(picture.mode)
        channels = 1 if picture.mode == "L" else channels
        return Image(_png.encode(picture.tobytes(), height, width, channels), height, width, channels)
    pixels = _pixels(as_array(value))
    height, width, channels = pixels.shape
    return Image(_png.encode(pixels.tobytes(), height, width, channels), height, width, channels)


def as_array(value: object) -> NDArray[Any]:
    """Return a tensor, array or nested list as an array in this process' memory. Raises TypeError."""
    import numpy as np

    if "torch" in sys.modules and hasattr(value, "detach"):
        tensor = cast(Any, value).detach()
        tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
        tensor = tensor.cpu()
        value = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    array: NDArray[Any] = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{type(value).__name__} holds no numbers")
    return array


def _pixels(value: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an array of H×W, H×W×C or C×H×W as bytes of H×W×C; floats go from 0 to 1."""
    import numpy as np

    array = cast(Any, value)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3:
        raise ValueError(f"an image has 2 or 3 dimensions, not {array.ndim}")
    if array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.shape[2] not in (1, 3, 4):
        raise ValueError(f"an image has 1, 3 or 4 channels: {array.shape} has none such")
    thin = max(1, -(-max(array.shape[:2]) // MAX_SIDE))
    array = array[::thin, ::thin]
    if array.dtype.kind == "f":
        array = np.nan_to_num(array, nan=0.0, posinf=1.0, neginf=0.0) * 255.0 + 0.5
    elif array.dtype.kind == "b":
        array = array * 255
    return np.ascontiguousarray(array.clip(0, 255).astype(np.uint8))
