"""A table of all runs: python tools/runs.py --sort best --filter 'lr<0.01'

--diff A B shows what differs between runs, --html page.html makes a page of them.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd

from machinery.errors import ConfigError, StorageError
from machinery.files import ROOT, replacing
from machinery.telling import catch_user_errors, printable
from tools.history.choosing import (
    Condition,
    check_known,
    meets,
    ordered,
    parsed_condition,
    value_of,
)
from tools.history.finding import find_runs
from tools.history.records import Record
from tools.history.tables import as_table, cell, differences, for_spreadsheets, number

#: Columns that are shown also where they hold nothing.
_ALWAYS = ("run", "status")
#: Columns of words; all others stand at the right.
_AT_THE_LEFT = (*_ALWAYS, "monitor")
#: Runs that an error names, at most.
_NAMED = 10


def main() -> None:
    """The command line."""
    args = _parser().parse_args()
    for path in args.paths:
        if not os.path.isdir(path):  # noqa: PTH112 - too long a name is no folder, either
            raise ConfigError(f"{path} is no folder")
    records = find_runs(args.paths)
    if args.diff:
        records = named_runs(records, args.diff)
        table = differences(records)
        print(shown_differences(table))
    else:
        records = chosen_runs(records, args)
        table = as_table(records)
        print(shown_runs(table))
    if args.csv is not None:
        _write(args.csv, for_spreadsheets(table).to_csv(index=bool(args.diff)))
    if args.html is not None:
        from tools.history.page import page  # matplotlib takes a second

        _write(args.html, page(records))


def _parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description="A table of runs: what they were, how they went, what they reached."
    )
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        default=[ROOT],
        help="projects, folders of runs, or runs",
    )
    parser.add_argument("--sort", metavar="COLUMN", help="by a column or a key of the config")
    parser.add_argument("--reverse", action="store_true", help="the largest first")
    parser.add_argument(
        "--filter",
        action="append",
        default=[],
        metavar="CONDITION",
        help="COLUMN=VALUE, or with != < <= > >= or ~ (a pattern); "
        "a key of the config serves as a column",
    )
    parser.add_argument(
        "--show",
        nargs="+",
        default=[],
        metavar="KEY",
        help="more columns: keys of the config",
    )
    parser.add_argument(
        "--diff",
        nargs="+",
        metavar="RUN",
        help="only what differs between these",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page with curves, differences and pictures",
    )
    return parser


def named_runs(records: list[Record], names: list[str]) -> list[Record]:
    """The runs that are to be compared.

    Raises:
        ConfigError: it is one alone, or a name does not mean one run.
    """
    if len(names) < 2:
        raise ConfigError("--diff wants the names of at least two runs")
    return [_named(records, name) for name in names]


def _named(records: list[Record], name: str) -> Record:
    """The run that a name or a folder means."""
    folder = Path(os.path.realpath(name))
    found = [record for record in records if record.folder.resolve() == folder]
    if not found:
        found = [record for record in records if name in (record.name, record.folder.name)]
    if not found and os.path.isdir(folder):  # noqa: PTH112
        found = find_runs([folder])
    if len(found) == 1:
        return found[0]
    problem = "no run has this name"
    others = records
    if found:
        problem = "several runs have this name"
        others = found
    there = ", ".join(record.name for record in others[:_NAMED])
    raise ConfigError(f"--diff {name}: {problem}; there are: {there}")


def chosen_runs(records: list[Record], args: argparse.Namespace) -> list[Record]:
    """The runs that meet all conditions, sorted, with the columns that are to be shown.

    Raises:
        ConfigError: a condition is none, or no run has what it, or another option, names.
    """
    conditions = [parsed_condition(text) for text in args.filter]
    _check_names(records, args, conditions)
    for condition in conditions:
        records = [record for record in records if meets(record, condition)]
    if args.sort is not None:
        records = ordered(records, args.sort, args.reverse)
    elif args.reverse:
        records = records[::-1]
    for key in args.show:
        for record in records:
            record.row[key] = value_of(record, key)
    return records


def _check_names(
    records: list[Record], args: argparse.Namespace, conditions: list[Condition]
) -> None:
    """Check that what the command line sorts, shows and filters by is there."""
    if args.sort is not None:
        check_known(records, args.sort)
    for key in args.show:
        check_known(records, key)
    for condition in conditions:
        check_known(records, condition.name)


def shown_runs(table: pd.DataFrame) -> str:
    """A table of runs for the terminal, without columns that hold nothing."""
    if table.empty:
        return "no runs"
    shown = table.copy()
    for name in table:
        texts = [cell(value) for value in table[name]]
        if name not in _ALWAYS and not any(texts):
            del shown[name]
        elif name in _AT_THE_LEFT:
            width = max(len(text) for text in texts)
            shown[name] = [text.ljust(width) for text in texts]
    return _printed(shown, index=False)


def shown_differences(table: pd.DataFrame) -> str:
    """What differs between runs, for the terminal."""
    if table.empty:
        return "no differences"
    return _printed(table, index=True)


def _printed(table: pd.DataFrame, index: bool) -> str:
    """A table as wide as the terminal.

    Args:
        index: show the name of each line.
    """
    width = max(shutil.get_terminal_size((120, 24)).columns, 60)
    text = table.to_string(
        index=index,
        index_names=False,
        na_rep="",
        line_width=width,
        float_format=number,
    )
    return printable(text)


def _write(file: Path, text: str) -> None:
    """Write a file, in the place of an earlier one; a pipe or a link stays what it is."""
    try:
        if file.is_symlink() or (file.exists() and not file.is_file()):
            with file.open("w", encoding="utf-8") as out:
                out.write(text)
        else:
            with replacing(file, "w") as out:
                out.write(text)
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror or error}") from error
    print(printable(f"wrote {file}"))


if __name__ == "__main__":
    catch_user_errors()
    main()
