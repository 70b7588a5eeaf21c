"""The fingerprint of a label set: FNV-1a with 64 bits, as Prometheus and Alertmanager compute it."""

from __future__ import annotations

from collections.abc import Mapping

_OFFSET = 0xCBF29CE484222325
_PRIME = 0x100000001B3
_SEPARATOR = b"\xff"


def fingerprint(labels: Mapping[str, str]) -> str:
    """Return 16 hex digits over the labels in order of their names (prometheus/common, model/signature.go)."""
    digest = _OFFSET
    for name in sorted(labels):
        for byte in name.encode() + _SEPARATOR + labels[name].encode() + _SEPARATOR:
            digest = ((digest ^ byte) * _PRIME) & 0xFFFFFFFFFFFFFFFF
    return f"{digest:016x}"
