"""The table of epochs on the console: a row for each, as wide as the terminal.

Where one line is too narrow, a row has a line for each kind of data: the validation, the training.
"""

import logging
import math
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from logger.writers import Writer, are_of_an_epoch

#: Numbers at the end of a row that are no metrics; those of all data stand in its first line.
_LAST = ("lr", "seconds", "samples/s", "peak_gib")
#: How many columns that have no space are named.
_MOST_NAMES = 15


class Column(NamedTuple):
    """A column of the table."""

    title: str
    #: The number that it shows in each line of a row; "" where it shows none.
    names: tuple[str, ...]


class Layout(NamedTuple):
    """The columns and lines of a row."""

    columns: list[Column]
    #: What each line is of, such as "val" and "train", equally wide; one line needs no word.
    labels: tuple[str, ...] = ("",)

    @property
    def width(self) -> int:
        """Of a row with a star: each column has a space behind it."""
        return len(self.header()) + len(" *")

    @property
    def names(self) -> set[str]:
        """The numbers that it shows."""
        found: set[str] = set()
        for column in self.columns:
            found.update(column.names)
        return found - {""}

    def header(self) -> str:
        """The line of titles."""
        titles = [_aligned(column.title, column.title) for column in self.columns]
        return _line(titles, " " * len(self.labels[0]))

    def rows(self, numbers: Mapping[str, float], star: bool) -> list[str]:
        """The lines of an epoch; the first has a star, if it is the best one."""
        lines = []
        for index, label in enumerate(self.labels):
            cells = []
            for title, names in self.columns:
                text = ""
                if names[index]:
                    text = _formatted(title, numbers[names[index]])
                cells.append(_aligned(title, text))
            if star and index == 0:
                cells.append("*")
            lines.append(_line(cells, label))
        return lines


class EpochTable(Writer):
    """The rows on the console; what has no space there is in `metrics.csv` and in `info.log`.

    Args:
        logger: prints them.
        best_epoch: says which epoch is the best so far; its row gets a star.
        monitored: the number that comes first.
    """

    def __init__(
        self, logger: logging.Logger, best_epoch: Callable[[], int], monitored: str = ""
    ) -> None:
        self.logger = logger
        self._best_epoch = best_epoch
        self._monitored = monitored
        #: The names of the numbers in the row before.
        self._names: list[str] = []
        self._whole = Layout([])
        self._shown = Layout([])

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Print the row of an epoch; other numbers are not for this table."""
        if not are_of_an_epoch(numbers):
            return
        names = list(numbers)
        if names != self._names:
            self._names = names
            self._whole = _in_one_line(names, self._monitored)
            self._shown = _that_fits(names, self._monitored, _space())
            self._print([self._whole.header()], [*self._left_out(), self._shown.header()])
        star = numbers["epoch"] == self._best_epoch()
        self._print(self._whole.rows(numbers, star), self._shown.rows(numbers, star))

    def _print(self, whole: Sequence[str], shown: Sequence[str]) -> None:
        """Print lines on the console, and what they are without its limits to the log files."""
        if self._whole == self._shown:
            for line in whole:
                self.logger.info(line)
            return
        for line in whole:
            self.logger.info(line, extra={"aside": True})
        for line in shown:
            self.logger.info(line, extra={"console": True})

    def _left_out(self) -> list[str]:
        """A line that names the numbers that have no column."""
        left_out = [name for name in self._names if name not in self._shown.names]
        if not left_out:
            return []
        named = ", ".join(left_out[:_MOST_NAMES])
        if len(left_out) > _MOST_NAMES:
            named += f", … ({len(left_out)} columns)"
        return [f"only in metrics.csv and info.log, for want of space: {named}"]


def _space() -> float:
    """The width of the terminal; what is read later, as in a file or a notebook, has no limit."""
    is_terminal = getattr(sys.stdout, "isatty", bool)  # a stream of the user's may have none
    if is_terminal() or "COLUMNS" in os.environ:
        return shutil.get_terminal_size().columns
    return math.inf


def _that_fits(names: Sequence[str], monitored: str, space: float) -> Layout:
    """The layout in one line, or in a few; without the least important columns if need be."""
    layout = _in_one_line(names, monitored)
    if layout.width <= space:
        return layout
    layout = _by_data(names, monitored)
    for column in _dispensable(layout.columns):
        if layout.width <= space:
            break
        layout.columns.remove(column)
    return layout


def _in_one_line(names: Sequence[str], monitored: str) -> Layout:
    """A column for each number: what is monitored, validation, training, parts of metrics."""
    prefixes = _prefixes(names)
    ordered = []
    for prefix in prefixes:
        ordered += [name for name in names if _split(name, prefixes)[0] == prefix]
    ordered = _sorted(ordered, monitored)
    return Layout([Column(name, (name,)) for name in ordered])


def _by_data(names: Sequence[str], monitored: str) -> Layout:
    """A column for each metric, with a line for each kind of data."""
    prefixes = _prefixes(names)
    titles = list(dict.fromkeys(_split(name, prefixes)[1] for name in names))
    columns = []
    for title in _sorted(titles, _split(monitored, prefixes)[1]):
        if title in names and _is_of_all_data(title):
            found = (title, *[""] * (len(prefixes) - 1))
        else:
            found = tuple(_if_in(names, prefix + title) for prefix in prefixes)
        columns.append(Column(title, found))
    if len(prefixes) == 1:
        return Layout(columns)
    labels = [prefix.rstrip("_") or "train" for prefix in prefixes]
    width = max(len(label) for label in labels)
    return Layout(columns, tuple(label.ljust(width) for label in labels))


def _prefixes(names: Sequence[str]) -> list[str]:
    """What the names of the numbers of each kind of data begin with, that of the training last."""
    of_training = [name for name in names if not name.startswith("val_")]
    others = [name for name in names if name not in of_training]
    possible = [_possible_prefixes(name, of_training) for name in others]
    # "val_b_loss" is the loss of "b", or the "b_loss" of all: what other numbers begin with, too.
    often = Counter(chain.from_iterable(possible))
    found = [max(prefixes, key=often.__getitem__) for prefixes in possible if prefixes]
    if others and not found:
        found.append("val_")
    return [*dict.fromkeys(found), ""]


def _possible_prefixes(name: str, of_training: Sequence[str]) -> list[str]:
    """What a number's name may begin with, before that of a number of the training: shortest first.

    Of those that are equally frequent, the first is taken.
    """
    twins = [each for each in of_training if name.endswith(f"_{each}")]
    twins.sort(key=len, reverse=True)
    return [name.removesuffix(twin) for twin in twins]


def _split(name: str, prefixes: Sequence[str]) -> tuple[str, str]:
    """The prefix of a number's name, and the rest."""
    for prefix in sorted(prefixes, key=len, reverse=True):
        if name.startswith(prefix):
            return prefix, name.removeprefix(prefix)
    return "", name


def _sorted(titles: Sequence[str], first: str) -> list[str]:
    """The epoch, one that comes first, whole metrics, their parts, and what is no metric."""

    def rank(title: str) -> int:
        if title == "epoch":
            return 0
        if title == first:
            return 1
        if title in _LAST:
            return 4 + _LAST.index(title)
        if _is_part(title):
            return 3
        return 2

    return sorted(titles, key=rank)


def _dispensable(columns: Sequence[Column]) -> list[Column]:
    """The columns that may go, the least important first; the epoch and two others stay."""
    parts = [column for column in columns if _is_part(column.title)]
    last = [column for column in columns if column.title in _LAST]
    metrics = [column for column in columns[3:] if column not in (*parts, *last)]
    return [column for column in [*metrics, *last, *parts][::-1] if column in columns[3:]]


def _is_of_all_data(title: str) -> bool:
    """Whether a number is of the epoch, and not of its training."""
    return title == "epoch" or title in _LAST


def _is_part(name: str) -> bool:
    """Whether a number is of a class, or of another part of a metric: "f1/cat"."""
    return "/" in name and name not in _LAST


def _if_in(names: Sequence[str], name: str) -> str:
    """The name, if there is such a number."""
    return name if name in names else ""


def _line(cells: Sequence[str], label: str) -> str:
    """Cells beside each other, the label behind the first."""
    if label:
        cells = [cells[0], label, *cells[1:]]
    return " ".join(cells).rstrip()


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
