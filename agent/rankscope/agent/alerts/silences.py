"""Silences: which alerts nobody wants to hear of until when, in Alertmanager's shape."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from rankscope.agent.alerts import store
from rankscope.agent.alerts.matchers import Matcher
from rankscope.agent.alerts.render import timestamp

log = logging.getLogger(__name__)

KEEP = 5 * 86400.0  # seconds that an expired silence stays in the list, as with Alertmanager
LIMIT = 1000  # silences that may be active

SilenceState: TypeAlias = Literal["pending", "active", "expired"]


@dataclass(frozen=True, slots=True)
class Silence:
    """Alerts that all `matchers` match are not announced from `starts` to `ends` (Unix seconds)."""

    id: str
    matchers: tuple[Matcher, ...]
    starts: float
    ends: float
    created_by: str = ""
    comment: str = ""
    updated: float = 0.0

    def state(self, now: float) -> SilenceState:
        return "expired" if now >= self.ends else "active" if now >= self.starts else "pending"

    def matches(self, labels: Mapping[str, str]) -> bool:
        return all(matcher.matches(labels) for matcher in self.matchers)

    def as_json(self, now: float) -> dict[str, object]:
        """Return the silence as Alertmanager's API does."""
        return {
            "id": self.id,
            "status": {"state": self.state(now)},
            "matchers": [
                {"name": m.name, "value": m.value, "isRegex": m.regex, "isEqual": m.equal} for m in self.matchers
            ],
            "startsAt": timestamp(self.starts),
            "endsAt": timestamp(self.ends),
            "updatedAt": timestamp(self.updated),
            "createdBy": self.created_by,
            "comment": self.comment,
        }


class _MatcherJson(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    value: str
    is_regex: bool = Field(default=False, alias="isRegex")
    is_equal: bool = Field(default=True, alias="isEqual")

    def matcher(self) -> Matcher:
        return Matcher(self.name, self.value, regex=self.is_regex, equal=self.is_equal)


class _SilenceJson(BaseModel):
    model_config = ConfigDict(extra="ignore")

    id: str = ""
    matchers: list[_MatcherJson] = Field(min_length=1, max_length=50)
    starts_at: datetime | None = Field(default=None, alias="startsAt")
    ends_at: datetime = Field(alias="endsAt")
    updated_at: datetime | None = Field(default=None, alias="updatedAt")
    created_by: str = Field(default="", alias="createdBy", max_length=200)
    comment: str = Field(default="", max_length=2000)


_SAVED = TypeAdapter(list[_SilenceJson])


class Silences:
    """The silences of this agent; kept in `path`, or in memory where that is None."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._silences: dict[str, Silence] = {}
        if path is not None and path.exists():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            found = _SAVED.validate_json(path.read_bytes())
            self._silences = {body.id: _silence(body, body.id, 0.0) for body in found if body.id}
        except (OSError, ValueError) as error:
            store.set_aside(path, type(error).__name__)

    def create(self, body: object, now: float) -> Silence:
        """Make a silence from JSON in the shape of Alertmanager's API, or change the active one that `id` names.

        Raises ValueError, in one line, when it is not right, and KeyError when there is no silence `id`.
        """
        try:
            parsed = _SilenceJson.model_validate(body)
        except ValidationError as error:
            raise ValueError(_explain(error)) from None
        if parsed.id and self.get(parsed.id).state(now) == "expired":
            parsed.id = ""  # an expired silence is history: a change to it makes a new one
        silence = _silence(parsed, parsed.id or str(uuid.uuid4()), now)
        if silence.ends <= max(now, silence.starts):
            raise ValueError("endsAt lies before startsAt or in the past")
        if all(matcher.matches({}) for matcher in silence.matchers):
            raise ValueError("at least one matcher must not match the empty string, or everything would be silent")
        active = sum(1 for other in self._silences.values() if other.state(now) != "expired")
        if silence.id not in self._silences and active >= LIMIT:
            raise ValueError(f"{LIMIT} silences are active already: expire some first")
        self._silences[silence.id] = silence
        self._save(now)
        return silence

    def get(self, name: str) -> Silence:
        """Return the silence of an id. Raises KeyError."""
        return self._silences[name]

    def list(self, now: float, *, expired: bool = True) -> list[Silence]:
        """Return the silences, those that end first at the front and expired ones last."""
        found = [s for s in self._silences.values() if expired or s.state(now) != "expired"]
        return sorted(found, key=lambda s: (s.state(now) == "expired", s.ends, s.id))

    def expire(self, name: str, now: float) -> Silence:
        """End the silence of an id now. Raises KeyError when there is none."""
        silence = self._silences[name]
        if silence.state(now) != "expired":
            silence = replace(silence, starts=min(silence.starts, now), ends=now, updated=now)
            self._silences[name] = silence
            self._save(now)
        return silence

    def of(self, labels: Mapping[str, str], now: float) -> tuple[str, ...]:
        """Return the ids of the silences that cover an alert with these labels now."""
        return tuple(s.id for s in self._silences.values() if s.state(now) == "active" and s.matches(labels))

    def shift(self, seconds: float, now: float) -> None:
        """The clock was set forward by so many seconds, from `now`: silences last as long as they were to last.

        One that has not begun begins when it was to begin, by the new clock.
        """
        moved = {
            name: replace(silence, starts=silence.starts + seconds, ends=silence.ends + seconds)
            for name, silence in self._silences.items()
            if silence.starts <= now
        }
        if moved:
            self._silences |= moved
            self._save(now + seconds)

    def next_change(self, now: float) -> float | None:
        """Return when the next silence begins or ends (Unix seconds), or None."""
        times = [t for s in self._silences.values() for t in (s.starts, s.ends) if t > now]
        return min(times, default=None)

    def __bool__(self) -> bool:
        return bool(self._silences)

    def _save(self, now: float) -> None:
        self._silences = {name: s for name, s in self._silences.items() if now - s.ends < KEEP}
        if self._path is None:
            return
        found = [_SilenceJson.model_validate(s.as_json(now)) for s in self._silences.values()]
        try:
            store.replace(self._path, _SAVED.dump_json(found, by_alias=True, indent=1))
        except OSError as error:
            log.error("silences cannot be saved in %s: %s", self._path, error.strerror)


def _silence(body: _SilenceJson, name: str, now: float) -> Silence:
    return Silence(
        id=name,
        matchers=tuple(matcher.matcher() for matcher in body.matchers),
        starts=max(now, _unix(body.starts_at)) if body.starts_at else now,
        ends=_unix(body.ends_at),
        created_by=body.created_by,
        comment=body.comment,
        updated=_unix(body.updated_at) if body.updated_at and not now else now,
    )


def _unix(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
