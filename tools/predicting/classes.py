"""Classifiers: scores [n, classes] of classes [n]."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from machinery.errors import DataError
from machinery.files import shown
from tools.pictures import grid, pyplot as plt, save
from tools.predicting.kinds import Kind, Part, Worst, share
from tools.trained import classes_of

#: Classes that fit a picture of what is called what, at most.
_DRAWN = 50


def chances_of(scores: torch.Tensor) -> torch.Tensor:
    """How likely each class is by scores [classes], their logarithms, or probabilities already."""
    scores = scores.double()
    if bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-3:
        return scores
    return scores.softmax(dim=0)


def row_of(scores: torch.Tensor, names: list[str]) -> dict[str, Any]:
    """The most likely class by scores or log-probabilities [classes], and how likely it is."""
    chances = chances_of(scores)
    best = int(chances.argmax())
    return {"predicted": names[best], "chance": round(float(chances[best]), 6)}


class Classes(Kind):
    """What a classifier says of all samples."""

    def __init__(self, loader: Any) -> None:
        super().__init__(loader)
        self.names: list[str] = []
        #: How many samples there are, by their class and what they are taken for.
        self.matrix: Any = None
        #: The highest class that there is.
        self.highest = 0
        #: Pictures of mistakes, and their words.
        self.worst = Worst()

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Add a batch.

        Raises:
            DataError: a sample is of a class that the model does not know.
        """
        count = part.output.shape[1]
        if self.matrix is None:
            self.names = classes_of(self.loader, count)
            self.matrix = np.zeros((count, count), dtype=int)
        rows = []
        for place, (scores, truth) in enumerate(
            zip(part.output.float(), part.target.long().tolist(), strict=True)
        ):
            number = part.first + place
            if truth not in range(count):
                known = f"the model knows {count}"
                raise DataError(f"sample {number} is of class {truth}, and {known}")
            rows.append(self._row(scores, truth))
            self.highest = max(self.highest, truth)
            best = int(scores.argmax())
            self.matrix[truth, best] += 1
            if best != truth and part.pictures is not None:
                words = f"{self.names[truth]}, not {self.names[best]}"
                chance = rows[-1]["chance_of_target"]
                self.worst.add(-chance, number, (part.pictures[place].clone(), words))
        return rows

    def _row(self, scores: torch.Tensor, truth: int) -> dict[str, Any]:
        chance = float(chances_of(scores)[truth])
        row = {"target": self.names[truth], **row_of(scores, self.names)}
        return {**row, "chance_of_target": round(chance, 6)}

    def report(self, folder: Path, prefix: str, n: int) -> Iterator[str]:
        """How many are right, numbers by class, what is called what, the most wrong."""
        count = int(self.matrix.sum())
        if self.highest < len(self.names) // 2:
            outputs = f"{len(self.names)} outputs for classes up to {self.highest}"
            yield f"{outputs}: is it a classifier?"
        yield f"{int(np.trace(self.matrix)):,} of {count:,} are right"
        yield from by_class(self.matrix, self.names)
        if len(self.names) <= _DRAWN:
            yield drawn_matrix(self.matrix, self.names, folder / f"{prefix}confusion.png")
        worst = self.worst.first(n)
        if worst:
            file = folder / f"{prefix}wrong.png"
            grid([[picture for picture, _ in worst]], [words for _, words in worst], file, 8)
            yield f"wrote {shown(file)}"


def by_class(matrix: Any, names: list[str]) -> Iterator[str]:
    """A table of precision, recall and F1 (van Rijsbergen 1979), a line for each class."""
    width = max(len(name) for name in ("class", *names))
    yield f"{'class':<{width}} {'precision':>9} {'recall':>7} {'f1':>7} {'samples':>8}"
    for k, name in enumerate(names):
        right = int(matrix[k, k])
        called = int(matrix[:, k].sum())
        there = int(matrix[k].sum())
        yield f"{name:<{width}} {scored(right, called, there)}"


def scored(right: int, called: int, there: int) -> str:
    """Precision, recall, F1 and how many there are, as a line of a table has them.

    Args:
        right: samples that are called so and are so.
        called: samples that are called so.
        there: samples that are so.
    """
    precision = share(right, called)
    recall = share(right, there)
    f1 = share(2 * right, called + there)
    return f"{precision:>9.4f} {recall:>7.4f} {f1:>7.4f} {there:>8,}"


def drawn_matrix(matrix: Any, names: list[str], file: Path) -> str:
    """A picture of what is called what."""
    size = max(4.0, 0.45 * len(names) + 1.5)
    figure, axes = plt.subplots(figsize=(size, size), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(matrix):
        if n == 0:
            continue
        color = "white" if shares[i, j] > 0.6 else "black"
        axes.text(j, i, f"{n:,}", ha="center", va="center", fontsize=7, color=color)
    longest = max(len(name) for name in names)
    rotation = 0 if longest < 4 else 60
    axes.set_xticks(range(len(names)), names, rotation=rotation, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="is")
    save(figure, file)
    return f"wrote {shown(file)}"
