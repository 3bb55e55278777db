"""The words that messages of a config are made of."""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

#: The keys of objects and the indices of lists that lead to a value.
KeyPath = tuple[str | int, ...]


def in_words(value: Any) -> str:
    """A value in plain words, for an error message."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value, ensure_ascii=False, default=str)[:60]


def is_sets(section: str | int, value: Any) -> bool:
    """Whether a section is no component but an object of several loaders by name; null is none.

    Args:
        section: its name; only evaluations have several sets of data.
    """
    if not str(section).endswith("_data_loader") or not isinstance(value, dict) or not value:
        return False
    if not value.keys().isdisjoint(("type", "args")):
        return False
    parts = [each for each in value.values() if each is not None]
    return bool(parts) and all(isinstance(each, dict) for each in parts)


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
