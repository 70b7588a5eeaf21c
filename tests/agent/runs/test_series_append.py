"""A window takes points one by one as it takes them together."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rankscope.agent.runs.series import Series


@given(st.lists(st.tuples(st.integers(0, 40), st.floats(allow_nan=False)), max_size=300), st.integers(1, 80))
def test_append_does_what_extend_does(points: list[tuple[int, float]], window: int) -> None:
    one, many = Series("one", window), Series("many", window)
    for i, (step, value) in enumerate(points):
        one.append(step, float(i), value)
    many.extend(
        np.array([step for step, _ in points], np.int64),
        np.arange(len(points), dtype=np.float64),
        np.array([value for _, value in points], np.float64),
    )
    assert one.step.tolist() == many.step.tolist()
    assert one.time.tolist() == many.time.tolist()
    assert one.value.tolist() == many.value.tolist()
    assert (one.count, one.returns) == (many.count, many.returns)
