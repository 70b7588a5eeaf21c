"""The deliverer: `python -m rankscope.sdk._deliver FOLDER --agent ADDRESS` sends and removes what a dead rank left."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rankscope.sdk import _spool as spool
from rankscope.sdk._address import default_agent
from rankscope.sdk._delivery import Dead

DELIVERED, LEFT, UNREADABLE = 0, 3, 2


def main(arguments: Sequence[str]) -> int:
    """Return 0 when all is safe with the agent, 3 when the journal is in use or something is left, 2 for no journal."""
    parser = argparse.ArgumentParser(prog="python -m rankscope.sdk._deliver", description=__doc__)
    parser.add_argument("folder", type=Path, help="the journal's folder")
    parser.add_argument("--agent", default="", help="unix:/path or host:port; RANKSCOPE_AGENT or the usual socket else")
    parser.add_argument("--if-there", action="store_true", help="a journal that is gone was delivered by someone else")
    given = parser.parse_args(arguments)
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    dead = Dead(
        given.folder, given.agent or default_agent(), os.environ.get("RANKSCOPE_TOKEN", ""), lambda: bool(stopping)
    )
    try:
        return DELIVERED if asyncio.run(dead.run()) else LEFT
    except (OSError, ValueError) as error:
        if given.if_there and not (given.folder / spool.HELLO).exists():
            return DELIVERED
        print(f"{given.folder} cannot be delivered: {error}", file=sys.stderr)
        return UNREADABLE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
