"""Files of the kernel below a root folder, as they are or as a test has laid them out."""

from __future__ import annotations

import glob
import os

from rankscope.agent.samplers._linux.inside import read_inside


class Files:
    """What lies below `root`, each file read at most once: make one for each collection.

    Every method raises OSError where the file is absent or cannot be read.
    """

    def __init__(self, root: str = "/") -> None:
        self.root = root.rstrip("/")
        self._texts: dict[str, str] = {}
        self._there: dict[str, bool] = {}
        self._spaces: dict[str, os.statvfs_result] = {}

    def path(self, relative: str) -> str:
        return f"{self.root}/{relative.lstrip('/')}"

    def text(self, relative: str) -> str:
        """Return a file's text without white space at its ends."""
        text = self._texts.get(relative)
        if text is None:
            text = self._texts[relative] = self._read(relative).decode(errors="replace").strip()
        return text

    def _read(self, relative: str) -> bytes:
        process, root, inside = relative.partition("/root/")
        if root and process.startswith("proc/"):  # what a container holds
            return read_inside(self.path(f"{process}/root"), inside)
        with open(self.path(relative), "rb") as file:
            return file.read()

    def number(self, relative: str) -> int:
        """Return the first number of a file. Raises ValueError where there is none."""
        first = self.text(relative).split(maxsplit=1)
        return int(first[0]) if first else int("")

    def table(self, relative: str) -> dict[str, int]:
        """Return the numbers of a file of lines `name[:] number …` by name."""
        found: dict[str, int] = {}
        for line in self.text(relative).splitlines():
            name, _, rest = line.replace(":", " ", 1).partition(" ")
            words = rest.split(maxsplit=1)
            if words and words[0].lstrip("-").isdigit():
                found[name] = int(words[0])
        return found

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match, relative to the root, in alphabetical order."""
        start = len(self.root) + 1
        return sorted(path[start:] for path in glob.glob(self.path(pattern)))

    def names(self, relative: str) -> list[str]:
        """Return what a folder holds, in alphabetical order."""
        return sorted(os.listdir(self.path(relative)))

    def exists(self, relative: str) -> bool:
        there = self._there.get(relative)
        if there is None:
            there = self._there[relative] = os.path.exists(self.path(relative))
        return there

    def is_folder(self, relative: str) -> bool:
        return os.path.isdir(self.path(relative))

    def device(self, relative: str) -> int:
        """Return the number of the file system that holds a path."""
        return os.stat(self.path(relative)).st_dev

    def link(self, relative: str) -> str:
        return os.readlink(self.path(relative))

    def space(self, relative: str) -> os.statvfs_result:
        """Return the space of the file system that holds a path."""
        space = self._spaces.get(relative)
        if space is None:
            space = self._spaces[relative] = os.statvfs(self.path(relative))
        return space
