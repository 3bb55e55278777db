"""A table of all runs: python tools/runs.py --sort best --filter 'lr<0.01'

--diff A B shows what differs between runs, --html page.html makes a page of them, --note RUN "…"
says something of one.
"""

import argparse
import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

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
from tools.history.records import NOTES, Record, note_of, scalar
from tools.history.tables import as_table, differences, for_spreadsheets, number
from tools.history.terminal import as_lines

#: Runs that an error names, at most.
_NAMED = 10


def main() -> None:
    """The command line."""
    args = _parser().parse_args()
    for path in args.paths:
        if not os.path.isdir(path):  # noqa: PTH112 - too long a name is no folder, either
            raise ConfigError(f"{path} is no folder")
    records = find_runs(args.paths)
    if args.note:
        print(printable(noted(records, *args.note)))
        return
    if args.diff:
        records = named_runs(records, args.diff, "--diff")
        table = differences(records)
        shown = shown_differences(table)
    else:
        records = chosen_runs(records, args)
        table = as_table(records)
        shown = shown_runs(records, args)
    if args.json:
        shown = json.dumps(as_objects(records), indent=2)
    print(shown)
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
    _add_outputs(parser)
    return parser


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    """The options that say what becomes of the runs that are chosen."""
    parser.add_argument(
        "--diff",
        nargs="+",
        metavar="RUN",
        help="only what differs between these",
    )
    parser.add_argument(
        "--note",
        nargs=2,
        metavar=("RUN", "TEXT"),
        help="say something of a run, in words and #tags; an empty text takes all away",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print all that is known of the runs as JSON, in place of the table",
    )
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a page with curves, settings against results, differences and pictures",
    )


def named_runs(records: list[Record], names: list[str], option: str) -> list[Record]:
    """The runs that are to be compared.

    Args:
        option: of the command line, that has the names.

    Raises:
        ConfigError: it is one alone, or a name does not mean one run.
    """
    if len(names) < 2:
        raise ConfigError(f"{option} wants the names of at least two runs")
    return [_named(records, name, option) for name in names]


def _named(records: list[Record], name: str, option: str) -> Record:
    """The run that a name or a folder means."""
    folder = Path(os.path.realpath(name))
    found = [record for record in records if record.folder.resolve() == folder]
    if not found:
        found = [record for record in records if name in (record.name, record.folder.name)]
    if not found and os.path.isdir(folder):  # noqa: PTH112
        found = _of_folder(folder, option, name)
    if len(found) == 1:
        return found[0]
    problem = "no run has this name"
    others = records
    if found:
        problem = "several runs have this name"
        others = found
    there = ", ".join(record.name for record in others[:_NAMED])
    raise ConfigError(f"{option} {name}: {problem}; there are: {there}")


def _of_folder(folder: Path, option: str, name: str) -> list[Record]:
    """The runs in a folder, or the one that it is.

    Raises:
        ConfigError: there is none.
    """
    found = find_runs([folder])
    if found:
        return found
    what = "is not the folder of a run (models/NAME/RUN with a config.json)"
    raise ConfigError(f"{option} {name} {what}: move it to one")


def noted(records: list[Record], name: str, text: str) -> str:
    """Note something of a run, below what was noted before; what its notes are now.

    Args:
        text: words and #tags; "" takes all notes away.

    Raises:
        ConfigError: the name does not mean one run.
        StorageError: the notes cannot be written.
    """
    record = _named(records, name, "--note")
    before = note_of(record.folder)
    if not text.strip():
        with replacing(record.folder / NOTES, "w") as file:
            file.write("")
        return f"{record.name}: no notes any more; there was: {before or 'nothing'}"
    lines = [*before.splitlines(), " ".join(text.split())]
    with replacing(record.folder / NOTES, "w") as file:
        file.write("\n".join(lines) + "\n")
    return f"{record.name}: {'; '.join(lines)}"


def as_objects(records: list[Record]) -> list[dict[str, Any]]:
    """The runs as JSON can hold them: what is missing, or no finite number, is null."""
    found = []
    for record in records:
        history = record.history.astype(object).to_dict("records")
        content = {
            **record.row,
            "folder": scalar(str(record.folder)),
            "config": record.config,
            "environment": record.environment,
            "history": history,
        }
        found.append(_for_json(content))
    return found


def _for_json(value: Any) -> Any:
    """A value with null for each number that JSON does not know."""
    if isinstance(value, dict):
        return {str(key): _for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


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


def shown_runs(records: list[Record], args: argparse.Namespace) -> str:
    """A table of runs for the terminal, a line for each, with what the command line asks for."""
    wanted = list(dict.fromkeys(args.show))
    if args.sort is not None and args.sort not in wanted:
        wanted.append(args.sort)
    width = _width()
    lines = as_lines(records, wanted, width)
    return printable("\n".join(lines))


def _width() -> int:
    """The letters of a line of the terminal."""
    return max(shutil.get_terminal_size((80, 24)).columns, 60)


def shown_differences(table: pd.DataFrame) -> str:
    """What differs between runs, for the terminal."""
    if table.empty:
        return "no differences"
    text = table.to_string(index_names=False, na_rep="", line_width=_width(), float_format=number)
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
