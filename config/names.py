"""Names: which one a word is probably a slip of, and which a pattern means."""

import difflib
import fnmatch
import re
from collections.abc import Iterable

from utils.errors import ConfigError


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that `word` is probably a slip of, or None; case, dashes and underscores don't count."""
    plain = {_plain(name): name for name in names}
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
