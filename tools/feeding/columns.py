"""Tables in a loader's batches: what their columns hold, and what is to be foretold."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tools.pictures import named_tensors, pyplot as plt, save
from tools.predicting.kinds import names_in
from tools.trained import tensors_in

#: Columns beside each other, and how many a table has at most.
_ACROSS, _MOST = 6, 32
#: Rows of which histograms are made.
_ROWS = 20_000
#: Attributes of a loader, or its dataset, that name columns and targets.
NAMES = ("columns", "column_names", "feature_names", "features")
TARGETS = ("target_names", "targets", "target")
#: Ranges that have no bins.
_TOO_WIDE = 1e30


class Rows(NamedTuple):
    """The inputs and the targets of a batch of a table."""

    inputs: torch.Tensor
    #: Float [n, targets]; None where there are none.
    targets: torch.Tensor | None


def rows_in(batch: Any) -> Rows | None:
    """The first tensor of a batch that is rows of not too many numbers, and its targets."""
    inputs = None
    for tensor in tensors_in(batch):
        if tensor.ndim == 2 and tensor.is_floating_point() and 0 < tensor.shape[1] <= _MOST:
            inputs = tensor
            break
    if inputs is None:
        return None
    return Rows(inputs, targets_in(batch, inputs))


def targets_in(batch: Any, inputs: torch.Tensor | None) -> torch.Tensor | None:
    """The first numbers beside the inputs, one or some for each sample: float [n, targets]."""
    for named in named_tensors(batch):
        values = named.values
        if values is inputs or not values.is_floating_point() or values.ndim not in (1, 2):
            continue
        if values[:1].numel() <= _ACROSS and (inputs is None or len(values) == len(inputs)):
            return values.reshape(len(values), -1)
    return None


class Columns:
    """What the columns of a table, and its targets, have shown.

    Args:
        loader: that may name them.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.names: list[str] = []
        #: Of each column, how many values are not finite; of how many rows.
        self.bad: torch.Tensor | None = None
        self.count = 0
        #: So many columns come before the targets.
        self.inputs = 0
        self.kept: list[torch.Tensor] = []
        self.rows = 0

    def add(self, batch: Any) -> None:
        """Add a batch; one that holds no table adds nothing."""
        found = rows_in(batch)
        if found is None:
            return
        parts = [found.inputs]
        targets = 0
        if found.targets is not None:
            parts.append(found.targets.to(found.inputs.dtype))
            targets = found.targets.shape[1]
        values = torch.cat([part.detach().cpu() for part in parts], dim=1).double()
        if self.bad is None:
            self.inputs = values.shape[1] - targets
            self.names = self._named(self.inputs, targets)
            self.bad = torch.zeros(values.shape[1], dtype=torch.int64)
        if values.shape[1] != len(self.bad):
            return
        self.bad += (~values.isfinite()).sum(dim=0)
        self.count += len(values)
        if self.rows < _ROWS:
            self.kept.append(values)
            self.rows += len(values)

    def _named(self, columns: int, targets: int) -> list[str]:
        names = names_in(self.loader, NAMES, columns)
        if names is None:
            names = [f"column {number}" for number in range(columns)]
        known = names_in(self.loader, TARGETS, targets)
        if known is None:
            known = [f"target {number}" for number in range(targets)]
            if targets == 1:
                known = ["target"]
        return [*names, *known]

    def lines(self) -> Iterator[str]:
        """What is not finite, by column."""
        if self.bad is None or not int(self.bad.sum()):
            return
        told = []
        for name, count in zip(self.names, self.bad.tolist(), strict=True):
            if count:
                told.append(f"{name} {count / self.count:.1%}")
        yield f"NaN or infinite: {', '.join(told)}"

    def draw(self, file: Path) -> bool:
        """Write histograms, the targets last and in another colour; whether there are any."""
        if not self.kept:
            return False
        table = torch.cat(self.kept)
        draw_histograms(table, self.names, self.inputs, file)
        return True


def draw_histograms(table: torch.Tensor, names: list[str], inputs: int, file: Path) -> None:
    """Write histograms of the columns of a table.

    Args:
        inputs: so many columns come before those of another colour.
    """
    count = len(names)
    across = min(count, _ACROSS)
    down = math.ceil(count / across)
    figure, axes = plt.subplots(
        down, across, figsize=(2.2 * across, 1.9 * down), layout="constrained", squeeze=False
    )
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    for number, axis in enumerate(axes.flat[:count]):
        column = table[:, number]
        column = column[column.isfinite()]
        colour = "tab:blue"
        if number >= inputs:
            colour = "tab:orange"
        if len(column) and float(column.max() - column.min()) < _TOO_WIDE:
            axis.hist(column.tolist(), bins=20, color=colour)
        axis.set_title(names[number].replace("$", r"\$"), fontsize=8)
        axis.tick_params(labelsize=6)
    save(figure, file)
