"""The agent's configuration: YAML and environment in, built components out, every mistake with its line."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rankscope.agent.alerts.settings import Settings as AlertSettings
from rankscope.agent.component import Exporter, Notifier, Rule, Sampler, discover
from rankscope.agent.model import Seconds, Span
from rankscope.agent.receivers.grpc import Grpc
from rankscope.agent.receivers.journals import Journals
from rankscope.agent.web.settings import Http
from rankscope.agent.yaml_source import ConfigError, Keys, YamlSource, in_words

__all__ = ["Config", "ConfigError", "RunsConfig", "load", "parse_seconds", "state_dir"]

UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_STEPS = re.compile(r"(\d+)\s*steps?")


def state_dir() -> Path:
    """Return where this user's agent keeps what must last: /var/lib for root, the XDG state folder else."""
    if os.geteuid() == 0:
        return Path("/var/lib/rankscope")
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "rankscope"


@dataclass
class RunsConfig:
    """Where runs are kept, and for how long (`keep_days: 0` keeps them for ever)."""

    dir: str = field(default_factory=lambda: str(state_dir() / "runs"))
    keep_days: float = 0
    forget_after: Seconds = 600.0  # the series of a run of which nothing is heard go away


@dataclass
class Config:
    """Everything that the agent is made of."""

    hostname: str = field(default_factory=lambda: os.uname().nodename)  # the label of every series and alert
    http: Http = field(default_factory=Http)
    grpc: Grpc = field(default_factory=Grpc)
    journals: Journals = field(default_factory=Journals)
    runs: RunsConfig = field(default_factory=RunsConfig)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    roles: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    samplers: dict[str, Sampler] = field(default_factory=dict[str, Sampler])
    rules: list[tuple[str, Rule]] = field(default_factory=list[tuple[str, Rule]])  # by alert name
    notifiers: list[tuple[str, Notifier]] = field(default_factory=list[tuple[str, Notifier]])  # by name, "webhook-0"
    exporters: dict[str, object] = field(default_factory=dict[str, object])

    @property
    def record(self) -> Exporter | None:
        """The exporter that keeps every point, if it is not switched off."""
        return cast("Exporter | None", self.exporters.get("tensorboard"))


def load(
    path: Path | None, environment: Mapping[str, str] | None = None, overrides: Mapping[str, object] | None = None
) -> Config:
    """Return the configuration of a file (None: defaults), the environment and dotted `overrides`, in that order.

    Raises ConfigError, one line for each mistake, and OSError when the file cannot be read.
    """
    text = path.read_text() if path is not None else ""
    source = YamlSource(str(path) if path is not None else "configuration", text)
    for name, text in (os.environ if environment is None else environment).items():
        if name.startswith("RANKSCOPE_") and "__" in name:
            keys = tuple(part for part in name.removeprefix("RANKSCOPE_").split("__") if part)
            source.put(keys, yaml.safe_load(text), name)
    for dotted, value in (overrides or {}).items():
        source.put(tuple(dotted.split(".")), value, dotted)
    config = _Builder(source).config(source.tree)
    source.raise_problems()
    return config


class _Builder:
    """Builds components from values, and notes every mistake instead of stopping at the first."""

    def __init__(self, source: YamlSource) -> None:
        self._source = source

    def config(self, tree: dict[str, object]) -> Config:
        config = Config()
        known = [f.name for f in dataclasses.fields(Config)]
        for key in tree:
            if key not in known:
                self._unknown((key,), key, known)
        if "hostname" in tree:
            config.hostname = self._value(str, tree["hostname"], ("hostname",)) or config.hostname
        for name in ("http", "grpc", "journals", "runs", "alerts"):
            kind = cast("type[object]", type(getattr(config, name)))
            built = self.build(kind, tree.get(name) or {}, (name,))
            if built is not None:
                setattr(config, name, built)
        config.roles = self._value(dict[str, list[str]], tree.get("roles") or {}, ("roles",)) or {}
        config.samplers = cast("dict[str, Sampler]", self._family("samplers", tree.get("samplers")))
        config.exporters = self._family("exporters", tree.get("exporters"))
        for exporter in config.exporters.values():  # what an exporter leaves empty is the agent's own
            for name, value in (("dir", config.runs.dir), ("hostname", config.hostname)):
                if getattr(exporter, name, None) == "":
                    setattr(exporter, name, value)
        config.alerts = config.alerts.at(config.http.url(config.hostname))
        config.rules = self._rules(tree.get("rules"))
        config.notifiers = self._notifiers(tree.get("notifiers"))
        return config

    def _family(self, family: str, given: object) -> dict[str, object]:
        """Build every component of a folder, unless it is switched off."""
        classes = discover(f"rankscope.agent.{family}")
        table = self._table(given, (family,))
        for key in table:
            if key not in classes:
                self._unknown((family, key), key, list(classes))
        built: dict[str, object] = {}
        for name, cls in classes.items():
            value = table.get(name)
            if value is False:
                continue
            component = self.build(cls, {} if value is True or value is None else value, (family, name))
            if component is not None:
                built[name] = component
        return built

    def _rules(self, given: object) -> list[tuple[str, Rule]]:
        modules = discover("rankscope.agent.rules")
        classes = {cls.__name__: cls for cls in modules.values()}
        table = self._table(given, ("rules",))
        keys = {modules[key].__name__ if key in modules else key: key for key in table}  # loss_spike is LossSpike
        for name, key in keys.items():
            if name not in classes:
                self._unknown(("rules", key), key, list(classes))
        rules: list[tuple[str, Rule]] = []
        for name, cls in classes.items():
            key = keys.get(name, name)
            value = table.get(key)
            if value is False:
                continue
            if isinstance(value, list):
                for i, item in enumerate(cast("list[object]", value)):
                    rule = self.build(cls, item, ("rules", key, i))
                    if rule is not None:
                        rules.append((str(getattr(rule, "name", name)) or name, cast(Rule, rule)))
                continue
            if value is None and any(_required(f) for f in dataclasses.fields(cls)):
                continue  # a rule that means nothing until it is told what to look for
            rule = self.build(cls, {} if value is True or value is None else value, ("rules", key))
            if rule is not None:
                rules.append((name, cast(Rule, rule)))
        return rules

    def _notifiers(self, given: object) -> list[tuple[str, Notifier]]:
        classes = discover("rankscope.agent.notifiers")
        notifiers: list[tuple[str, Notifier]] = []
        for kind, value in self._table(given, ("notifiers",)).items():
            if kind not in classes:
                self._unknown(("notifiers", kind), kind, list(classes))
                continue
            items = cast("list[object]", value) if isinstance(value, list) else [value]
            for i, item in enumerate(items):
                built = self.build(classes[kind], item, ("notifiers", kind, i))
                if built is not None:
                    notifiers.append((f"{kind}-{i}", cast(Notifier, built)))
        return notifiers

    def build(self, cls: type, value: object, path: Keys) -> object | None:
        """Return an instance of a dataclass made of a mapping, or None after noting what is wrong with it."""
        before = len(self._source.problems)
        table = self._table(value, path)
        fields = {f.name.rstrip("_"): f for f in dataclasses.fields(cls) if f.init}
        hints = get_type_hints(cls, include_extras=True)
        arguments: dict[str, Any] = {}
        for key, item in table.items():
            if key not in fields:
                self._unknown((*path, key), key, list(fields))
                continue
            name = fields[key].name
            converted = self._convert(hints[name], item, (*path, key))
            arguments[name] = converted
        for key, f in fields.items():
            if _required(f) and key not in table:
                self._source.problem(path, f"{key} is missing")
        if len(self._source.problems) > before:
            return None
        try:
            return cast(object, cls(**arguments))
        except (ValueError, OSError) as error:
            self._source.problem(path, str(error))
            return None

    def _convert(self, hint: Any, value: object, path: Keys) -> object:
        if get_origin(hint) is Annotated and "seconds" in get_args(hint)[1:]:
            return self._seconds(value, path)
        if hint is Span:
            return self._span(value, path)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            return self.build(hint, value, path)
        return self._value(hint, value, path)

    def _value(self, hint: Any, value: object, path: Keys) -> Any:
        try:
            return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError as error:
            for mistake in error.errors():
                inner = tuple(part for part in mistake["loc"] if isinstance(part, int) or part in str(value))
                self._source.problem((*path, *inner), f"{mistake['msg'].lower()}, found {in_words(value)}")
            return None

    def _seconds(self, value: object, path: Keys) -> float:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return float(value)
        try:
            return parse_seconds(value if isinstance(value, str) else "")
        except ValueError:
            self._source.problem(path, f"expected a duration such as 500ms, 30s, 2m or 4h, found {in_words(value)}")
            return 0.0

    def _span(self, value: object, path: Keys) -> Span:
        if isinstance(value, str) and (match := _STEPS.fullmatch(value.strip())):
            return Span(steps=int(match[1]))
        return Span(seconds=self._seconds(value, path))

    def _table(self, value: object, path: Keys) -> dict[str, object]:
        if value is None:
            return {}
        if not isinstance(value, dict):
            self._source.problem(path, f"expected keys and values, found {in_words(value)}")
            return {}
        return {str(key): item for key, item in cast("dict[object, object]", value).items()}

    def _unknown(self, path: Keys, key: str, known: list[str]) -> None:
        folded = {name.casefold().replace("_", ""): name for name in known}
        close = difflib.get_close_matches(key.casefold().replace("_", ""), folded, n=1)
        hint = f"did you mean {folded[close[0]]}?" if close else f"known: {', '.join(known)}"
        self._source.problem(path, f"unknown, {hint}")


def parse_seconds(text: str) -> float:
    """Return a duration such as `90s` or `2h30m` in seconds. Raises ValueError."""
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text).strip():
        raise ValueError(f"{text!r} is no duration such as 500ms, 30s, 2m or 4h")
    return sum(float(number) * UNITS[unit] for number, unit in parts)


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.init and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
