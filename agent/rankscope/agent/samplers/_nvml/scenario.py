"""A description of GPUs that are not there, for demonstrations and tests.

A text of lines `key value`. `driver`, `nvml` and `cuda` (as 12080) come first; each line `card` begins a GPU, each line
`mig` a MIG instance of it, and what follows belongs to it: the name of an NVML function with its arguments and the
part of its answer, and what it answers, in NVML's units (`nvmlDeviceGetClockInfo.1 1980`,
`nvmlDeviceGetMemoryInfo.used 68719476736`, `field.82 61`, with a scope `field.186.1 467170`, `gpm.2 47.3`,
`process 4711 compute 5368709120 93`). What is not named is not supported; `error N` answers with an NVML error, `hang`
never answers, `slow 1.5 …` late, and the key `*` stands for every function.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Answers:
    """What one device answers, by key."""

    values: dict[str, str] = field(default_factory=dict[str, str])
    processes: list[list[str]] = field(default_factory=list[list[str]])
    instances: list[Answers] = field(default_factory=list["Answers"])


@dataclass(slots=True)
class Scenario:
    system: dict[str, str] = field(default_factory=dict[str, str])
    cards: list[Answers] = field(default_factory=list[Answers])


def parse(text: str) -> Scenario:
    """Return what a text describes. Raises ValueError, with the line's number, where a line is out of place."""
    scenario = Scenario()
    here: Answers | None = None
    for count, line in enumerate(text.splitlines(), 1):
        key, _, value = line.partition("#")[0].strip().partition(" ")
        value = value.strip()
        if not key:
            continue
        if key == "card":
            here = Answers()
            scenario.cards.append(here)
        elif key == "mig":
            if not scenario.cards:
                raise ValueError(f"line {count}: `mig` before any `card`")
            here = Answers()
            scenario.cards[-1].instances.append(here)
        elif here is None:
            scenario.system[key] = value
        elif key == "process":
            here.processes.append(value.split())
        else:
            here.values[key] = value
    return scenario
