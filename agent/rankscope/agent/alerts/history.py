"""`alerts.jsonl` in a run's folder: every alert that fired and was resolved, with its evidence."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from rankscope.agent.alerts.alert import Alert
from rankscope.agent.alerts.render import number, one
from rankscope.agent.alerts.settings import Settings

log = logging.getLogger(__name__)


class History:
    """Appends to the runs' folders; what cannot be written is counted in `failures` and said once."""

    def __init__(self, runs_dir: Path | None, settings: Settings, hostname: str) -> None:
        self.failures = 0
        self._runs_dir = runs_dir
        self._settings = settings
        self._hostname = hostname

    def append(self, alert: Alert, now: float) -> None:
        scope = alert.key.scope
        if self._runs_dir is None or not scope.run:
            return
        # Agents of several nodes may share the folder over a network file system, where appends from two machines
        # overwrite each other: only the agent that holds rank 0 writes the plain name.
        name = "alerts.jsonl" if alert.leads else f"alerts.{self._hostname}.jsonl"
        path = self._runs_dir / scope.project / scope.run / name
        line = json.dumps(self._line(alert, now), ensure_ascii=False, allow_nan=False) + "\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab") as file:
                file.write(line.encode())
        except OSError as error:
            if not self.failures:
                log.error("alerts cannot be kept in %s: %s", path, error.strerror)
            self.failures += 1

    def _line(self, alert: Alert, now: float) -> dict[str, object]:
        evidence = alert.evidence
        return {
            "time": round(now, 3),
            **one(alert, self._settings, self._hostname),
            "step": evidence.step,
            "value": number(evidence.value) or None,
            "ranks": list(alert.ranks),
            "causes": [{"cause": c.cause, "evidence": c.evidence, "fix": c.fix} for c in evidence.causes],
        }
