"""GPUs that are not there: the same table is read, from a scenario instead of a driver, and says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from importlib.resources import files
from types import SimpleNamespace

from rankscope.agent.runs.rank import Rank
from rankscope.agent.runs.state import Node
from rankscope.agent.samplers._nvml.api import nvml
from rankscope.agent.samplers._nvml.device import Device
from rankscope.agent.samplers._nvml.reading import Look
from rankscope.agent.samplers._nvml.reads import ALL_LINKS
from rankscope.agent.samplers._nvml.scenario import Answers, Scenario, parse

_AVERAGE = 0.35  # weight of the newest second in what the card shows, as its own averaging does
_HEAT = 0.06  # share of the way to its final temperature that a card goes in a second


class Simulated:
    """Cards that react to the ranks of the node: busy while they step, and then warm, hungry and full."""

    def __init__(self, scenario: str = "") -> None:
        """`scenario`: file to read, "" for two cards like H100s. Raises OSError and ValueError when it is no good."""
        if scenario:
            with open(scenario, encoding="utf-8") as file:
                text = file.read()
        else:
            text = files("rankscope.agent.samplers._nvml").joinpath("simulated.scenario").read_text()
        self._scenario = parse(text)
        self._cards = [_Card(answers) for answers in self._scenario.cards]
        api = _Nvml(self._scenario)
        driver = self._scenario.system.get("driver", "")
        self._devices = [Device(api, i, card.answers, card.profile, driver) for i, card in enumerate(self._cards)]
        self._last = 0.0
        self._looks = 0

    def look(self, node: Node, now: float) -> Look:
        seconds = min(max(0.0, now - self._last), 60.0) if self._last else 0.0
        self._last = now
        by_card: dict[int, list[Rank]] = {}
        for run in tuple(node.runs.values()):
            for rank in tuple(run.ranks.values()):
                if self._cards and rank.state(now) == "running":
                    by_card.setdefault(rank.info.local_rank % len(self._cards), []).append(rank)
        for i, card in enumerate(self._cards):
            card.advance(by_card.get(i, []), seconds, now)
        slow = self._looks % 10 == 0
        self._looks += 1
        versions = {
            "driver_version": self._scenario.system.get("driver", ""),
            "nvml_version": self._scenario.system.get("nvml", ""),
            "cuda_version": "",
        }
        return Look(versions, [device.read(slow) for device in self._devices], simulated=True)

    def close(self) -> None:
        """Nothing is held."""


class _Card:
    """The state of one simulated card: what its ranks do to it."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.busy = 0.0  # ratio of time
        self._idle_watts = self._number("nvmlDeviceGetPowerUsage", 70_000) / 1000
        self._limit_watts = self._number("nvmlDeviceGetEnforcedPowerLimit", 700_000) / 1000
        self._idle_celsius = self._number("nvmlDeviceGetTemperature.0", 32)
        self._celsius = self._idle_celsius
        self._joules = self._number("nvmlDeviceGetTotalEnergyConsumption", 0) / 1000
        self._size = self._number("nvmlDeviceGetMemoryInfo.total", 80 << 30)
        self._base = self._number("nvmlDeviceGetMemoryInfo.used", 0)
        self._filled = 0.0  # ratio of memory that the ranks hold

    def _number(self, key: str, default: float) -> float:
        return float(self.answers.values.get(key, default))

    def profile(self, handle: object, instance: int | None) -> _Card:
        return self

    def advance(self, ranks: list[Rank], seconds: float, now: float) -> None:
        """Let `seconds` pass with these ranks on the card."""
        working = max((_compute_share(rank) for rank in ranks if _steps(rank, now)), default=0.0)
        if seconds:
            weight = 1 - (1 - _AVERAGE) ** seconds
            self.busy += weight * (working - self.busy)
            self._filled += weight * ((0.55 if ranks else 0.0) - self._filled)
        watts = self._idle_watts + (0.92 * self._limit_watts - self._idle_watts) * self.busy
        goal = self._idle_celsius + 38 * self.busy
        self._celsius += (1 - (1 - _HEAT) ** seconds) * (goal - self._celsius)
        self._joules += watts * seconds
        used = self._base + self._filled * (self._size - self._base)
        self.answers.values.update(
            {
                "nvmlDeviceGetUtilizationRates.gpu": str(round(100 * self.busy)),
                "nvmlDeviceGetUtilizationRates.memory": str(round(55 * self.busy)),
                "nvmlDeviceGetPowerUsage": str(round(watts * 1000)),
                "nvmlDeviceGetTemperature.0": str(round(self._celsius)),
                "field.82": str(round(self._celsius + 6)),
                "nvmlDeviceGetTotalEnergyConsumption": str(round(self._joules * 1000)),
                "nvmlDeviceGetMemoryInfo.used": str(round(used)),
                "gpm.2": f"{88 * self.busy:.2f}",
                "gpm.3": f"{31 * self.busy:.2f}",
                "gpm.5": f"{42 * self.busy:.2f}",
                "gpm.10": f"{55 * self.busy:.2f}",
            }
        )
        share = (used - self._base) / len(ranks) if ranks else 0.0
        self.answers.processes = [
            [str(rank.info.pid), "compute", str(round(share)), str(round(100 * self.busy / len(ranks)))]
            for rank in ranks
            if rank.info.pid
        ]

    def read(self, metrics: Iterable[int]) -> dict[int, float]:
        """Give profiling metrics, as a device's profile does."""
        values = self.answers.values
        return {metric: float(values[f"gpm.{metric}"]) for metric in metrics if f"gpm.{metric}" in values}


def _steps(rank: Rank, now: float) -> bool:
    """Say whether the rank is at work: its next step is not long overdue."""
    usual = float(rank.step_seconds.value[-1]) if len(rank.step_seconds) else 0.0
    return bool(rank.steps) and now - rank.last_step_time < max(2.0, 3 * usual)


def _compute_share(rank: Rank) -> float:
    """Return which part of the rank's last steps was not waiting for data, 0.03 to 0.98."""
    total = sum(float(series.value[-8:].sum()) for series in tuple(rank.phases.values()) if len(series))
    data = rank.phases.get("data")
    waited = float(data.value[-8:].sum()) if data is not None and len(data) else 0.0
    share = 1 - waited / total if total > 0 and math.isfinite(waited / total) else 0.95
    return min(0.98, max(0.03, share))


class _Nvml:
    """Answers as nvidia-ml-py does, from a scenario; handles are the cards' answers."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def nvmlDeviceGetFieldValues(self, answers: Answers, ids: list[tuple[int, int]]) -> list[SimpleNamespace]:  # noqa: N802
        found: list[SimpleNamespace] = []
        for field, scope in ids:
            text = answers.values.get(f"field.{field}" + (f".{scope}" if scope not in (0, ALL_LINKS) else ""))
            value = SimpleNamespace(dVal=float(text or 0))
            code = nvml.NVML_SUCCESS if text is not None else nvml.NVML_ERROR_NOT_SUPPORTED
            found.append(SimpleNamespace(nvmlReturn=code, valueType=0, value=value))
        return found

    def nvmlDeviceGetComputeRunningProcesses(self, answers: Answers) -> list[SimpleNamespace]:  # noqa: N802
        return [SimpleNamespace(pid=int(each[0]), usedGpuMemory=int(each[2])) for each in answers.processes]

    def nvmlDeviceGetGraphicsRunningProcesses(self, answers: Answers) -> list[SimpleNamespace]:  # noqa: N802
        return []

    def nvmlDeviceGetProcessUtilization(self, answers: Answers, since: int) -> list[SimpleNamespace]:  # noqa: N802
        return [
            SimpleNamespace(pid=int(each[0]), timeStamp=since + 1, smUtil=int(each[3])) for each in answers.processes
        ]

    def __getattr__(self, function: str) -> Callable[..., object]:
        def answer(answers: Answers, *arguments: object) -> object:
            exact = answers.values.get(".".join([function, *(str(each) for each in arguments)]))
            if exact is not None:
                return _value(exact)
            prefix = f"{function}."
            parts = {k.removeprefix(prefix): _value(v) for k, v in answers.values.items() if k.startswith(prefix)}
            if parts and not any(part.isdigit() for part in parts):
                return SimpleNamespace(**parts)
            if parts and not arguments:
                return [parts[part] for part in sorted(parts, key=int)]
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)

        return answer


def _value(text: str) -> object:
    word, _, code = text.partition(" ")
    if word == "error" and code.isdigit():
        raise nvml.NVMLError(int(code))
    try:
        return int(text, 0)
    except ValueError:
        return text
