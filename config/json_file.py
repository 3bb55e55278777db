"""Reads a config file as JSON and notes where each value stands; and the files that it inherits from (`"base"`)."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

from config.source import KeyPath, Source, kind, merge
from utils.errors import ConfigError

#: A string, a mark, or a word or number of JSON.
_TOKEN = re.compile(r'[ \t\n\r]*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^ \t\n\r{}\[\],:"]+)')
#: What is wrong where the standard library stumbles, by what stands there.
_HINTS = (
    (r"//|/\*|#", 'JSON has no comments: delete it, or keep it under a key of your own ("comment": …)'),
    (r"True|False|None", "write true, false and null, not True, False and None"),
    (r"'", "strings and keys stand in double quotes"),
    (r",?\s*[}\]]", "a comma before the closing bracket: JSON has none there"),
    (r"$", "the file ends too early: a closing brace or bracket is missing"),
)


class _Places:
    """Finds the place of each value in a text that is JSON, by walking over its tokens once more.

    Args:
        text, name: of the file.
    """

    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[str] = []
        self.tokens = _TOKEN.finditer(text)
        self.value((), next(self.tokens))

    def where(self, at: int) -> str:
        return place(self.text, self.name, at)

    def value(self, path: KeyPath, token: re.Match[str]) -> None:
        self.origins.setdefault(path, self.where(token.start(1)))
        if token[1].lstrip("-") in ("NaN", "Infinity"):
            self.problems.append(f"{self.where(token.start(1))}: {token[1]} is no JSON number")
        for number in itertools.count() if token[1] in "{[" else ():
            item = next(self.tokens)
            if item[1] in "}]":
                return
            if item[1] == ",":
                item = next(self.tokens)
            key: Any = number
            if token[1] == "{":
                key, here = json.loads(item[1]), self.where(item.start(1))
                if (*path, key) in self.origins:
                    first = self.origins[(*path, key)]
                    self.problems.append(f"{here}: the key {key!r} is there twice (first at {first})")
                self.origins[(*path, key)] = here
                next(self.tokens)  # the colon
                item = next(self.tokens)
            self.value((*path, key), item)


def place(text: str, name: str, at: int) -> str:
    """The position `at` in a text, as editors understand it: file:line:column."""
    return f"{name}:{text.count(chr(10), 0, at) + 1}:{at - text.rfind(chr(10), 0, at)}"


def parse_json(text: str, name: str) -> Source:
    """Parse the text of a config.

    Raises:
        ConfigError: with the place of the problem.
    """
    if not text.strip():
        raise ConfigError(f"{name}:1:1: the file is empty: a config is an object in braces {{ … }}")
    try:
        values = json.loads(text)
        places = _Places(text, name)
    except json.JSONDecodeError as error:
        hint = next((hint for pattern, hint in _HINTS if re.compile(pattern).match(text, error.pos)), error.msg)
        raise ConfigError(f"{place(text, name, error.pos)}: {hint}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{name}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{name}:1:1: a config is an object in braces {{ … }}, found {kind(values)}")
    if places.problems:
        raise ConfigError("\n  ".join(places.problems))
    return Source(values, places.origins, name)


def read_source(path: Path, chain: tuple[Path, ...] = ()) -> Source:
    """Read a config file and those it inherits from.

    Raises:
        ConfigError: a file cannot be read or parsed, or inherits from itself.
    """
    source = parse_json(_read_text(path), str(path))
    if path.resolve() in chain:
        names = " -> ".join(file.name for file in (*chain, path))
        raise ConfigError(f"{path}: the config inherits from itself: {names}")
    base = source.values.pop("base", None)
    if base is None:
        return source
    if not isinstance(base, str):
        raise ConfigError(f"{source.where(('base',))}: base: expected the path of a config, found {kind(base)}")
    below = read_source(path.parent / base, (*chain, path.resolve()))
    merge(below, source)
    return Source(below.values, below.origins, str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: the file is not UTF-8: save it as UTF-8") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {getattr(error, 'strerror', error)}") from None
