"""Runs an example as it is, and writes what each rank of it would have sent to a file of the rank's own."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

from rankscope.sdk.testing import capture


def main() -> None:
    folder, example, sys.argv = Path(sys.argv[1]), sys.argv[2], sys.argv[2:]
    with capture() as sent:
        runpy.run_path(example, run_name="__main__")
        sent.read()
    found = {
        "rank": int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))),
        "hello": {key: str(value) for key, value in sent.hello.items()},
        "scalars": {name: [(p.step, p.value) for p in points] for name, points in sent.scalars.items()},
        "phases": {name: [p.step for p in points] for name, points in sent.phases.items()},
        "ends": [event.fields for event in sent.events if event.kind == "goodbye"],
        "dropped": sent.dropped,
        "warnings": sent.warnings,
    }
    (folder / f"{found['rank']}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
