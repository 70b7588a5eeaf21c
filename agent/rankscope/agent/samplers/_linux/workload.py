"""Whose container, pod or job a process belongs to, from its control groups and mounts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from rankscope.agent.samplers._linux.files import Files

# Paths as container runtimes write them, with systemd's slices and without:
#   /docker/<id>, /system.slice/docker-<id>.scope, /kubepods/burstable/pod<uid>/<id>, …/cri-containerd-<id>.scope,
#   /machine.slice/libpod-<id>.scope
_CONTAINER = re.compile(r"(?:^|[/-])([0-9a-f]{64})(?:\.scope|/|$)")
_POD = re.compile(r"pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})")
#   /slurm/uid_0/job_12/step_0/task_0, /system.slice/slurmstepd.scope/job_12/step_0/user/task_0
_JOB = re.compile(r"slurm.*?/job_(\d+)")
# Mounts of files that the runtime makes for each container: /var/lib/docker/containers/<id>/hostname
_MOUNT = re.compile(r"/(?:containers|sandboxes|overlay-containers)/([0-9a-f]{64})/")
_LONGEST = 253  # characters of a name in Kubernetes
_SERVICE_ACCOUNT = "var/run/secrets/kubernetes.io/serviceaccount/namespace"


@dataclass(frozen=True, slots=True)
class Workload:
    """What a process runs in; "" where it runs in none or nobody tells."""

    container: str = ""  # name where known, else the id's first twelve digits
    container_id: str = ""
    pod: str = ""
    namespace: str = ""
    pod_uid: str = ""
    job: str = ""
    image: str = ""
    service: str = ""


def from_cgroup(text: str) -> Workload:
    """Return what /proc/PID/cgroup tells, of version 1 and 2."""
    container = _CONTAINER.findall(text)
    pod = _POD.search(text)
    job = _JOB.search(text)
    return Workload(
        container=container[-1][:12] if container else "",
        container_id=container[-1] if container else "",
        pod_uid=pod[1].replace("_", "-") if pod else "",
        job=job[1] if job else "",
    )


def of_process(files: Files, pid: int) -> Workload:
    """Return what a process runs in, as far as the machine itself tells."""
    found = from_cgroup(_read(files, f"proc/{pid}/cgroup"))
    if not found.container_id:  # a private cgroup namespace hides the path
        mount = _MOUNT.search(_read(files, f"proc/{pid}/mountinfo"))
        if mount:
            found = replace(found, container=mount[1][:12], container_id=mount[1])
    namespace = _read(files, f"proc/{pid}/root/{_SERVICE_ACCOUNT}")[:_LONGEST]
    if found.pod_uid or namespace:  # a pod's host name is its name, unless it asked for another or for the node's
        name = _read(files, f"proc/{pid}/root/etc/hostname")[:_LONGEST]
        found = replace(found, namespace=namespace, pod=name)
    return found


def _read(files: Files, path: str) -> str:
    try:
        return files.text(path)
    except OSError:
        return ""
