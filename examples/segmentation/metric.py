"""Intersection over union, of all pixels of all pictures: no mean over samples, so it is an object."""

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
        called, is_it = output.argmax(dim=1) == self.of, target == self.of
        for name, pixels in {"both": called & is_it, "either": called | is_it}.items():
            super().update(name, pixels.flatten(1).double().sum(dim=1))

    def compute(self) -> float:
        """Of all since the last reset, also of those of other processes; NaN if no pixel is it or is called it."""
        mean = self.result()
        return mean["both"] / mean["either"] if mean.get("either") else math.nan
