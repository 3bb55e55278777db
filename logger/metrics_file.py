"""`metrics.csv`: a row for each epoch of a run, with all of its numbers."""

import csv
import io
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from logger.writers import Writer, are_of_an_epoch
from machinery.errors import StorageError
from machinery.files import append, check_place, is_in_the_way, replacing, whole_lines

if TYPE_CHECKING:
    import pandas

Row = Mapping[str, Any]


class Stamp(NamedTuple):
    """By what a file is known to be as it was left."""

    inode: int
    size: int
    nanoseconds: int


class MetricsFile(Writer):
    """The rows in a CSV file, in which at most the last line is unfinished.

    A row is appended, so that an epoch of a long run costs no more than one of a short run. The
    file is written anew, in one step, where that would give other bytes: a new metric needs a
    column, or somebody else has changed the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []
        #: Of the file as this process has left it; None if it has not written it.
        self._left: Stamp | None = None

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Append the row of an epoch; a metric that came later gets a column."""
        if not are_of_an_epoch(numbers):
            return
        check_place(self.path)
        row = {name: repr(value) for name, value in numbers.items()}
        if self._is_as_left() and row.keys() <= set(self._columns):
            append(self.path, _as_text(self._columns, [row]))
            self._left = _stamp(self.path)
            return
        rows = []
        try:
            if self.path.exists():
                rows = self._read()
        except (ValueError, csv.Error):
            self._set_aside(logging.getLogger("logger"))
        rows.append(row)
        self._rewrite(rows)

    def cut(self, last_epoch: int) -> None:
        """Drop the rows after `last_epoch`, and what is none: the run goes on from there."""
        logger = logging.getLogger("logger")
        name = self.path.name
        if is_in_the_way(self.path):  # a pipe would be waited for
            logger.warning(f"{name} cannot be written, training goes on: it is no file")
            return
        if not self.path.exists():
            return
        try:
            rows = [row for row in self._read() if _is_of_an_epoch(row)]
            if rows:
                self._rewrite([row for row in rows if int(row["epoch"]) <= last_epoch])
        except (OSError, StorageError) as error:
            logger.warning(f"{name} cannot be written, training goes on: {error}")
        except (ValueError, KeyError, csv.Error):
            self._set_aside(logger)

    def history(self) -> "pandas.DataFrame":
        """The rows, by their epochs."""
        import pandas

        rows = []
        if self.path.exists():
            rows = self._read()
        if not rows:
            return pandas.DataFrame()
        table = pandas.DataFrame(rows).replace("", "nan").astype(float)
        return table.astype({"epoch": int}).set_index("epoch")

    def _set_aside(self, logger: logging.Logger) -> None:
        """Rename what is no table, so that a new one can begin."""
        name = self.path.name
        try:
            self.path.replace(self.path.with_name(f"{name}.old"))
            logger.warning(f"{name} is no table of epochs: renamed {name}.old")
        except OSError as error:  # a folder has that name
            logger.warning(f"{name} is no table of epochs, training goes on: {error}")

    def _is_as_left(self) -> bool:
        return self._left is not None and self._left == _stamp(self.path)

    def _read(self) -> list[dict[str, Any]]:
        """The rows that the file holds.

        Raises:
            ValueError: it holds something, and that has no column of epochs.
        """
        reader = csv.DictReader(whole_lines(self.path))
        if "epoch" not in (reader.fieldnames or []) and self.path.stat().st_size:
            raise ValueError(f"{self.path} has no column of epochs")
        return list(reader)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        if not rows:  # as before the first epoch
            self.path.unlink()
            return
        columns: dict[str, None] = {}  # a set that keeps its order
        for row in rows:
            columns.update(dict.fromkeys(row))
        header = dict(zip(columns, columns, strict=True))
        with replacing(self.path, "w") as file:
            file.write(_as_text(list(columns), [header, *rows]))
        self._columns = list(columns)
        self._left = _stamp(self.path)


def _as_text(columns: list[str], rows: list[Row]) -> str:
    """Lines of a table; a cell is empty where a row has no such column."""
    lines = []
    for row in rows:
        text = io.StringIO()
        # csv quotes what holds a sign of the line's end: with "\n" alone, "\r" would go as it is.
        csv.DictWriter(text, columns, restval="", lineterminator="\r\n").writerow(row)
        lines.append(text.getvalue().removesuffix("\r\n") + "\n")
    return "".join(lines)


def _stamp(path: Path) -> Stamp | None:
    """What a file is known by; None if it is not there."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def _is_of_an_epoch(row: Mapping[Any, Any]) -> bool:
    """Whether a row that has been read is one of ours.

    Raises:
        KeyError: it has as many cells as the header, but the header has no epoch.
    """
    # csv gives a missing cell the value None, and cells without a column the name None.
    if None in row or None in row.values():
        return False
    return row["epoch"].isdigit()
