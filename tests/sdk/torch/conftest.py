"""What watch() sends, for the tests of models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rankscope.sdk import testing
from rankscope.sdk.torch import _pace


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[testing.Captured]:
    """What is sent; sampling may cost what it likes, so that intervals stay as they are."""
    monkeypatch.setattr(_pace, "BUDGET", 1e9)
    torch.manual_seed(0)
    with testing.capture() as captured:
        yield captured
