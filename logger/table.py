"""One row of numbers an epoch: aligned on the console, and in `metrics.csv` for every other tool."""

import csv
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.errors import StorageError
from utils.files import replacing

Row = Mapping[str, float]


class EpochTable:
    """The rows on the console.

    Args:
        logger: prints them.
        best_epoch: says which epoch is the best so far; its row gets a star.
    """

    def __init__(self, logger: logging.Logger, best_epoch: Callable[[], int]) -> None:
        self.logger, self._best_epoch = logger, best_epoch
        self._header: list[str] = []

    def log(self, numbers: Row, step: int) -> None:
        """Print the row of an epoch; other numbers have no place here."""
        if "epoch" in numbers:
            if list(numbers) != self._header:
                self._header = list(numbers)
                self.logger.info("  ".join(f"{name:>{_width(name)}}" for name in numbers))
            cells = [f"{_shown(name, value):>{_width(name)}}" for name, value in numbers.items()]
            self.logger.info("  ".join(cells) + ("  *" if numbers["epoch"] == self._best_epoch() else ""))

    def close(self) -> None:
        """Nothing is pending."""


class MetricsFile:
    """The rows in a CSV file, whole at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, numbers: Row, step: int) -> None:
        """Append the row of an epoch; a metric that came later gets a column."""
        if "epoch" in numbers:
            rows = [
                *(self._read() if self.path.is_file() else []),
                {name: repr(value) for name, value in numbers.items()},
            ]
            self._rewrite(rows)

    def close(self) -> None:
        """Nothing is pending."""

    def cut(self, last_epoch: int) -> None:
        """Drop the rows after `last_epoch`, and what is none: the run goes on from there."""
        try:
            rows = [row for row in self._read() if None not in (*row, *row.values()) and row["epoch"].isdigit()]
            if rows:
                self._rewrite([row for row in rows if int(row["epoch"]) <= last_epoch])
        except (OSError, StorageError) as error:
            logging.getLogger("logger").warning(f"{self.path.name} cannot be written, training goes on: {error}")
        except (ValueError, KeyError, csv.Error):
            self.path.replace(self.path.with_name(self.path.name + ".old"))
            logging.getLogger("logger").warning(f"{self.path.name} is no table of epochs: renamed {self.path.name}.old")

    def _read(self) -> list[dict[str, Any]]:
        with open(self.path, newline="", encoding="utf-8") as file:
            # A line that a killed process left unfinished is not a row.
            return list(csv.DictReader([line for line in file if line.endswith("\n")]))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with replacing(self.path, "w") as file:
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


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
