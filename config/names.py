"""Names: which one a word is probably a slip of, and which a pattern means."""

import difflib
import fnmatch
import re

from utils.errors import ConfigError


def nearest(word: str, names: list[str]) -> str | None:
    """The name that `word` is probably a slip of, or None."""
    near = [name for name in names if similar(word, name)]
    return max(near, key=lambda name: difflib.SequenceMatcher(None, word, name).ratio(), default=None)


def similar(word: str, name: str) -> bool:
    """Whether one is within a slip or two of the other, or the same but for case, dashes and underscores."""
    word, name = (re.sub(r"[-_ ]", "", text).lower() for text in (word, name))
    return word == name or distance(word, name) <= (2 if min(len(word), len(name)) > 5 else 1)


def distance(a: str, b: str) -> int:
    """Letters to insert, drop, replace or swap with their neighbour to turn `a` into `b`."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and y == a[i - 2]:
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]


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
