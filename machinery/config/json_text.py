"""JSON whose values know where they stand in the text, such as "config.json:12:5".

As people write it: with comments (// and /* */), and commas before closing brackets. What the
program writes is strict JSON.
"""

import bisect
import json
import re
from typing import Any, NamedTuple

from machinery.config.values import KeyPath, in_words
from machinery.errors import ConfigError

#: A string, a mark, or a word or number of JSON.
_TOKEN = re.compile(r'[ \t\n\r]*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^ \t\n\r{}\[\],:"]+)')
#: A string, or a comment; one of either that does not end is all of the rest.
_COMMENT = re.compile(r"""("(?:[^"\\]|\\.)*"?)|//[^\n]*|/\*(?:.*?\*/|.*)""", re.DOTALL)
#: A string, a comma without a value before it, or one before a closing bracket.
_LAST_COMMA = re.compile(r"""("(?:[^"\\]|\\.)*"?|[{\[,:]\s*,)|,(?=\s*[}\]])""", re.DOTALL)
#: What is wrong where the standard library stumbles, by what stands there.
_HINTS = (
    (r"#", "comments begin with //"),
    (r"/\*", "a comment that begins with /* ends with */"),
    (r"\\", "a backslash in a string is written twice; paths may have / in its place"),
    (r"True|False|None", "write true, false and null, not True, False and None"),
    (r"'", "strings and keys stand in double quotes"),
    (r",\s*[}\]]", "a comma, but no value before it"),
    (r"\.\d", "a number begins with a digit: 0.5, not .5"),
    (r"\A\s*[^\s{\[\"\d-]", "a config is JSON, an object in braces { … }, and no YAML or TOML"),
    (r"$", "the file ends too early: a closing brace or bracket is missing"),
)


class Parsed(NamedTuple):
    """The values of a text, and the origin of each."""

    values: dict[str, Any]
    origins: dict[KeyPath, str]


def parse(text: str, name: str) -> Parsed:
    """Parse the text of a config.

    Args:
        text, name: of the file.

    Raises:
        ConfigError: with the origin of the problem.
    """
    positions = _Positions(text, name)
    text = _LAST_COMMA.sub(_blank, _COMMENT.sub(_blank, text))
    if not text.strip():
        raise ConfigError(f"{name}:1:1: the file is empty: a config is an object in braces {{ … }}")
    try:
        values = json.loads(text)
        walk = _Walk(text, positions)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{positions.origin(error.pos)}: {_hint(text, error)}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deeply") from None
    except ValueError as error:  # an integer of thousands of digits
        raise ConfigError(f"{name}: {error}") from None
    if not isinstance(values, dict):
        found = in_words(values)
        raise ConfigError(f"{name}:1:1: a config is an object in braces {{ … }}, found {found}")
    if walk.problems:
        raise ConfigError("\n  ".join(walk.problems))
    return Parsed(values, walk.origins)


def _blank(found: re.Match[str]) -> str:
    """What stands in the place of what strict JSON has not: blanks, so that positions stay."""
    whole = found[0]
    is_open = whole.startswith("/*") and (len(whole) < 4 or not whole.endswith("*/"))
    if found[1] is not None or is_open:
        return whole
    return re.sub(r"[^\n]", " ", whole)


def _hint(text: str, error: json.JSONDecodeError) -> str:
    """What is wrong, by what stands where the standard library stumbled."""
    for pattern, hint in _HINTS:
        if re.compile(pattern).match(text, error.pos):
            return hint
    return error.msg


class _Positions:
    """Tells positions in a text as editors understand them.

    Args:
        text, name: of the file.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        self.line_starts = [0]
        for newline in re.finditer("\n", text):
            self.line_starts.append(newline.end())

    def origin(self, at: int) -> str:
        """The position `at` as file:line:column."""
        line = bisect.bisect_right(self.line_starts, at)
        column = at - self.line_starts[line - 1] + 1
        return f"{self.name}:{line}:{column}"


class _Walk:
    """Finds the origin of each value in a text that is JSON, by walking over its tokens once more.

    Args:
        text: of the file.
        positions: in it.
    """

    def __init__(self, text: str, positions: _Positions) -> None:
        self.origins: dict[KeyPath, str] = {}
        self.problems: list[str] = []
        self._positions = positions
        self._tokens = _TOKEN.finditer(text)
        self._value((), next(self._tokens))

    def _value(self, path: KeyPath, token: re.Match[str]) -> None:
        origin = self._positions.origin(token.start(1))
        self.origins.setdefault(path, origin)  # that of a key is noted already
        if token[1] == "{":
            self._object(path)
        elif token[1] == "[":
            self._list(path)
        elif token[1].lstrip("-") in ("NaN", "Infinity"):
            self.problems.append(f"{origin}: {token[1]} is no JSON number")

    def _object(self, path: KeyPath) -> None:
        token = self._next_item()
        while token[1] != "}":
            here = (*path, json.loads(token[1]))
            self._note_key(here, self._positions.origin(token.start(1)))
            next(self._tokens)  # the colon
            self._value(here, next(self._tokens))
            token = self._next_item()

    def _note_key(self, path: KeyPath, origin: str) -> None:
        """Note the origin of a key, which a value shares."""
        if path in self.origins:
            first = self.origins[path]
            self.problems.append(
                f"{origin}: the key {path[-1]!r} is there twice (first at {first})"
            )
        self.origins[path] = origin

    def _list(self, path: KeyPath) -> None:
        index = 0
        token = self._next_item()
        while token[1] != "]":
            self._value((*path, index), token)
            index += 1
            token = self._next_item()

    def _next_item(self) -> re.Match[str]:
        """The first token of the next item, or the bracket at the end."""
        token = next(self._tokens)
        if token[1] == ",":
            return next(self._tokens)
        return token
