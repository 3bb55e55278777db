"""Plain values of a config: their key paths, and their words in messages."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: The keys of objects and the indices of lists that lead to a value.
KeyPath = tuple[str | int, ...]


def dotted(path: KeyPath) -> str:
    """A key path as people write it: trainer.epochs, metrics.0."""
    return ".".join(str(key) for key in path)


def in_words(value: Any) -> str:
    """A value in plain words, for an error message."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value, ensure_ascii=False, default=str)[:60]


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


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that `word` is probably a slip of, or None.

    Case, dashes and underscores don't count.
    """
    by_letters: dict[str, str] = {}
    for name in names:
        by_letters.setdefault(_letters(name), name)  # the first of those that are alike
    found = difflib.get_close_matches(_letters(word), by_letters, 1, 0.75)
    if not found:
        return None
    return by_letters[found[0]]


def _letters(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
