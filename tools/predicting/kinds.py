"""What the kinds of predictions have in common."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

#: Digits of numbers in a table of predictions.
DIGITS = 6


class Part(NamedTuple):
    """What a head returns for a batch, on the CPU."""

    #: The number of its first sample.
    first: int
    output: torch.Tensor
    target: torch.Tensor
    #: Its pictures [n, 1 or 3, height, width]; None where samples are none.
    pictures: torch.Tensor | None


class Kind(ABC):
    """What is said of all samples by one head.

    Args:
        loader: of the samples.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    @abstractmethod
    def add(self, part: Part) -> list[dict[str, Any]]:
        """Add a batch; the columns of each of its samples."""

    @abstractmethod
    def report(self, folder: Path, prefix: str, n: int) -> Iterator[str]:
        """Lines about all samples; pictures go to a folder.

        Args:
            prefix: of the names of files.
            n: of the most wrong, show so many.
        """


class Worst:
    """The samples that are most wrong, so that not all pictures have to be held.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int = 100) -> None:
        self.most = most
        self.found: list[tuple[float, int, Any]] = []

    def add(self, badness: float, number: int, what: Any) -> None:
        """Add a sample: the higher, the worse."""
        self.found.append((badness, number, what))
        if len(self.found) > 4 * self.most:
            self._keep()

    def _keep(self) -> None:
        self.found.sort(key=_by_badness)
        del self.found[self.most :]

    def first(self, count: int) -> list[Any]:
        """The worst ones."""
        self._keep()
        return [what for _, _, what in self.found[:count]]


def _by_badness(entry: tuple[float, int, Any]) -> tuple[float, int]:
    return -entry[0], entry[1]


def rounded(value: Any) -> float:
    """A number as a table of predictions has it."""
    return float(f"{float(value):.{DIGITS}g}")


def share(part: float, whole: float) -> float:
    """A part of a whole; 0 of nothing."""
    if whole == 0:
        return 0.0
    return part / whole


def names_in(loader: Any, names: tuple[str, ...], count: int) -> list[str] | None:
    """Names that a loader, or its dataset, has under one of some attributes, if there are so many.

    Args:
        names: of the attributes.
        count: how many it has to have.
    """
    from tools.trained import dataset_of

    for owner in (loader, dataset_of(loader)):
        for name in names:
            found = getattr(owner, name, None)
            if isinstance(found, str):
                found = [found]
            if isinstance(found, list | tuple) and len(found) == count:
                return [str(each) for each in found]
    return None
