"""Reads a config file as JSON and notes where each value stands; and the files that it inherits from (`"base"`)."""

import json
import re
from json.decoder import scanstring  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from config.source import KeyPath, Source, kind, merge
from utils.errors import ConfigError

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")
_SPACE = " \t\n\r"


class _Parser:
    """A JSON parser by recursive descent that notes the position of each value.

    Problems that do not hide what follows (a duplicate key, a trailing comma, NaN) are collected; others raise.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name, self.at = text, name, 0
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[str] = []

    def where(self, at: int) -> str:
        line = self.text.count("\n", 0, at) + 1
        return f"{self.name}:{line}:{at - self.text.rfind(chr(10), 0, at)}"

    def fail(self, message: str, at: int | None = None) -> ConfigError:
        return ConfigError("\n  ".join([*self.problems, f"{self.where(self.at if at is None else at)}: {message}"]))

    def note(self, message: str, at: int) -> None:
        self.problems.append(f"{self.where(at)}: {message}")

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
        self.origins[path] = self.where(self.at)
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
            self.origins[(*path, key)] = self.where(start)
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
