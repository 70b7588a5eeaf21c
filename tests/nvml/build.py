"""Builds the stand-in for libnvidia-ml.so.1, and makes scenarios of several cards."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def build(folder: Path) -> Path:
    """Compile the library into `folder`; return the folder, as the loader wants it. Raises CalledProcessError."""
    library = folder / "libnvidia-ml.so.1"
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run(["gcc", *flags, "-o", str(library), str(HERE / "standin.c")], check=True)
    return folder


def scenario(name: str) -> str:
    return (HERE / "scenarios" / f"{name}.scenario").read_text()


def answering(text: str, asked: str, answer: str) -> str:
    """Return a scenario whose first card answers this otherwise, whatever its answer was."""
    changed, count = re.subn(rf"^{re.escape(asked)} .*$", f"{asked} {answer}", text, count=1, flags=re.MULTILINE)
    assert count, f"the scenario has no {asked!r}"
    return changed


def several(name: str, count: int) -> str:
    """Return a scenario with `count` of its first card, told apart by uuid, address, minor number and pid."""
    head, _, card = scenario(name).partition("\ncard\n")
    cards: list[str] = []
    for i in range(count):
        each = re.sub(r"(GetUUID GPU-\w+-\w+-\w+-\w+-)\w+", rf"\g<1>{i:012d}", card)
        each = re.sub(r"(busId \w+:)\w+", rf"\g<1>{16 + i:02x}", each)
        each = each.replace("GetMinorNumber 0", f"GetMinorNumber {i}").replace("process 4711", f"process {4711 + i}")
        cards.append(each)
    return head + "\n" + "".join(f"card\n{each}\n" for each in cards)
