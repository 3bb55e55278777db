"""One row of numbers an epoch: aligned on the console, and in `metrics.csv` for every other tool."""

import csv
import io
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from utils.errors import StorageError
from utils.files import replacing

Row = Mapping[str, float]


class EpochTable:
    """The table of a run's epochs.

    Args:
        path: the CSV file.
        logger: prints the rows, and a warning once where the file cannot be written.
        best_epoch: says which epoch is the best so far; its row gets a star.
    """

    def __init__(self, path: Path, logger: logging.Logger, best_epoch: Callable[[], int]) -> None:
        self.path = path
        self.logger = logger
        self._best_epoch = best_epoch
        self._header: list[str] = []
        self._names: list[str] | None = None
        self._warned = False

    def log(self, row: Row, step: int) -> None:
        """Print the row of an epoch, and append it to the file; other numbers have no place here."""
        if "epoch" not in row:
            return
        if list(row) != self._header:
            self._header = list(row)
            self.logger.info("  ".join(f"{name:>{_width(name)}}" for name in row))
        cells = [f"{_shown(name, value):>{_width(name)}}" for name, value in row.items()]
        self.logger.info("  ".join(cells) + ("  *" if row["epoch"] == self._best_epoch() else ""))
        try:
            self._append(row)
        except OSError as error:
            self._warn(error)

    def _append(self, row: Row) -> None:
        if self._names is None:
            rows = self._read()
            self._names = list(rows[0]) if rows else []
        cells = {name: repr(value) for name, value in row.items()}
        if set(row) <= set(self._names) and self.path.exists():
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                file.write(_lines(self._names, [cells], header=False))
        else:  # the first row, or a metric that came later and gets a column
            self._names += [name for name in row if name not in self._names]
            self._rewrite([*self._read(), cells])

    def close(self) -> None:
        """Nothing is pending."""

    def cut(self, last_epoch: int) -> None:
        """Drop the rows after `last_epoch`, and one that was left unfinished: the run goes on from there."""
        rows = self._read()
        if rows:
            self._names = list(rows[0])
            self._rewrite([row for row in rows if row["epoch"].isdigit() and int(row["epoch"]) <= last_epoch])

    def _read(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with open(self.path, newline="", encoding="utf-8") as file:
            # A line that a killed process left unfinished is not a row.
            lines = [line for line in file if line.endswith("\n")]
        return list(csv.DictReader(lines))

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        try:
            with replacing(self.path, "w") as file:
                file.write(_lines(self._names or [], rows, header=True))
        except StorageError as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self.logger.warning(f"{self.path.name} cannot be written, training goes on: {error}")
        self._warned = True


def _lines(names: list[str], rows: list[dict[str, str]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _width(name: str) -> int:
    return max(len(name), 5 if name == "epoch" else 9)


def _shown(name: str, value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    if name == "seconds":
        return f"{value:.1f}"
    if name == "samples/s":
        return f"{value:,.0f}"
    if name == "lr" or (value and math.isfinite(value) and not 1e-3 <= abs(value) < 1e5):
        return f"{value:.3g}"
    return f"{value:.4f}"
