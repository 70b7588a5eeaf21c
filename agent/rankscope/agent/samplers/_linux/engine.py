"""The container engine's own names for its containers, asked over its socket where it has one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from rankscope.agent.samplers._linux.workload import Workload

SOCKETS = ("var/run/docker.sock", "run/podman/podman.sock")
_AGAIN = 60.0  # seconds after which an engine that did not answer is asked again


@dataclass(slots=True)
class Engine:
    """Docker, or Podman where it speaks Docker's API: one read-only request for each container, once.

    Two lines of HTTP instead of the `docker` package, which would cost 25 MB of memory for them.
    """

    root: str = "/"
    _known: dict[str, Workload] = field(default_factory=dict[str, Workload], init=False)
    _ask_at: dict[str, float] = field(default_factory=dict[str, float], init=False)  # by container; "" is the engine

    def name(self, found: Workload, now: float) -> Workload:
        """Return what a process runs in with the container's name, image and compose service, if the engine tells."""
        if not found.container_id or found.pod_uid:
            return found  # a pod's containers are the kubelet's
        name = found.container_id
        if name not in self._known and now >= max(self._ask_at.get("", 0.0), self._ask_at.get(name, 0.0)):
            try:
                self._known[name] = self._ask(found)
            except LookupError:  # another engine's container: those of this one are asked for all the same
                self._ask_at[name] = now + _AGAIN
            except OSError:
                self._ask_at[""] = now + _AGAIN
        return self._known.get(name, found)

    def _ask(self, found: Workload) -> Workload:
        """Raises LookupError when the engines that answer do not know the container, OSError when none does."""
        answered = False
        for relative in SOCKETS:
            path = f"{self.root.rstrip('/')}/{relative}"
            if not os.path.exists(path):
                continue
            try:
                with httpx.Client(transport=httpx.HTTPTransport(uds=path), timeout=2.0) as client:
                    answer = client.get(f"http://engine/containers/{found.container_id}/json")
                    answered = answered or answer.status_code == 404
                    tree: Any = answer.raise_for_status().json()
                config: Any = tree["Config"]
                labels: Any = config.get("Labels") or {}
                return replace(
                    found,
                    container=str(tree["Name"]).lstrip("/") or found.container,
                    image=str(config["Image"]),
                    service=str(labels.get("com.docker.compose.service", "")),
                )
            except (httpx.HTTPError, ValueError, LookupError, TypeError, AttributeError):
                continue  # not allowed to, another engine's container, or no engine any more
        raise LookupError(found.container_id) if answered else ConnectionError("no engine answers")
