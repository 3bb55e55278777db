"""Tables of runs: what they reached, and what differs between them."""

import json
from typing import Any

import pandas as pd

from tools.history.records import Record, defaults, is_missing, scalar

#: Stands for a value that a run lacks.
_NOTHING = "—"
#: Facts of the environment that differ between any runs.
_NO_FACTS = ("command", "host")
#: Whole numbers beyond are shown by their powers of ten.
_LARGE = 1e15
#: How a text begins that a spreadsheet takes for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def as_table(records: list[Record]) -> pd.DataFrame:
    """A line for each run; numbers of tests stand beside the best value."""
    table = pd.DataFrame([record.row for record in records], dtype=object)
    tests = [name for name in table if name.startswith("test_")]
    others = [name for name in table if name not in tests]
    place = len(others)
    if "monitor" in others:
        place = others.index("monitor") + 1
    return table[[*others[:place], *tests, *others[place:]]]


def differences(records: list[Record]) -> pd.DataFrame:
    """What differs between runs: a line for each key of the config, and of the environment.

    Each run has a column.
    """
    keys: dict[str, None] = {}
    for record in records:
        keys.update(dict.fromkeys([*record.config, *_facts(record)]))
    names = [record.name for record in records]
    columns = {}
    for record in records:
        name = record.name
        if names.count(name) > 1:
            name = scalar(str(record.folder))
        columns[name] = _texts(record, list(keys))
    table = pd.DataFrame(columns, index=list(keys), dtype=object)
    table = table.fillna(_NOTHING).rename_axis("key")
    differ = table.nunique(axis=1) > 1
    return table[differ]


def _facts(record: Record) -> dict[str, Any]:
    """What is known of a run's environment, by names that no key of a config has."""
    found = {}
    for name, value in record.environment.items():
        if name not in _NO_FACTS:
            found[f"({scalar(name)})"] = value
    return found


def _texts(record: Record, keys: list[str]) -> dict[str, str]:
    """What a run has for each key, as text: what its config leaves out has a value, too."""
    values = {**record.config, **_facts(record)}
    for key in defaults():
        if key in keys and record.leaves_out(key):
            values[key] = defaults()[key]
    return {key: _text(value) for key, value in values.items()}


def _text(value: Any) -> str:
    """A value of a config or an environment: texts as they are, all else as JSON has it."""
    if not isinstance(value, str):
        value = json.dumps(value, default=str)
    return str(scalar(value))


def for_spreadsheets(table: pd.DataFrame) -> pd.DataFrame:
    """A table of which no cell is a formula: a run may come from anybody.

    Source: OWASP, "CSV Injection".
    """
    cells = {}
    for number in range(table.shape[1]):  # by number: a name may be there twice
        values = [_no_formula(value) for value in table.iloc[:, number]]
        cells[number] = pd.Series(values, table.index, dtype=object)
    safe = pd.DataFrame(cells, index=table.index)
    safe.columns = pd.Index([_no_formula(name) for name in table.columns])
    safe.index = [_no_formula(name) for name in table.index]
    safe.index.name = table.index.name
    return safe


def _no_formula(value: Any) -> Any:
    """A cell of a CSV file; a text that a spreadsheet would run begins with a quote."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def labels(keys: list[str], taken: tuple[str, ...] = ()) -> dict[str, str]:
    """Short names of keys of a config: their last words, as many as it takes to tell them apart.

    Args:
        taken: names that stand for something else.
    """
    found: dict[str, str] = {}
    for key in keys:
        words = key.removesuffix(".type").replace(".args.", ".").split(".")
        for count in range(1, len(words) + 1):
            short = ".".join(words[-count:])
            if short not in taken and not _is_end(short, key, keys):
                break
        else:
            short = f"config.{short}"
        found[key] = short
    return found


def _is_end(short: str, key: str, keys: list[str]) -> bool:
    """Whether the short name of a key could be that of another one, too."""
    for other in keys:
        text = other.removesuffix(".type").replace(".args.", ".")
        if other != key and (text == short or text.endswith(f".{short}")):
            return True
    return False


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if is_missing(value):
        return ""
    if isinstance(value, float):
        return number(value)
    return str(value)


def number(value: float) -> str:
    """A number as a table shows it: whole ones whole."""
    if float(value).is_integer() and abs(value) < _LARGE:
        return f"{value:.0f}"
    return f"{value:.4g}"
