"""`metrics.csv`: a row for each epoch of a run, with all of its numbers."""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from logger.writers import Writer, are_of_an_epoch
from machinery.errors import StorageError
from machinery.files import check_place, is_in_the_way, replacing


class MetricsFile(Writer):
    """The rows in a CSV file, whole at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Append the row of an epoch; a metric that came later gets a column."""
        if not are_of_an_epoch(numbers):
            return
        check_place(self.path)
        rows = []
        if self.path.exists():
            rows = self._read()
        rows.append({name: repr(value) for name, value in numbers.items()})
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

    def _set_aside(self, logger: logging.Logger) -> None:
        """Rename what is no table, so that a new one can begin."""
        name = self.path.name
        try:
            self.path.replace(self.path.with_name(f"{name}.old"))
            logger.warning(f"{name} is no table of epochs: renamed {name}.old")
        except OSError as error:  # a folder has that name
            logger.warning(f"{name} is no table of epochs, training goes on: {error}")

    def _read(self) -> list[dict[str, Any]]:
        with open(self.path, newline="", encoding="utf-8") as file:
            # A line that a killed process left unfinished is not a row.
            whole_lines = [line for line in file if line.endswith("\n")]
        return list(csv.DictReader(whole_lines))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        columns: dict[str, None] = {}  # a set that keeps its order
        for row in rows:
            columns.update(dict.fromkeys(row))
        with replacing(self.path, "w") as file:
            writer = csv.DictWriter(file, list(columns), restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _is_of_an_epoch(row: Mapping[Any, Any]) -> bool:
    """Whether a row that has been read is one of ours.

    Raises:
        KeyError: it has as many cells as the header, but the header has no epoch.
    """
    # csv gives a missing cell the value None, and cells without a column the name None.
    if None in row or None in row.values():
        return False
    return row["epoch"].isdigit()
