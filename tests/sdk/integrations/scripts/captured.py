"""Runs an example as it is, and prints what each rank of it would have sent."""

from __future__ import annotations

import json
import os
import runpy
import sys

from rankscope.sdk.testing import capture


def main() -> None:
    example, sys.argv = sys.argv[1], sys.argv[1:]
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
    print("SENT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
