"""Matchers over labels, in amtool's notation: `run=exp-1`, `severity!=critical`, `alertname=~"Gpu.*"`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_MATCHER = re.compile(r"\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*(=~|!~|!=|=)\s*(.*?)\s*", re.DOTALL)
_PATTERN_LIMIT = 1000


@dataclass(frozen=True, slots=True)
class Matcher:
    """One condition on one label; a missing label counts as empty. Raises ValueError for a pattern that is none."""

    name: str
    value: str
    regex: bool = False
    equal: bool = True
    _pattern: re.Pattern[str] | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        if not _MATCHER.fullmatch(f"{self.name}="):
            raise ValueError(f"{self.name!r} is no label name: use letters, digits and underscores")
        if self.regex:
            if len(self.value) > _PATTERN_LIMIT:
                raise ValueError(f"the pattern for {self.name} is longer than {_PATTERN_LIMIT} characters")
            try:
                object.__setattr__(self, "_pattern", re.compile(self.value))
            except re.error as error:
                raise ValueError(f"{self.value!r} is no regular expression: {error}") from None

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.name, "")
        hit = bool(self._pattern.fullmatch(value)) if self._pattern else value == self.value
        return hit is self.equal

    def __str__(self) -> str:
        operator = ("=~" if self.equal else "!~") if self.regex else ("=" if self.equal else "!=")
        # In a pattern a backslash is the pattern's own.
        escaped = (self.value if self.regex else self.value.replace("\\", "\\\\")).replace('"', '\\"')
        return f'{self.name}{operator}"{escaped}"'


def parse(text: str) -> Matcher:
    """Read one matcher; a lone word is an alert's name. Raises ValueError."""
    found = _MATCHER.fullmatch(text)
    if not found:
        if re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", text.strip()):
            return Matcher("alertname", text.strip())
        raise ValueError(f"{text!r} is no matcher: write NAME=VALUE, NAME!=VALUE, NAME=~REGEX or NAME!~REGEX")
    name, operator, value = found.groups()
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1]) if "~" not in operator else value[1:-1].replace('\\"', '"')
    return Matcher(name, value, regex="~" in operator, equal=operator in ("=", "=~"))
