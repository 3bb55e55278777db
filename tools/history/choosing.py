"""Which runs a table shows, and in which order: by its columns, and by any key of a config."""

import json
import operator
import re
from collections import ChainMap
from collections.abc import Callable
from typing import Any, NamedTuple

from machinery.errors import ConfigError
from tools.history.records import Record, defaults, is_missing, scalar

#: What the signs of a condition ask of a value and of what is wanted.
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_EQUALITIES = ("=", "==", "!=")
_MATCHES = "~"
_SIGNS = (*_COMPARISONS, _MATCHES)


class Condition(NamedTuple):
    """What a run has to meet, such as lr<0.01."""

    #: A column, or a key of the config.
    name: str
    #: One of the comparisons, or that of a pattern.
    sign: str
    wanted: str


def parsed_condition(text: str) -> Condition:
    """A condition as people write it.

    Raises:
        ConfigError: it is none, or its pattern is none.
    """
    parts = re.fullmatch(rf"(.+?)({'|'.join(_SIGNS)})(.*)", text)
    if parts is None:
        expected = f"COLUMN=VALUE, or another of {' '.join(_SIGNS)}"
        raise ConfigError(f"--filter {text}: expected {expected}")
    condition = Condition(parts[1].strip(), parts[2], parts[3].strip())
    if not condition.wanted and condition.sign not in (_MATCHES, *_EQUALITIES):
        raise ConfigError(f"--filter {text}: {condition.sign} wants a value behind it")
    if condition.sign == _MATCHES:
        try:
            re.compile(condition.wanted)
        except re.error as error:
            raise ConfigError(f"--filter {text}: {error}") from None
    return condition


def meets(record: Record, condition: Condition) -> bool:
    """Whether a run is as a condition says: numbers are compared as such, all else as text."""
    value = value_of(record, condition.name)
    if condition.sign == _MATCHES:
        return re.search(condition.wanted, _text(value)) is not None
    compare = _COMPARISONS[condition.sign]
    number = _number(value)
    wanted = _number(condition.wanted)
    if number is not None and wanted is not None:
        return bool(compare(number, wanted))
    if condition.sign in _EQUALITIES:
        return bool(compare(_text(value).lower(), condition.wanted.lower()))
    # No value has no order, and neither have a number and a text.
    if value is None or number is not None or wanted is not None:
        return False
    return bool(compare(_text(value), condition.wanted))


def check_known(records: list[Record], name: str) -> None:
    """Check that a name is a column, or a key of any run's config.

    Raises:
        ConfigError: no run has it.
    """
    if not records or name in defaults():
        return
    for record in records:
        if name in record.row or name in record.config or f"{name}.type" in record.config:
            return
    there = ", ".join(records[0].row)
    raise ConfigError(f"{name}: no run has it; there are: {there}, and keys of configs")


def value_of(record: Record, name: str) -> Any:
    """What a column, or a key of the config, is for a run; None if it has none."""
    if name == "epochs":
        return _epochs_done(record)
    if name not in record.row and record.holds(name):
        name = f"{name}.type"  # a component is known by its type
    value = ChainMap(record.row, record.config, defaults()).get(name)
    if is_missing(value):
        return None
    return scalar(value)


def _epochs_done(record: Record) -> int | None:
    """How many epochs are done, of a column such as 2/10."""
    done = str(record.row.get("epochs", "")).partition("/")[0]
    if done.isdecimal():
        return int(done)
    return None


def _text(value: Any) -> str:
    """A value as a config has it."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)


def _number(value: Any) -> float | None:
    """A value, or a text, as a number; None if it is none."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except OverflowError:
        if value > 0:
            return float("inf")
        return float("-inf")
    except (TypeError, ValueError):
        return None


def ordered(records: list[Record], name: str, reverse: bool) -> list[Record]:
    """Runs by a column: as numbers if all values are some, else as texts.

    Runs that have no value come last.
    """
    having = []
    others = []
    for record in records:
        if value_of(record, name) in (None, ""):
            others.append(record)
        else:
            having.append(record)

    def by_number(record: Record) -> Any:
        """The value that a run is sorted by, as a number."""
        return _number(value_of(record, name))

    def by_text(record: Record) -> Any:
        """The value that a run is sorted by, as text."""
        return str(value_of(record, name))

    order = by_number
    if None in [by_number(record) for record in having]:
        order = by_text
    return sorted(having, key=order, reverse=reverse) + others
