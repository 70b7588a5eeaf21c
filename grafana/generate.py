"""Makes the dashboards in `dashboards/` from the Python beside it; `--check` only says whether they are up to date."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

FOLDER = Path(__file__).resolve().parent / "dashboards"
BOARDS = ("fleet", "run", "ranks", "node", "alerts")


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    stale = 0
    expected: set[Path] = set()
    for name in BOARDS:
        board = importlib.import_module(f"boards.{name}").BOARD
        dashboard = json.loads(JSONEncoder(sort_keys=True, indent=2).encode(board.build()))
        dashboard.pop("id", None)
        text = json.dumps(dashboard, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        path = FOLDER / f"{board.uid}.json"
        expected.add(path)
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if check:
            print(f"{path}: out of date: run python grafana/generate.py", file=sys.stderr)
        else:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(text)
            print(f"wrote {path}")
    for path in set(FOLDER.glob("*.json")) - expected:
        stale += 1
        print(f"{path}: made by no board: remove it", file=sys.stderr)
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
