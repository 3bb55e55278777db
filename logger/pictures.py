"""What metrics compute in rows and columns, such as a confusion matrix, as pictures."""

import logging
import re
from pathlib import Path
from typing import Any

import torch

from machinery import distributed
from machinery.errors import StorageError
from machinery.files import replacing
from machinery.update.metrics import MetricTracker, names_of_classes

#: More cells of a side than that have no numbers and no names: nobody could read them.
_MOST_NUMBERS = 20
_MOST_NAMES = 60


def draw_tables(tracker: MetricTracker, folder: Path, kind: str, writer: Any = None) -> None:
    """Draw the tables that metrics have computed, in the run's folder and in TensorBoard.

    A picture is called KIND_NAME.png, and shows the last evaluation.

    Args:
        tracker: which has them.
        kind: of data, such as "valid".
        writer: of TensorBoard.
    """
    if not distributed.is_main():
        return
    for name, table in tracker.tables.items():
        figure = _drawn(name, table, tracker.classes)
        file = re.sub(r"[^\w.-]", "_", f"{kind}_{name}") + ".png"
        try:
            with replacing(folder / file) as picture:
                figure.savefig(picture, format="png", dpi=120)
        except (OSError, StorageError) as error:
            logging.getLogger("logger").warning(f"{file} cannot be written: {error}")
        if writer is not None:
            writer.add_figure(name, figure)


def _drawn(name: str, table: torch.Tensor, classes: Any) -> Any:
    """A figure of a table [rows, columns]; of a square one, the rows and columns are classes."""
    from matplotlib.figure import Figure  # it takes a second, and most runs want none

    rows, columns = table.shape
    size = max(4.0, min(0.5 * max(rows, columns) + 2.0, 14.0))
    figure = Figure(figsize=(size, size), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(_shares(table), cmap="Blues", aspect="auto")
    axes.set_title(name)
    if rows == columns:
        axes.set_ylabel("target")
        axes.set_xlabel("output")
        if rows <= _MOST_NAMES:
            names = names_of_classes(classes, rows)
            axes.set_xticks(range(rows), names, rotation=90 if _are_long(names) else 0)
            axes.set_yticks(range(rows), names)
    if max(rows, columns) <= _MOST_NUMBERS:
        _write_numbers(axes, table)
    return figure


def _are_long(names: list[str]) -> bool:
    return max(map(len, names)) > 3


def _shares(table: torch.Tensor) -> Any:
    """The values of each row beside the largest magnitude in it: 0..1, for the colours."""
    magnitudes = table.nan_to_num().abs()
    largest = magnitudes.amax(dim=1, keepdim=True)
    return (magnitudes / largest.clamp_min(1e-12)).numpy()


def _write_numbers(axes: Any, table: torch.Tensor) -> None:
    """The values in the cells, light on what is dark."""
    shares = _shares(table)
    for (row, column), share in zip(_cells(table), shares.reshape(-1), strict=True):
        colour = "black"
        if share > 0.6:
            colour = "white"
        text = f"{float(table[row, column]):.3g}"
        value = float(table[row, column])
        if value.is_integer():
            text = f"{value:,.0f}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)


def _cells(table: torch.Tensor) -> list[tuple[int, int]]:
    """The places of the values in a table, in their order."""
    places = []
    for row in range(table.shape[0]):
        for column in range(table.shape[1]):
            places.append((row, column))
    return places
