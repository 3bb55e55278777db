"""What no record may hold: values of the environment that a config names, and passwords in it.

`"${NAME}"` in an argument of a config becomes the variable's value when the object is built. What
it became is known here from then on, and is hidden from whatever is written or told.
"""

import json
import os
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, quote_plus

#: In place of a secret that is known by its form; nobody can tell what it was.
MASK = "***"
#: `${NAME}`; with one dollar more it is a text.
_NAME = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")
#: Keys whose values are secrets; the pad_token of a tokenizer is none.
_KEY = (
    r"(?:(?:\w*[_-])?(?:password|passwd|passphrase|secret|(?:api|access|private|secret)[_-]?key)"
    r"|(?:(?:access|auth|api|bearer|hf|hub|github|gitlab|wandb)[_-]?)?token)"
)
_SECRET_KEY = re.compile(_KEY, re.IGNORECASE)
#: Secrets by their form, between what stands before and after them; `${NAME}` is none.
_FORMS = (
    re.compile(r"()((?<=://)[^\s/:@\"']*:)(?!\$\{)[^\s/\"']+(@)"),
    re.compile(rf"([?&;#])({_KEY}=)(?!\$\{{)[^\s&;\"']+()", re.IGNORECASE),
    re.compile(
        rf"([\"'])({_KEY}[\"']\s*[:=]\s*\")(?!\$\{{)(?:[^\"\\]|\\.)+(\")", re.IGNORECASE | re.DOTALL
    ),
    re.compile(
        rf"([\"'])({_KEY}[\"']\s*[:=]\s*')(?!\$\{{)(?:[^'\\]|\\.)+(')", re.IGNORECASE | re.DOTALL
    ),
)
#: Values shorter than this are no secrets, and those below the second are words of their own.
_SHORTEST, _LONG = 4, 8
#: Secrets that objects were built with, and what is shown in place of each.
_taken: dict[str, str] = {}


def names_in(text: str) -> list[str]:
    """The variables of the environment that a text takes."""
    return [match[2] for match in _NAME.finditer(text) if not match[1]]


def filled(text: str) -> str:
    """A text with the values of the variables that it takes, all of which are set."""

    def value_of(match: re.Match[str]) -> str:
        if match[1]:
            return match[0][1:]
        value = os.environ[match[2]]
        _taken[value] = f"${{{match[2]}}}"
        return value

    return _NAME.sub(value_of, text)


def remember(value: Any) -> None:
    """Hide a secret that is written out, wherever it may show."""
    _taken.setdefault(str(value), MASK)


def hidden(text: str) -> str:
    """A text without secrets: `${NAME}` stands for what was taken, `***` for known forms."""
    for value in sorted(_taken, key=len, reverse=True):
        if len(value) < _SHORTEST:
            continue
        for written in _ways_to_write(value):
            text = _without(text, written, _taken[value])
    return _without_forms(text)


def _ways_to_write(value: str) -> set[str]:
    """A text as it is, in an address, in JSON, and in Python."""
    quoted = {quote(value), quote(value, safe=""), quote_plus(value)}
    return {value, value.strip(), *quoted, json.dumps(value)[1:-1], repr(value)[1:-1]}


def _without(text: str, value: str, name: str) -> str:
    """A text with a name in place of a value; a short one may be a part of other words."""
    if len(value) >= _LONG:
        return text.replace(value, name)
    pattern = rf"(?<!\w){re.escape(value)}(?!\w)"
    return re.sub(pattern, lambda _: name, text)


def _without_forms(text: str) -> str:
    """A text without what looks like a secret."""
    for form in _FORMS:
        text = form.sub(rf"\1\2{MASK}\3", text)
    return text


def masked(value: Any, key: str = "") -> Any:
    """A copy of values of a config without the secrets that are known by their form.

    Args:
        key: under which the value stands.
    """
    if isinstance(value, dict):
        return {_without_forms(str(name)): masked(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [masked(item, key) for item in value]
    if is_secret(value, key):
        return MASK
    if isinstance(value, str):
        return _without_forms(value)
    return value


def is_secret(value: Any, key: str) -> bool:
    """Whether a whole value is a secret, by the key under which it, or its list, stands."""
    if isinstance(value, bool | None) or not _SECRET_KEY.fullmatch(key):
        return False
    if isinstance(value, str):
        return value != "" and not names_in(value)
    return not key.lower().endswith("token")  # a number of that name is one of a vocabulary


def is_lost(text: str, key: str) -> bool:
    """Whether a text is what a record shows of a secret; then nobody can tell what it was.

    Args:
        key: under which the text stands.
    """
    other = text.replace(MASK, "other")
    return MASK in text and masked(other, key) != other


def masked_words(words: Sequence[str]) -> list[str]:
    """The words of a command line without secrets."""
    shown = []
    before = ""
    for word in words:
        key = ""
        if before.startswith("-"):
            key = _last(before)
        shown.append(_masked_word(word, key))
        before = word
    return shown


def _masked_word(word: str, option: str) -> str:
    """A word of a command line without secrets: KEY=VALUE, --OPTION=VALUE, or a value.

    Args:
        option: that stands before it.
    """
    key, equals, value = word.partition("=")
    if not equals:
        return hidden(str(masked(word, option)))
    if is_secret(value, _last(key)):
        return f"{key}={MASK}"
    if key.startswith("-"):
        return f"{key}={_masked_word(value, '')}"
    try:
        inside = json.loads(value)
    except (ValueError, RecursionError):  # a text
        return hidden(word)
    if masked(inside, _last(key)) != inside:
        value = json.dumps(masked(inside, _last(key)))
    return hidden(f"{key}={value}")


def _last(key: str) -> str:
    """The last of the keys of a path, or the name of an option."""
    names = [name for name in key.split(".") if not name.isdecimal()]
    return "".join(names[-1:]).lstrip("-")
