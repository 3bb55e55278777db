"""Values that remember where they came from, so that every error can name the place: read, inherited, overridden."""

import bisect
import difflib
import fnmatch
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from machinery.errors import ConfigError

#: A dotted path as a tuple: keys of objects, and indices of lists.
KeyPath = tuple[str | int, ...]
LOADERS = ("data_loader", "valid_data_loader", "test_data_loader")


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


def kind(value: Any) -> str:
    """A value in plain words, for an error message."""
    name = "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else ""
    return name or json.dumps(value, ensure_ascii=False, default=str)[:60]


def merge(below: Source, above: Source) -> None:
    """Lay `above` over `below`: objects merge, everything else replaces, and so does a component of another type."""

    def lay(lower: dict[str, Any], upper: dict[str, Any], path: KeyPath) -> None:
        for key, value in upper.items():
            here = (*path, key)
            old: Any = lower.get(key)
            both = isinstance(value, dict) and isinstance(old, dict)
            if both and (
                here == ("trainer",) or value.get("type", old.get("type")) == old.get("type")
            ):
                below.origins[here] = above.origins.get(here, above.name)
                lay(old, value, here)
                continue
            lower[key] = value
            for stale in [p for p in below.origins if p[: len(here)] == here]:
                del below.origins[stale]
            below.origins.update(
                {p: origin for p, origin in above.origins.items() if p[: len(here)] == here}
            )

    lay(below.values, above.values, ())


def override(
    source: Source, path: KeyPath, value: Any, origin: str, known: Callable[[KeyPath], list[str]]
) -> None:
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
        elif (
            isinstance(target, dict) and key in known(path[:depth]) and target.get(str(key)) is None
        ):
            target[str(key)] = target = {}
        else:
            raise _no_place(
                origin,
                here,
                "is no section of the config",
                target if isinstance(target, dict) else (),
            )
    if isinstance(target, list):
        _item(target, path[-1], path, origin)
        target[int(path[-1])] = value
    elif path[-1] in target or path[-1] in known(path[:-1]) or "args" in path[:-1]:
        target[str(path[-1])] = value
    else:
        raise _no_place(
            origin, path, "is neither in the config nor a known key", [*target, *known(path[:-1])]
        )
    source.origins = {p: origin for p, origin in source.origins.items() if p[: len(path)] != path}
    source.origins[path] = origin


def _no_place(origin: str, path: KeyPath, what: str, names: Iterable[str]) -> ConfigError:
    near = nearest(str(path[-1]), names)
    hint = f": did you mean {dotted((*path[:-1], near))}?" if near else ""
    return ConfigError(f"{origin}: {dotted(path)} {what}{hint}")


def _item(items: list[Any], key: str | int, path: KeyPath, origin: str) -> Any:
    if not re.fullmatch(r"[0-9]{1,9}", str(key)) or int(key) >= len(items):
        raise ConfigError(
            f"{origin}: {dotted(path)}: the list has {len(items)} items, counted from 0"
        )
    return items[int(key)]


def read_value(text: str) -> Any:
    """A value from the command line: JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=lambda name: name)
    except (ValueError, RecursionError):
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


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that `word` is probably a slip of, or None; case, dashes and underscores don't count."""
    plain = {_plain(name): name for name in [*names][::-1]}  # the first of a kind
    found = difflib.get_close_matches(_plain(word), plain, 1, 0.75)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()


def matching(pattern: str, names: list[str], where: str) -> list[str]:
    """The names of parameters that a pattern matches.

    Raises:
        ConfigError: none, with those there are.
    """
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        there = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
        raise ConfigError(f"{where}: {pattern!r} matches no parameter; there are: {there}")
    return found


#: A string, a mark, or a word or number of JSON.
_TOKEN = re.compile(r'[ \t\n\r]*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^ \t\n\r{}\[\],:"]+)')
#: What is wrong where the standard library stumbles, by what stands there.
_HINTS = (
    (
        r"//|/\*|#",
        'JSON has no comments: delete it, or keep it under a key of your own ("comment": …)',
    ),
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
        self.place = partial(place, _starts(text), name)
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[str] = []
        self.tokens = _TOKEN.finditer(text)
        self.value((), next(self.tokens))

    def value(self, path: KeyPath, token: re.Match[str]) -> None:
        self.origins.setdefault(path, self.place(token.start(1)))
        if token[1].lstrip("-") in ("NaN", "Infinity"):
            self.problems.append(f"{self.place(token.start(1))}: {token[1]} is no JSON number")
        for number in itertools.count() if token[1] in "{[" else ():
            item = next(self.tokens)
            if item[1] in "}]":
                return
            if item[1] == ",":
                item = next(self.tokens)
            key: Any = number
            if token[1] == "{":
                key, here = json.loads(item[1]), self.place(item.start(1))
                if (*path, key) in self.origins:
                    first = self.origins[(*path, key)]
                    self.problems.append(
                        f"{here}: the key {key!r} is there twice (first at {first})"
                    )
                self.origins[(*path, key)] = here
                next(self.tokens)  # the colon
                item = next(self.tokens)
            self.value((*path, key), item)


def place(starts: list[int], name: str, at: int) -> str:
    """The position `at` in a text whose lines start there, as editors understand it: file:line:column."""
    line = bisect.bisect_right(starts, at)
    return f"{name}:{line}:{at - starts[line - 1] + 1}"


def _starts(text: str) -> list[int]:
    return [0, *(match.end() for match in re.finditer("\n", text))]


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
        hint = next(
            (hint for pattern, hint in _HINTS if re.compile(pattern).match(text, error.pos)),
            error.msg,
        )
        raise ConfigError(f"{place(_starts(text), name, error.pos)}: {hint}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{name}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(
            f"{name}:1:1: a config is an object in braces {{ … }}, found {kind(values)}"
        )
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
        raise ConfigError(
            f"{source.where(('base',))}: base: expected the path of a config, found {kind(base)}"
        )
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
