"""Where the agent is."""

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
