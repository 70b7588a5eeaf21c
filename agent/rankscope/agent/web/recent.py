"""What was lately, in few numbers: how a loss went, what a rank's steps and a GPU's seconds were spent on."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.series import Series
from rankscope.agent.runs.state import Node

STRETCHES = 32  # numbers that a curve is told in
SECONDS = 10.0  # of a GPU's life that its states are told of


def loss_curve(series: Series) -> list[float]:
    """Return at most STRETCHES means of the points in memory, oldest first; one that is not finite is in its mean."""
    value = series.value
    if len(value) <= STRETCHES:
        return [float(each) for each in value]
    edges = np.linspace(0, len(value), STRETCHES + 1).astype(int)
    with np.errstate(invalid="ignore", over="ignore"):
        return [float(each) for each in np.add.reduceat(value, edges[:-1]) / np.diff(edges)]


def phase_shares(rank: Rank, steps: int) -> dict[str, float]:
    """Return the ratio of its last `steps` steps that a rank spent in each phase; what is left it did not time."""
    took = rank.step_seconds
    if not len(took):
        return {}
    newest = took.value[-steps:]
    since = float(took.time[-len(newest)]) - float(newest[0])
    spent: dict[str, float] = {}
    for name, phase in tuple(rank.phases.items()):
        seconds = float(np.nansum(phase.value[phase.time > since]))
        if seconds > 0:
            spent[name] = seconds
    # A phase's seconds come with its step: what the first one began before its step counts may exceed the steps.
    total = max(float(newest.sum()), sum(spent.values()))
    return {name: seconds / total for name, seconds in spent.items()}


def gpu_states(node: Node) -> dict[str, dict[str, float]]:
    """Return, by the uuid of each GPU, which ratio of the last SECONDS it was in each state."""
    spent: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for (_, uuid, state), window in tuple(node.windows("gpu_state_seconds_total")):
        if len(window) > 1:
            first = int(np.searchsorted(window.time, float(window.time[-1]) - SECONDS))
            first = min(first, len(window) - 2)
            spent[uuid][state] = max(0.0, float(window.value[-1]) - float(window.value[first]))
    return {
        uuid: {state: seconds / total for state, seconds in states.items() if seconds}
        for uuid, states in spent.items()
        if (total := sum(states.values())) > 0
    }
