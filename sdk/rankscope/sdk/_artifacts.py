"""Files that belong to a run: small ones travel with it, large ones are named with their size and digest."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

COPIED = 32 << 20  # bytes; larger files stay where they are
DIGESTED = 1 << 30  # bytes; of larger files no digest is taken: it would hold up the training for seconds
_PART = 256 << 10


def describe(path: str | os.PathLike[str]) -> tuple[Path, dict[str, object]]:
    """Return a file's path and what the record says of it. Raises OSError, also where it is no regular file."""
    file = Path(path)
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, and a device never ends
        raise OSError(f"{file} is no regular file")
    size = found.st_size
    digest = ""
    if size <= DIGESTED:
        taken = hashlib.sha256()
        for part in parts(file, size):
            taken.update(part)
        digest = taken.hexdigest()
    return file, {"name": file.name, "bytes": size, "sha256": digest, "path": str(file.resolve())}


def parts(file: Path, size: int = COPIED) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file in parts: it may still grow. Raises OSError."""
    with file.open("rb") as source:
        while size > 0 and (part := source.read(min(_PART, size))):
            size -= len(part)
            yield part
