"""Reads a config file as JSON and notes where each value stands; and the files that it inherits from (`"base"`)."""

import json
import re
from pathlib import Path
from typing import Any

from config.source import KeyPath, Source, kind, merge
from utils.errors import ConfigError

#: A string, a mark, a word or number, the start of a comment, a string of another language, anything else, or the end.
_TOKEN = re.compile(r"""[ \t\n\r]*("(?:[^"\\\n]|\\.)*"|[{}\[\],:]|[-+.\w]+|//|/\*|'[^'\n]*'|.|$)""", re.DOTALL)
_PYTHON = {"True": "true", "False": "false", "None": "null"}


class _Parser:
    """A JSON parser by recursive descent that notes the position of each value.

    Problems that do not hide what follows (a duplicate key, a trailing comma, NaN) are collected; others raise.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.end = text, name, 0
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[str] = []
        self.step()

    def step(self) -> None:
        """Read the next token."""
        match = _TOKEN.match(self.text, self.end)
        assert match is not None  # it takes anything
        self.token, self.at, self.end = match[1], match.start(1), match.end()
        if self.token in ("//", "/*", "#"):
            raise self.fail('JSON has no comments: delete it, or keep it under a key of your own ("comment": …)')

    def where(self, offset: int = 0) -> str:
        at = self.at + offset
        line = self.text.count("\n", 0, at) + 1
        return f"{self.name}:{line}:{at - self.text.rfind(chr(10), 0, at)}"

    def fail(self, message: str, offset: int = 0) -> ConfigError:
        return ConfigError("\n  ".join([*self.problems, f"{self.where(offset)}: {message}"]))

    def found(self) -> str:
        return repr(self.token[:1]) if self.token else "the end of the file"

    def parse(self) -> Any:
        if not self.token:
            raise self.fail("the file is empty: a config is an object in braces { … }")
        value = self.value(())
        if self.token:
            raise self.fail(f"unexpected {self.found()} after the end of the config")
        if self.problems:
            raise ConfigError("\n  ".join(self.problems))
        return value

    def value(self, path: KeyPath) -> Any:
        self.origins[path] = self.where()
        if self.token in ("{", "["):
            return self.container(path)
        value, token = None, self.token
        if token.lstrip("-+") in ("NaN", "Infinity"):
            self.problems.append(f"{self.where()}: {token} is no JSON number")
        elif token in _PYTHON:
            self.problems.append(f"{self.where()}: {token} is Python: write {_PYTHON[token]}")
        elif token[:1] == "'" and token[1:]:
            self.problems.append(f'{self.where()}: strings stand in double quotes: "{token[1:-1]}"')
        else:
            value = self.plain()
        self.step()
        return value

    def plain(self) -> Any:
        """The string, number or word in hand."""
        if not self.token:
            raise self.fail("the file ends too early: a closing brace or bracket is missing")
        try:
            return json.loads(self.token)
        except json.JSONDecodeError as error:
            if self.token[0] == '"':
                raise self.fail(f"bad string: {error.msg}", error.pos) from None
            raise self.fail(f"expected a value, found {self.token!r}") from None
        except ValueError as error:  # an integer of thousands of digits
            raise self.fail(str(error)) from None

    def container(self, path: KeyPath) -> Any:
        items: dict[str, Any] = {}
        ordered, closing = self.token == "[", {"{": "}", "[": "]"}[self.token]
        self.step()
        while self.token != closing:
            here = self.where()
            key: Any = len(items) if ordered else self.key(items, path)
            items[key] = self.value((*path, key))
            self.origins[(*path, key)] = here
            comma = self.where()
            if self.token not in (",", closing):
                raise self.fail(f"expected a comma or {closing!r}, found {self.found()}")
            if self.token == ",":
                self.step()
                if self.token == closing:
                    self.problems.append(f"{comma}: a comma before the closing {closing!r}: JSON has none there")
        self.step()
        return list(items.values()) if ordered else items

    def key(self, items: dict[str, Any], path: KeyPath) -> str:
        if self.token[:1] != '"':
            raise self.fail(f"expected a key in double quotes, found {self.found()}")
        key = str(self.plain())
        if key in items:
            first = self.origins[(*path, key)]
            self.problems.append(f"{self.where()}: the key {key!r} is there twice (first at {first})")
        self.step()
        if self.token != ":":
            raise self.fail(f"expected a colon after the key {key!r}")
        self.step()
        return key


def parse_json(text: str, name: str) -> Source:
    """Parse the text of a config.

    Raises:
        ConfigError: with the place of each problem.
    """
    try:
        parser = _Parser(text, name)
        values = parser.parse()
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}:1:1: a config is an object in braces {{ … }}, found {kind(values)}")
    return Source(values, parser.origins, name)


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
