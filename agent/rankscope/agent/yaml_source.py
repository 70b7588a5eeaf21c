"""A configuration text: its values, the line of every key, and the mistakes that were found in it."""

from __future__ import annotations

from typing import TypeAlias, cast

import yaml

Keys: TypeAlias = tuple[str | int, ...]  # where a value stands


class ConfigError(Exception):
    """A configuration that cannot be used; each line of the text names a place and what is wrong there."""


class YamlSource:
    """A configuration text: its values, the line of every key, and the mistakes found in it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.problems: list[tuple[int, str]] = []  # line, and what is wrong there
        self._lines: dict[Keys, int] = {}
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            value: object = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            raise ConfigError(f"{name}:{mark.line + 1 if mark else 1}: {error.problem or 'no YAML'}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{name}:1: {str(error).splitlines()[0]}") from None
        if root is not None:
            self._note(root, ())
        if value is not None and not isinstance(value, dict):
            found = in_words(value)
            raise ConfigError(f"{name}:1: expected keys such as `http:` and `rules:`, found {found}")
        self.tree: dict[str, object] = cast("dict[str, object]", value or {})

    def _note(self, node: yaml.Node, path: Keys) -> None:
        self._lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for key, child in node.value:
                name = str(key.value)
                if name in seen:
                    self.problem((*path, name), "given twice", key.start_mark.line + 1)
                seen.add(name)
                place = (*path, name)
                self._lines[place] = key.start_mark.line + 1
                self._note(child, place)
        elif isinstance(node, yaml.SequenceNode):
            for i, child in enumerate(node.value):
                self._note(child, (*path, i))

    def problem(self, path: Keys, message: str, line: int | None = None) -> None:
        while line is None:
            line = self._lines.get(path) if path else 1
            if line is None:
                line = next((self._lines[path[:i]] for i in range(len(path), 0, -1) if path[:i] in self._lines), 1)
        dotted = ".".join(str(part) for part in path)
        self.problems.append((line, f"{dotted + ': ' if dotted else ''}{message}"))

    def put(self, keys: tuple[str, ...], value: object, origin: str) -> None:
        """Put a value at a path of keys; keys are matched to those that stand there, whatever their case."""
        tree = self.tree
        for i, key in enumerate(keys):
            names = {name.casefold(): name for name in tree}
            name = names.get(key.casefold(), key.lower() if key.isupper() else key)
            if i == len(keys) - 1:
                tree[name] = value
                return
            child = tree.setdefault(name, {})
            if child is None:
                child = tree[name] = {}
            if not isinstance(child, dict):
                self.problem((name,), f"{origin} cannot set a key inside {in_words(child)}")
                return
            tree = cast("dict[str, object]", child)

    def raise_problems(self) -> None:
        if self.problems:
            in_order = sorted(self.problems, key=lambda problem: problem[0])
            raise ConfigError("\n".join(f"{self.name}:{line}: {message}" for line, message in in_order))


def in_words(value: object) -> str:
    """Return what a value is, in the words of an error message."""
    names: dict[type, str] = {dict: "keys and values", list: "a list", type(None): "nothing", bool: "yes/no"}
    return names.get(type(value), repr(value))
