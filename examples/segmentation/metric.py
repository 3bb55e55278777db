"""Intersection over union, of all pixels: no mean over samples, so it is an object."""

import math

import torch

from utils import MetricTracker


class IoU(MetricTracker):
    """Pixels that are and are called a class, of those that are it or are called it.

    Args:
        of: the class.
    """

    def __init__(self, of: int) -> None:
        super().__init__("both", "either")
        self.of = of

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:  # type: ignore[override]
        """Add logits float [n, classes, …] and classes int64 [n, …]."""
        called = output.argmax(dim=1) == self.of
        is_it = target == self.of
        super().update("both", pixels(called & is_it))
        super().update("either", pixels(called | is_it))

    def compute(self) -> float:
        """Of all since the last reset, also of those of other processes; NaN if there are none."""
        mean = self.result()
        if not mean.get("either"):
            return math.nan
        return mean["both"] / mean["either"]


def pixels(mask: torch.Tensor) -> torch.Tensor:
    """How many pixels of each picture are in a mask bool [n, …]: float64 [n]."""
    return mask.flatten(1).double().sum(dim=1)
