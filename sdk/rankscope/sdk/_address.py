"""Where the agent is, and whether something is there."""

from __future__ import annotations

import os


def default_agent() -> str:
    """RANKSCOPE_AGENT, else the socket where an agent of this user listens by default."""
    given = os.environ.get("RANKSCOPE_AGENT", "")
    if given:
        return given
    if os.geteuid() == 0:
        return "unix:/run/rankscope/agent.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/tmp/rankscope-{os.geteuid()}"
    return f"unix:{runtime}/rankscope/agent.sock"


def reachable(address: str) -> bool:
    """False where an attempt would be in vain: there is no such socket."""
    return not address.startswith("unix:") or socket_identity(address) is not None


def socket_identity(address: str) -> tuple[int, int] | None:
    """Return what tells a Unix socket from another one at the same path; None where there is none."""
    if not address.startswith("unix:"):
        return None
    try:
        found = os.stat(address.removeprefix("unix:").replace("//", "/", 1))
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns
