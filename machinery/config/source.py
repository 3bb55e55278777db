"""Values that remember where they came from, so that every error can name it; their key paths."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from machinery import secrets
from machinery.config import json_text
from machinery.config.values import KeyPath, in_words, is_sets
from machinery.errors import ConfigError
from machinery.files import did_you_mean


def dotted(path: KeyPath) -> str:
    """A key path as people write it: trainer.epochs, metrics.0."""
    return ".".join(str(key) for key in path)


def to_plain(value: Any) -> Any:
    """Copy mappings and lists as plain containers."""
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def leaves(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """All plain values (and empty containers) below a container, with their key paths."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list) and value:
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path, value


class Entry(NamedTuple):
    """A plain value, or an empty container, of a config."""

    #: Its key path, dotted.
    key: str
    value: Any
    origin: str


@dataclass
class Source:
    """Values, and for each key path of theirs its origin, such as "config.json:12:5"."""

    values: dict[str, Any]
    origins: dict[KeyPath, str] = field(default_factory=dict)
    name: str = "config"
    #: Whether it is for a script of a classic project's kind, which reads it itself.
    classic: bool = False

    @classmethod
    def of(cls, values: Any, name: str = "config") -> "Source":
        """A source of a copy of values that no file holds."""
        return cls(to_plain(values), name=name)

    @classmethod
    def parse(cls, text: str, name: str) -> "Source":
        """Parse the text of a config file.

        Raises:
            ConfigError: with the origin of the problem.
        """
        parsed = json_text.parse(text, name)
        return cls(parsed.values, parsed.origins, name)

    @classmethod
    def read(cls, path: Path) -> "Source":
        """Read a config file and those it inherits from.

        Raises:
            ConfigError: a file cannot be read or parsed, or inherits from itself.
        """
        return _read(path, ())

    def where(self, path: KeyPath) -> str:
        """The origin of the value at `path`, or of the nearest container around it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return self.name

    def entries(self) -> list[Entry]:
        """All plain values, and empty containers."""
        found = []
        for path, value in leaves(self.values):
            found.append(Entry(dotted(path), value, self.where(path)))
        return found

    def flat(self) -> dict[str, Any]:
        """All plain values, and empty containers, by dotted key path; without secrets."""
        return {dotted(path): value for path, value in leaves(self.snapshot())}

    def snapshot(self) -> Any:
        """A copy of the values, in plain containers and without secrets: for all records."""
        return secrets.masked(to_plain(self.values))

    def forget(self, path: KeyPath) -> None:
        """Forget the origins of the value at `path`, and of all below it: it is being replaced."""
        for known in list(self.origins):
            if known[: len(path)] == path:
                del self.origins[known]


def merge(below: Source, above: Source) -> None:
    """Lay `above` over `below`.

    Objects merge, everything else replaces, and so does a component of another type.
    """

    def lay(lower: dict[str, Any], upper: dict[str, Any], path: KeyPath) -> None:
        for key, value in upper.items():
            here = (*path, key)
            if _merges(here, lower.get(key), value):
                below.origins[here] = above.origins.get(here, above.name)
                lay(lower[key], value, here)
            else:
                lower[key] = value
                _take_origins(below, above, here)

    lay(below.values, above.values, ())


def replace(below: Source, above: Source) -> None:
    """Let what `above` says of a section stand for all that `below` says of it."""
    for key, value in above.values.items():
        below.values[key] = value
        _take_origins(below, above, (key,))


def _merges(path: KeyPath, old: Any, new: Any) -> bool:
    """Whether what stands at `path` in two configs is one object, of which each says something."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return False
    if path == ("trainer",):  # all trainers have the same settings
        return True
    if len(path) == 1 and is_sets(path[0], old) != is_sets(path[0], new):
        return False
    return "type" not in new or new["type"] == old.get("type")


def _take_origins(below: Source, above: Source, path: KeyPath) -> None:
    """Let the origins of the value at `path` be those of `above`, which it is from."""
    below.forget(path)
    for known, origin in above.origins.items():
        if known[: len(path)] == path:
            below.origins[known] = origin


def _read(path: Path, heirs: tuple[Path, ...]) -> Source:
    """Read a config file, and those it inherits from.

    Args:
        heirs: the files that inherit from this one.
    """
    source = Source.parse(_read_text(path), str(path))
    if path.resolve() in heirs:
        names = " -> ".join(file.name for file in (*heirs, path))
        raise ConfigError(f"{path}: the config inherits from itself: {names}")
    base = source.values.pop("base", None)
    if base is None:
        return source
    if not isinstance(base, str):
        wanted = f"expected the path of a config, found {in_words(base)}"
        raise ConfigError(f"{source.where(('base',))}: base: {wanted}")
    inherited = _read(path.parent / base, (*heirs, path.resolve()))
    merge(inherited, source)
    return Source(inherited.values, inherited.origins, str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # Windows' editors put a mark at the start
    except UnicodeDecodeError as error:
        if b"\0" in error.object:
            raise ConfigError(
                f"{path} is no text: a config is JSON; -r takes a checkpoint"
            ) from None
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: the file is not UTF-8: save it as UTF-8") from None
    except FileNotFoundError as error:
        hint = did_you_mean(path.absolute())
        raise ConfigError(f"{path} cannot be read: {error.strerror}{hint}") from None
    except IsADirectoryError:
        hint = "a config is a file; -r takes the folder of a run"
        raise ConfigError(f"{path} is a folder: {hint}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:  # no path at all
        raise ConfigError(f"{path} cannot be read: {error}") from None


#: Stands for a value that one of the two lacks.
_DEFAULT = "(default)"


class Change(NamedTuple):
    """A value that differs."""

    #: Its dotted key path.
    key: str
    old: Any
    new: Any

    def told(self) -> str:
        """The change in words: key old -> new."""
        values = []
        for value in (self.old, self.new):
            values.append(value if value == _DEFAULT else in_words(value))
        return f"{self.key} {' -> '.join(values)}"


def differences(old: Source, new: Source) -> list[Change]:
    """The values of `new` that differ from those of `old`, and those that only one of them has."""
    before, now = old.flat(), new.flat()
    changes = []
    for key in {**now, **before}:
        change = Change(key, before.get(key, _DEFAULT), now.get(key, _DEFAULT))
        if change.old != change.new:
            changes.append(change)
    return changes
