"""Who this rank is, from what its launcher left in the environment: the same run on every rank, with no word said."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

MAX_ID = 256  # characters of a run's id


@dataclass(frozen=True)
class Identity:
    """Fields as in Hello (proto/rankscope/v1/ingest.proto)."""

    run_id: str
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    node_rank: int = 0
    attempt: int = 0
    job_id: str = ""
    launch_id: str = ""
    launcher: str = "none"


def identify(environ: Mapping[str, str], run_id: str = "", nth: int = 0) -> Identity:
    """Return who this rank is; `nth` counts the sessions of this process that came before.

    `run_id`, or RANKSCOPE_RUN_ID, names the run where given. Else it is made from what all ranks of a job share and a
    second launch does not: on one node the launcher's own process, on several the launcher's job.
    """
    given = run_id or environ.get("RANKSCOPE_RUN_ID", "")
    for source in (_torchrun, _slurm, _open_mpi, _plain):
        found = source(environ)
        if found is not None:
            return _named(*found, given, nth)
    return _named(Identity(""), ("alone", secrets.token_hex(16)), given, nth)


def _named(identity: Identity, shared: tuple[str, ...], given: str, nth: int) -> Identity:
    return replace(
        identity,
        run_id=(given if len(given) <= MAX_ID else _digest(given)) or _digest(*shared, *([str(nth)] if nth else [])),
        world_size=max(1, identity.world_size, identity.rank + 1),
        local_world_size=max(1, identity.local_world_size, identity.local_rank + 1),
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "replace")).hexdigest()[:16]


def _number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    """Return a count from the environment; what is none counts as absent."""
    try:
        return min(max(0, int(environ[name])), 2**31 - 1)
    except (KeyError, ValueError):
        return default


def _torchrun(environ: Mapping[str, str]) -> tuple[Identity, tuple[str, ...]] | None:
    if "TORCHELASTIC_RUN_ID" not in environ or "RANK" not in environ:
        return None
    world, local = _number(environ, "WORLD_SIZE", 1), _number(environ, "LOCAL_WORLD_SIZE", 1)
    launch = _torchrun_launch(environ)
    given = environ["TORCHELASTIC_RUN_ID"]
    job = environ.get("SLURM_JOB_ID", "")
    if world == local:
        shared: tuple[str, ...] = ("torchrun", given, launch)
    else:
        meeting = (environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", ""))
        shared = ("torchrun", given, *meeting, job, environ.get("SLURM_STEP_ID", ""))
    identity = Identity(
        "",
        rank=_number(environ, "RANK"),
        local_rank=_number(environ, "LOCAL_RANK"),
        world_size=world,
        local_world_size=local,
        node_rank=_number(environ, "GROUP_RANK"),
        attempt=_number(environ, "TORCHELASTIC_RESTART_COUNT"),
        job_id=job,
        launch_id=_digest(launch),
        launcher="torchrun",
    )
    return identity, shared


def _torchrun_launch(environ: Mapping[str, str]) -> str:
    """Return what is one launch on this node, over restarts and wrapper scripts: torchrun's folder for error files."""
    path = Path(environ.get("TORCHELASTIC_ERROR_FILE", ""))
    for parent in path.parents:
        if parent.name.startswith("attempt_"):
            return str(parent.parent)
    return process_identity(os.getppid())


def _slurm(environ: Mapping[str, str]) -> tuple[Identity, tuple[str, ...]] | None:
    # Without srun there is no step: SLURM_PROCID is then 0 and SLURM_NTASKS what was asked for, not what runs.
    if "SLURM_PROCID" not in environ or "SLURM_STEP_ID" not in environ or "RANK" in environ:
        return None
    job, step = environ.get("SLURM_JOB_ID", ""), environ["SLURM_STEP_ID"]
    identity = Identity(
        "",
        rank=_number(environ, "SLURM_PROCID"),
        local_rank=_number(environ, "SLURM_LOCALID"),
        world_size=_number(environ, "SLURM_STEP_NUM_TASKS", _number(environ, "SLURM_NTASKS", 1)),
        local_world_size=_tasks_here(environ),
        node_rank=_number(environ, "SLURM_NODEID"),
        attempt=_number(environ, "SLURM_RESTART_COUNT"),
        job_id=job,
        launch_id=_digest(job, step, environ.get("SLURM_RESTART_COUNT", "")),
        launcher="slurm",
    )
    return identity, ("slurm", environ.get("SLURM_CLUSTER_NAME", ""), job, step)


def _tasks_here(environ: Mapping[str, str]) -> int:
    """Return the tasks on this node from a list such as `4(x2),3`."""
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", environ.get("SLURM_TASKS_PER_NODE", ""))
    counts: list[int] = []
    for part in text.split(","):
        count, _, repeat = part.partition("(x")
        repeat = repeat.rstrip(")") or "1"
        if count.isdigit() and repeat.isdigit():
            counts += [int(count)] * min(int(repeat), 100_000)
    node = _number(environ, "SLURM_NODEID")
    return counts[node] if node < len(counts) else 1


def _open_mpi(environ: Mapping[str, str]) -> tuple[Identity, tuple[str, ...]] | None:
    if "OMPI_COMM_WORLD_RANK" not in environ or "RANK" in environ:
        return None
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_ess_base_jobid") or ""
    scheduler = environ.get("SLURM_JOB_ID", "")
    rank, local = _number(environ, "OMPI_COMM_WORLD_RANK"), _number(environ, "OMPI_COMM_WORLD_LOCAL_SIZE", 1)
    identity = Identity(
        "",
        rank=rank,
        local_rank=_number(environ, "OMPI_COMM_WORLD_LOCAL_RANK"),
        world_size=_number(environ, "OMPI_COMM_WORLD_SIZE", 1),
        local_world_size=local,
        node_rank=rank // max(1, local),  # Open MPI does not number the nodes; it fills them one by one
        job_id=scheduler or job,
        launch_id=_digest(job) if job else _digest(process_identity(os.getppid())),
        launcher="openmpi",
    )
    return identity, ("openmpi", scheduler, job or process_identity(os.getppid()))


def _plain(environ: Mapping[str, str]) -> tuple[Identity, tuple[str, ...]] | None:
    """RANK and WORLD_SIZE set by hand, or by a script that spawns the ranks."""
    if "RANK" not in environ or "WORLD_SIZE" not in environ:
        return None
    world = _number(environ, "WORLD_SIZE", 1)
    local = _number(environ, "LOCAL_WORLD_SIZE", world)
    parent = process_identity(os.getppid())
    meeting = (environ.get("MASTER_ADDR", ""), environ.get("MASTER_PORT", ""), environ.get("SLURM_JOB_ID", ""))
    identity = Identity(
        "",
        rank=_number(environ, "RANK"),
        local_rank=_number(environ, "LOCAL_RANK", _number(environ, "RANK") % max(1, local)),
        world_size=world,
        local_world_size=local,
        node_rank=_number(environ, "GROUP_RANK", _number(environ, "NODE_RANK")),
        job_id=environ.get("SLURM_JOB_ID", ""),
        launch_id=_digest(parent),
        launcher="none",
    )
    return identity, ("plain", *meeting, *([parent] if world == local else []))


def start_ticks(pid: int) -> int:
    """Return when a living process began, in clock ticks since boot (field 22 of /proc/PID/stat), 0 if unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    except (OSError, ValueError, IndexError):
        return 0


def boot() -> str:
    """Return what is another one after every boot of the machine, "" if unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process_identity(pid: int) -> str:
    """Return what no other process, before or after, on this machine has."""
    return f"{boot()}:{pid}:{start_ticks(pid)}"
