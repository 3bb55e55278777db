"""Reads JSON and remembers where each value stands, so that every error can name its line.

Inheritance (`"base"`) and overrides from the command line are merged here too; each value keeps its origin.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from config.names import nearest
from utils.errors import ConfigError

#: A dotted path as a tuple: keys of objects, and indices of lists.
KeyPath = tuple[str | int, ...]
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_SPACE = " \t\n\r"


@dataclass
class Source:
    """Values, and for each path of theirs the place it came from, such as "config.json:12:5"."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)
    name: str = "config"

    def where(self, path: KeyPath) -> str:
        """The place of the value at `path`, or of the nearest container around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.name


def dotted(path: KeyPath) -> str:
    """A path as people write it: trainer.epochs, metrics.0."""
    return ".".join(map(str, path))


class _Parser:
    """A JSON parser by recursive descent that notes the position of each value.

    Problems that do not hide what follows (a duplicate key, a trailing comma, NaN) are collected; others raise.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.at = text, name, 0
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[str] = []

    def place(self, at: int) -> str:
        line = self.text.count("\n", 0, at) + 1
        return f"{self.name}:{line}:{at - self.text.rfind(chr(10), 0, at)}"

    def fail(self, message: str, at: int | None = None) -> ConfigError:
        return ConfigError("\n  ".join([*self.problems, f"{self.place(self.at if at is None else at)}: {message}"]))

    def note(self, message: str, at: int) -> None:
        self.problems.append(f"{self.place(at)}: {message}")

    def parse(self) -> Any:
        self.space()
        if self.at == len(self.text):
            raise self.fail("the file is empty: a config is an object in braces { … }")
        value = self.value(())
        self.space()
        if self.at < len(self.text):
            raise self.fail(f"unexpected {self.text[self.at]!r} after the end of the config")
        if self.problems:
            raise ConfigError("\n  ".join(self.problems))
        return value

    def space(self) -> None:
        while self.at < len(self.text):
            if self.text[self.at] in _SPACE:
                self.at += 1
            elif self.text.startswith(("//", "/*", "#"), self.at):
                raise self.fail('JSON has no comments: delete it, or keep it under a key of your own ("comment": …)')
            else:
                return

    def value(self, path: KeyPath) -> Any:
        self.origins[path] = self.place(self.at)
        char = self.text[self.at : self.at + 1]
        if char == "{":
            return self.object(path)
        if char == "[":
            return self.list(path)
        if char == '"':
            return self.string()
        for word, value in (("true", True), ("false", False), ("null", None)):
            if self.text.startswith(word, self.at):
                self.at += len(word)
                return value
        match = _NUMBER.match(self.text, self.at)
        if match:
            self.at = match.end()
            return float(match[0]) if match[1] or match[2] else int(match[0])
        return self.odd_value()

    def odd_value(self) -> Any:
        match = re.compile(r"[-+]?[\w.]+|'[^'\n]*'").match(self.text, self.at)
        word = match[0] if match else self.text[self.at : self.at + 1]
        hints = {"True": "true", "False": "false", "None": "null"}
        if word.lstrip("-+") in ("NaN", "Infinity"):
            self.note(f"{word} is no JSON number", self.at)
        elif word in hints:
            self.note(f"{word} is Python: write {hints[word]}", self.at)
        elif word.startswith("'"):
            self.note(f'strings stand in double quotes: "{word[1:-1]}"', self.at)
        elif not word:
            raise self.fail("the file ends too early: a closing brace or bracket is missing")
        else:
            raise self.fail(f"expected a value, found {word!r}")
        self.at += len(word)
        return None

    def string(self) -> str:
        start = self.at
        try:
            value, self.at = scanstring(self.text, start + 1, True)
        except json.JSONDecodeError as error:
            raise self.fail(f"bad string: {error.msg}", error.pos) from None
        return str(value)

    def object(self, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        self.at += 1
        while not self.closes("}", bool(result)):
            start = self.at
            if self.text[start : start + 1] != '"':
                found = self.text[start : start + 1]
                raise self.fail(f"expected a key in double quotes, found {found!r}" if found else "the file ends early")
            key = self.string()
            if key in result:
                self.note(f"the key {key!r} is there twice (first at {self.origins[(*path, key)]})", start)
            self.space()
            if self.text[self.at : self.at + 1] != ":":
                raise self.fail(f"expected a colon after the key {key!r}")
            self.at += 1
            self.space()
            result[key] = self.value((*path, key))
            self.origins[(*path, key)] = self.place(start)
        return result

    def list(self, path: KeyPath) -> list[Any]:
        result: list[Any] = []
        self.at += 1
        while not self.closes("]", bool(result)):
            result.append(self.value((*path, len(result))))
        return result

    def closes(self, bracket: str, comma: bool) -> bool:
        """Step over the closing bracket, or the comma before the next item."""
        self.space()
        if self.text[self.at : self.at + 1] == bracket:
            self.at += 1
            return True
        if comma:
            if self.text[self.at : self.at + 1] != ",":
                found = repr(self.text[self.at]) if self.at < len(self.text) else "the end of the file"
                raise self.fail(f"expected a comma or {bracket!r}, found {found}")
            at = self.at
            self.at += 1
            self.space()
            if self.text[self.at : self.at + 1] == bracket:
                self.note(f"a comma before the closing {bracket!r}: JSON has none there", at)
                self.at += 1
                return True
        return False


def parse_json(text: str, name: str) -> Source:
    """Parse the text of a config.

    Raises:
        ConfigError: with the place of each problem.
    """
    parser = _Parser(text, name)
    try:
        values = parser.parse()
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}:1:1: a config is an object in braces {{ … }}, found {kind(values)}")
    return Source(values, parser.origins, name)


def kind(value: Any) -> str:
    """A value in plain words, for an error message."""
    names = {bool: "", dict: "an object", list: "a list", type(None): "null"}
    name = names.get(type(value), "")
    return name or json.dumps(value, ensure_ascii=False, default=str)[:60]


def read_source(path: Path, chain: tuple[Path, ...] = ()) -> Source:
    """Read a config file and those it inherits from.

    Raises:
        ConfigError: a file cannot be read or parsed, or inherits from itself.
    """
    if path.resolve() in chain:
        names = " -> ".join(file.name for file in (*chain, path))
        raise ConfigError(f"{path}: the config inherits from itself: {names}")
    source = parse_json(_read_text(path), str(path))
    base = source.values.pop("base", None)
    if base is None:
        return source
    if not isinstance(base, str):
        raise ConfigError(f"{source.where(('base',))}: base: expected the path of a config, found {kind(base)}")
    if not (path.parent / base).exists():
        raise ConfigError(f"{source.where(('base',))}: base: {path.parent / base} does not exist")
    below = read_source(path.parent / base, (*chain, path.resolve()))
    merge(below, source)
    return Source(below.values, below.origins, str(path))


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder: give the path of a JSON file")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    if data.startswith(b"\xef\xbb\xbf"):
        raise ConfigError(f"{path}:1:1: the file begins with a byte order mark: save it as UTF-8 without BOM")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: the file is not UTF-8: save it as UTF-8") from None


def merge(below: Source, above: Source) -> None:
    """Lay `above` over `below`: objects merge, everything else replaces, and so does a component of another type."""

    def lay(lower: dict[str, Any], upper: dict[str, Any], path: KeyPath) -> None:
        for key, value in upper.items():
            here = (*path, key)
            old = lower.get(key)
            other_type = isinstance(value, dict) and isinstance(old, dict) and value.get("type", 0) != old.get("type")
            if isinstance(value, dict) and isinstance(old, dict) and not ("type" in value and other_type):
                below.origins[here] = above.origins.get(here, above.name)
                lay(old, value, here)
                continue
            lower[key] = value
            for stale in [p for p in below.origins if p[: len(here)] == here]:
                del below.origins[stale]
            below.origins.update({p: place for p, place in above.origins.items() if p[: len(here)] == here})

    lay(below.values, above.values, ())


def override(source: Source, path: KeyPath, value: Any, origin: str, known: Callable[[KeyPath], list[str]]) -> None:
    """Set the value at `path`, which must be in the config or among the keys `known` in its section.

    Raises:
        ConfigError: there is no such place.
    """
    target: Any = source.values
    for depth, key in enumerate(path[:-1]):
        here = path[: depth + 1]
        if isinstance(target, list):
            target = _item(target, key, here, origin)
        elif isinstance(target, dict) and isinstance(target.get(str(key)), dict | list):
            target = target[str(key)]
        elif isinstance(target, dict) and key in known(path[:depth]) and target.get(str(key)) is None:
            target[str(key)] = {}
            target = target[str(key)]
        else:
            near = nearest(str(key), list(target)) if isinstance(target, dict) else None
            hint = f": did you mean {dotted((*path[:depth], near))}?" if near else ""
            raise ConfigError(f"{origin}: {dotted(here)} is no section of the config{hint}")
    if isinstance(target, list):
        _item(target, path[-1], path, origin)
        target[int(path[-1])] = value
    elif path[-1] in target or path[-1] in known(path[:-1]) or "args" in path[:-1]:
        target[str(path[-1])] = value
    else:
        near = nearest(str(path[-1]), [*target, *known(path[:-1])])
        hint = f": did you mean {dotted((*path[:-1], near))}?" if near else ""
        raise ConfigError(f"{origin}: {dotted(path)} is neither in the config nor a known key{hint}")
    source.origins = {p: place for p, place in source.origins.items() if p[: len(path)] != path}
    source.origins[path] = origin


def _item(items: list[Any], key: str | int, path: KeyPath, origin: str) -> Any:
    if not re.fullmatch(r"[0-9]+", str(key)) or int(key) >= len(items):
        raise ConfigError(f"{origin}: {dotted(path)}: the list has {len(items)} items, counted from 0")
    return items[int(key)]


def read_value(text: str) -> Any:
    """A value from the command line: JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except ValueError:
        return text


def to_plain(value: Any) -> Any:
    """Copy mappings and lists as plain containers."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """All plain values (and empty containers) below a container, with their paths."""
    if isinstance(value, dict | list) and value:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*path, key))
    else:
        yield path, value
