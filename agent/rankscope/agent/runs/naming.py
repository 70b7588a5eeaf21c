"""Names that are safe as folders and label values, whatever a rank calls its run."""

from __future__ import annotations

import hashlib
import re

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
MAX_LENGTH = 80


def safe_name(name: str, default: str) -> str:
    """Return `name` with only letters, digits, `.`, `_` and `-`, never hidden, never empty, at most 80 long."""
    safe = _UNSAFE.sub("-", name).strip("-.")[:MAX_LENGTH].rstrip("-.")
    return safe or default


def run_name(name: str, run_id: str) -> str:
    """Return the run's name in labels and folders: what the user called it, and eight digits of its identity.

    Every agent of a job comes to the same name with no communication, and two runs of one name never meet.
    """
    return f"{safe_name(name, 'run')}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"
