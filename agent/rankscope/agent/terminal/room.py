"""Who gets how many lines where there are fewer than all would like."""

from __future__ import annotations

from collections.abc import Sequence


def share(room: int, wanted: Sequence[int], least: Sequence[int], weight: Sequence[int] = ()) -> list[int]:
    """Return lines for each: first what each needs at least, in order; then one by one to who has least for its weight.

    So whoever wants little gets all of it. Without `weight` all weigh the same.
    """
    heavy = weight or [1] * len(wanted)
    given: list[int] = []
    for wish, need in zip(wanted, least, strict=True):
        given.append(max(0, min(wish, need, room - sum(given))))
    while sum(given) < room:
        hungry = [i for i, wish in enumerate(wanted) if given[i] < wish]
        if not hungry:
            break
        given[min(hungry, key=lambda i: given[i] / heavy[i])] += 1
    return given
