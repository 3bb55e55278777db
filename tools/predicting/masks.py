"""Segmentation: scores [n, classes, height, width] of classes [n, height, width]."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machinery.files import shown
from tools.pictures import grid, overlay
from tools.predicting.kinds import Kind, Part, Worst, rounded, share
from tools.predicting.labels import Chances
from tools.trained import classes_of


class Masks(Kind):
    """What is said of all pixels; what is of no class (-100, 255) does not count."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.names: list[str] = []
        self.chances = Chances()
        #: How many pixels there are, by their class and what they are taken for.
        self.matrix: Any = None
        self.worst = Worst(24)

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Add a batch."""
        output = part.output
        target = part.target.reshape(len(output), *output.shape[-2:]).long()
        said, count = self._said(output, target)
        if self.matrix is None:
            self.names = classes_of(self.loader, count)
            self.matrix = np.zeros((count, count), dtype=np.int64)
        rows = []
        for place in range(len(output)):
            matrix = _counted(target[place], said[place], count)
            self.matrix += matrix
            right = share(int(np.trace(matrix)), int(matrix.sum()))
            row = {"pixels_right": rounded(right)}
            for name, value in zip(self.names, overlaps(matrix), strict=True):
                row[f"iou_{name}"] = rounded(value)
            rows.append(row)
            pictures = _drawn(part.pictures, place, target[place], said[place])
            words = f"{part.first + place}: {right:.1%}"
            self.worst.add(-right, part.first + place, (*pictures, words))
        return rows

    def _said(self, output: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, int]:
        """What each pixel is taken for, and how many classes there are."""
        if output.ndim == 3 or output.shape[1] == 1:  # one class, true or false
            return (self.chances.of(output) > 0.5).long().reshape(target.shape), 2
        return output.argmax(dim=1), output.shape[1]

    def report(self, folder: Path, prefix: str, n: int) -> Iterator[str]:
        """The overlap of each class, and the most wrong as pictures."""
        right = share(int(np.trace(self.matrix)), int(self.matrix.sum()))
        yield f"{right:.2%} of {int(self.matrix.sum()):,} pixels are right"
        width = max(len(name) for name in ("class", *self.names))
        yield f"{'class':<{width}} {'iou':>7} {'pixels':>12}"
        for number, value in enumerate(overlaps(self.matrix)):
            pixels = int(self.matrix[number].sum())
            yield f"{self.names[number]:<{width}} {value:>7.4f} {pixels:>12,}"
        worst = self.worst.first(min(n, 24))
        if worst:
            targets, said, words = (list(each) for each in zip(*worst, strict=True))
            file = folder / f"{prefix}masks.png"
            grid([targets, said], words, file, columns=8)
            yield f"wrote {shown(file)}: the most wrong; above the targets, below the predictions"


def _counted(target: torch.Tensor, said: torch.Tensor, count: int) -> Any:
    """How many pixels there are, by their class and what they are taken for."""
    known = (target >= 0) & (target < count)
    pairs = target[known] * count + said[known]
    return torch.bincount(pairs, minlength=count * count).reshape(count, count).numpy()


def overlaps(matrix: Any) -> list[float]:
    """The intersection over the union of each class; NaN of one that is nowhere."""
    found = []
    for k in range(len(matrix)):
        both = int(matrix[k, k])
        either = int(matrix[k].sum() + matrix[:, k].sum()) - both
        found.append(both / either if either else float("nan"))
    return found


def _drawn(
    pictures: torch.Tensor | None, place: int, target: torch.Tensor, said: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The target and the prediction over the picture, if that has their size."""
    picture = torch.zeros(1, *target.shape)
    if pictures is not None and pictures.shape[2:] == target.shape:
        picture = pictures[place]
    return overlay(picture, target), overlay(picture, said)
