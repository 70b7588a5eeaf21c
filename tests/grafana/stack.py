"""A real agent with a real training, and a real Prometheus with the shipped rules that scrapes it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from rankscope.agent.demo import stage

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules"


@dataclass
class Prometheus:
    """A running Prometheus; it takes new targets within a second."""

    url: str
    targets: Path

    def scrape(self, addresses: Sequence[str], job: str = "rankscope") -> None:
        names = [address.removeprefix("http://") for address in addresses]
        self.targets.write_text(json.dumps([{"targets": names, "labels": {"job": job}}]))

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the result of an instant query. Raises AssertionError with Prometheus' own words."""
        parameters = {"query": expression} | ({"time": str(at)} if at is not None else {})
        return self._ask("query", parameters)

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        return self._ask("query_range", {"query": expression, "start": str(start), "end": str(end), "step": str(step)})

    def label_values(self, metric: str, label: str) -> list[str]:
        url = f"{self.url}/api/v1/label/{label}/values"
        values: list[str] = httpx.get(url, params={"match[]": metric}).json()["data"]
        return values

    def _ask(self, kind: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
        answer = httpx.post(f"{self.url}/api/v1/{kind}", data=parameters, timeout=30.0).json()
        assert answer["status"] == "success", (answer, parameters["query"])
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def wait(
        self, expression: str, holds: Callable[[list[dict[str, Any]]], bool] = bool, patience: float = 60.0
    ) -> Any:
        """Wait until the answer to a query is as wanted, and return it."""
        deadline = time.monotonic() + patience
        while not holds(found := self.query(expression)):
            assert time.monotonic() < deadline, f"after {patience:g} s {expression} is {found}"
            time.sleep(0.2)
        return found


@contextlib.contextmanager
def prometheus(
    program: str, folder: Path, alertmanager: str = "", rules: Path = RULES
) -> Generator[Prometheus, None, None]:
    """Run Prometheus with the shipped rules, everything once a second."""
    targets = folder / "targets.json"
    targets.write_text("[]")
    config: dict[str, object] = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [f"{rules}/*.yaml"],
        "scrape_configs": [
            {"job_name": "rankscope", "file_sd_configs": [{"files": [str(targets)], "refresh_interval": "1s"}]}
        ],
    }
    if alertmanager:
        config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{stage.free_port()}"
    command = [program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    command += [f"--web.listen-address={address}"]
    with stage.server("Prometheus", command, f"http://{address}", folder / "prometheus.log"):
        yield Prometheus(f"http://{address}", targets)
