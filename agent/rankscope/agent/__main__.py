"""The command `rankscope`: says what is missing before anything that needs it is imported."""

from __future__ import annotations

import sys


def main() -> None:
    try:
        from rankscope.agent.cli import cli
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("rankscope"):
            raise
        sys.exit(f"rankscope: {error.name} is missing here: pip install 'rankscope[agent]'")
    cli()


if __name__ == "__main__":
    main()
