"""A table of all runs: python tools/runs.py --sort best --filter 'lr<0.01'; --diff A B, --html page.html"""

import argparse
import json
import operator
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.errors import ConfigError, StorageError
from machinery.files import ROOT, replacing
from machinery.telling import catch_user_errors, printable

try:
    import pandas as pd

    from tools.history.records import Record, as_table, defaults, differences, find_runs, number, scalar
except ImportError as error:
    raise SystemExit(f"error: {error}; pip install -r requirements-tools.txt") from None

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    "~": lambda a, b: re.search(b, a) is not None,
}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="A table of runs: what they were, how they went, what they reached.")
    parser.add_argument("paths", nargs="*", type=Path, default=[ROOT], help="projects, folders of runs, or runs")
    parser.add_argument("--sort", metavar="COLUMN", help="by a column or a key of the config")
    parser.add_argument("--reverse", action="store_true", help="the largest first")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="CONDITION",
        help="COLUMN=VALUE, or with != < <= > >= or ~ (a pattern); a key of the config serves as a column",
    )
    parser.add_argument("--show", nargs="+", default=[], metavar="KEY", help="more columns: keys of the config")
    parser.add_argument("--diff", nargs="+", metavar="RUN", help="only what differs between these")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with curves, differences and pictures")
    args = parser.parse_args()
    for path in args.paths:
        if not os.path.isdir(path):  # noqa: PTH112 - too long a name is no folder, either
            raise ConfigError(f"{path} is no folder")
    records = find_runs(args.paths)
    if args.diff:
        if len(args.diff) < 2:
            raise ConfigError("--diff wants the names of at least two runs")
        records = [_named(records, name) for name in args.diff]
        print(_shown(differences(records), index=True))
    else:
        for name in [args.sort, *args.show, *(_parsed(each)[0] for each in args.filter)]:
            _check_known(records, name)
        records = [record for record in records if all(_meets(record, each) for each in args.filter)]
        records = _sorted(records, args.sort, args.reverse)
        for key in args.show:
            for record in records:
                record.row[key] = _value(record, key)
    table = as_table(records)
    if not args.diff:
        print(_shown(table) if len(table) else "no runs")
    for file, text in ((args.csv, _to_csv), (args.html, _to_page)):
        if file is not None:
            _write(file, text(differences(records) if args.diff and text is _to_csv else table, records))
            print(printable(f"wrote {file}"))


def _to_csv(table: "pd.DataFrame", records: list["Record"]) -> str:
    return table.to_csv(index=table.index.name is not None)


def _to_page(table: "pd.DataFrame", records: list["Record"]) -> str:
    from tools.history.page import page  # matplotlib takes a second

    return page(table, records)


def _write(file: Path, text: str) -> None:
    """Write a file, in the place of an earlier one; a pipe or a link stays what it is."""
    try:
        apart = file.is_symlink() or (file.exists() and not file.is_file())
        with file.open("w", encoding="utf-8") if apart else replacing(file, "w") as out:
            out.write(text)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror or error}") from error


def _named(records: list["Record"], name: str) -> "Record":
    """The run that a name or a folder means."""
    folder = Path(os.path.realpath(name))
    found = [record for record in records if record.folder.resolve() == folder]
    found = found or [record for record in records if name in (record.name, record.folder.name)]
    if not found and os.path.isdir(folder):  # noqa: PTH112
        found = find_runs([folder])
    if len(found) != 1:
        there = ", ".join(record.name for record in (found or records)[:10])
        raise ConfigError(
            f"--diff {name}: {'several runs have' if found else 'no run has'} this name; there are: {there}"
        )
    return found[0]


def _value(record: "Record", name: str) -> Any:
    """What a column, or a key of the config, is for a run; None if it has none."""
    if name == "epochs":
        done = str(record.row.get(name, "")).partition("/")[0]
        return int(done) if done.isdecimal() else None
    if name not in record.row and any(key.startswith(f"{name}.") for key in record.config):
        name = f"{name}.type"  # of a component
    value = record.row.get(name, record.config.get(name, defaults().get(name)))
    return None if value is None or value != value else scalar(value)  # NaN is no value


def _meets(record: "Record", condition: str) -> bool:
    name, sign, wanted = _parsed(condition)
    value = _value(record, name)
    text = "null" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)
    if sign == "~":
        return re.search(wanted, text) is not None
    numbers = [_number(each) for each in (value, wanted)]
    if None not in numbers:
        return bool(_OPERATORS[sign](*numbers))
    if sign in ("=", "==", "!="):
        return bool(_OPERATORS[sign](text.lower(), wanted.lower()))
    return bool(value is not None and numbers == [None, None] and _OPERATORS[sign](text, wanted))


def _parsed(condition: str) -> tuple[str, str, str]:
    parts = re.fullmatch(r"(.+?)(<=|>=|!=|==|=|<|>|~)(.*)", condition)
    if parts is None:
        raise ConfigError(f"--filter {condition}: expected COLUMN=VALUE, or another of {' '.join(_OPERATORS)}")
    name, sign, wanted = (part.strip() for part in parts.groups())
    if sign == "~":
        try:
            re.compile(wanted)
        except re.error as error:
            raise ConfigError(f"--filter {condition}: {error}") from None
    return name, sign, wanted


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")
    except (TypeError, ValueError):
        return None


def _check_known(records: list["Record"], name: str | None) -> None:
    if name is not None and records and name not in defaults():
        if not any(name in {*each.row, *each.config} or f"{name}.type" in each.config for each in records):
            raise ConfigError(f"{name}: no run has it; there are: {', '.join(records[0].row)}, and keys of configs")


def _sorted(records: list["Record"], name: str | None, reverse: bool) -> list["Record"]:
    """By a column; runs that have no such value come last."""
    if name is None:
        return records[::-1] if reverse else records
    values = [(_value(record, name), record) for record in records]
    there = [(value, record) for value, record in values if value not in (None, "") and value == value]  # NaN is not
    numbers = all(_number(value) is not None for value, _ in there)

    def key(pair: tuple[Any, "Record"]) -> Any:
        return _number(pair[0]) if numbers else str(pair[0])

    found = [record for _, record in sorted(there, key=key, reverse=reverse)]
    return found + [record for record in records if all(record is not other for other in found)]


def _shown(table: "pd.DataFrame", index: bool = False) -> str:
    """A table for the terminal, without columns that hold nothing."""
    if index and table.empty:
        return "no differences"
    for name in table if not index else ():
        texts = ["" if value is None or value != value else str(value) for value in table[name]]
        if name not in ("run", "status") and not any(texts):
            table = table.drop(columns=name)
        elif name in ("run", "status", "monitor"):
            table = table.assign(**{name: [text.ljust(max(map(len, texts))) for text in texts]})
    width = max(shutil.get_terminal_size((120, 24)).columns, 60)
    options: Any = {"index": index, "index_names": False, "na_rep": "", "line_width": width, "float_format": number}
    return printable(table.to_string(**options))


if __name__ == "__main__":
    catch_user_errors()
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
