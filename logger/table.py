"""The table of epochs on the console: a row for each, as wide as the terminal."""

import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence

from logger.writers import Writer, are_of_an_epoch

#: Columns that are no metrics; there is always space for them.
_ALWAYS_SHOWN = ("epoch", "lr", "seconds", "samples/s")
#: How many columns that have no space are named.
_MOST_NAMES = 15


class EpochTable(Writer):
    """The rows on the console; what has no space there is in `metrics.csv`.

    Args:
        logger: prints them.
        best_epoch: says which epoch is the best so far; its row gets a star.
        monitored: the number that always has a column.
    """

    def __init__(
        self, logger: logging.Logger, best_epoch: Callable[[], int], monitored: str = ""
    ) -> None:
        self.logger = logger
        self._best_epoch = best_epoch
        self._monitored = monitored
        #: The names of the numbers in the row before, and those of them that have a column.
        self._names: list[str] = []
        self._columns: list[str] = []

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Print the row of an epoch; other numbers are not for this table."""
        if not are_of_an_epoch(numbers):
            return
        names = list(numbers)
        if names != self._names:
            self._names = names
            self._columns = self._columns_that_fit(names)
            self._print_header()
        cells = [_aligned(name, _formatted(name, numbers[name])) for name in self._columns]
        if numbers["epoch"] == self._best_epoch():
            cells.append("*")
        self.logger.info(" ".join(cells))

    def _print_header(self) -> None:
        """Print the names of the columns, before it those of the numbers that have none."""
        left_out = [name for name in self._names if name not in self._columns]
        if left_out:
            shown = ", ".join(left_out[:_MOST_NAMES])
            if len(left_out) > _MOST_NAMES:
                shown += f", … ({len(left_out)} columns)"
            self.logger.info(f"only in metrics.csv, for want of space: {shown}")
        self.logger.info(" ".join([_aligned(name, name) for name in self._columns]))

    def _columns_that_fit(self, names: Sequence[str]) -> list[str]:
        """The names without the least important metrics, as many as the terminal has no space for.

        The monitored one stays, and one other does.
        """
        columns = list(names)
        dispensable = [name for name in _by_importance(names) if name != self._monitored]
        space = shutil.get_terminal_size().columns
        while _width_of_row(columns) > space and len(dispensable) > 1:
            columns.remove(dispensable.pop())
        return columns


def _by_importance(names: Sequence[str]) -> list[str]:
    """The metrics among the names, each in validation before the same in training.

    Parts of one, such as a class's, come after all that are whole.
    """
    ordered: list[str] = []
    for name in sorted(names, key=_is_part):
        if name in _ALWAYS_SHOWN:
            continue
        for column in [*_in_validation(name, names), name]:
            if column not in ordered:
                ordered.append(column)
    return sorted(ordered, key=_is_part)


def _is_part(name: str) -> bool:
    """Whether a number is of a class, or of another part of a metric: "f1/cat"."""
    return "/" in name


def _in_validation(name: str, names: Sequence[str]) -> list[str]:
    """The same number in validation, of each set where there are several."""
    found = []
    for each in names:
        if each.startswith("val_") and each.endswith(f"_{name}"):
            found.append(each)
    return found


def _width_of_row(columns: Sequence[str]) -> int:
    """The width of a row with a star: each column has a space behind it."""
    return sum(_width(name) + 1 for name in columns) + len("*")


def _width(name: str) -> int:
    if name == "epoch":
        return len(name)
    return max(len(name), 7)


def _aligned(name: str, text: str) -> str:
    """A text to the right of the column of that name."""
    return f"{text:>{_width(name)}}"


def _formatted(name: str, value: float) -> str:
    """A number as its column shows it."""
    if isinstance(value, int):
        return f"{value:,}"
    if name == "seconds":
        return f"{value:.1f}"
    if name == "samples/s":
        return f"{value:,.0f}"
    if name == "lr" or _needs_exponent(value):
        return f"{value:.3g}"
    return f"{value:.4f}"


def _needs_exponent(value: float) -> bool:
    """Whether it is so small that four decimals show too little of it, or too long."""
    if value == 0 or not math.isfinite(value):
        return False
    return not 1e-3 <= abs(value) < 1e5
