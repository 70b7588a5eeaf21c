"""nvidia-ml-py, which has no types: whoever calls it checks what it gets."""

from __future__ import annotations

import importlib
from typing import Any

nvml: Any = importlib.import_module("pynvml")

ODD = (AttributeError, TypeError, ValueError, LookupError, MemoryError)
"""What nvidia-ml-py raises, beside NVMLError, where it lacks a function or is given an answer that cannot be: text that
is no UTF-8, a list longer than the room for it."""
