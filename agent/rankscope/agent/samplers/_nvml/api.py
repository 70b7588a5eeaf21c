"""nvidia-ml-py, which has no types: whoever calls it checks what it gets."""

from __future__ import annotations

import importlib
from typing import Any

nvml: Any = importlib.import_module("pynvml")
