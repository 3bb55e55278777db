"""A loss for outliers, and two metrics; R² is no mean over samples, so it is an object."""

import math

import torch
import torch.nn.functional as F

from utils import MetricTracker


def huber(output: torch.Tensor, target: torch.Tensor, delta: float = 200.0) -> torch.Tensor:
    """Half the squared error over delta, linear beyond it.

    Huber 1964, doi:10.1214/aoms/1177703732.
    """
    return F.huber_loss(output, target, delta=delta) / delta


def mae(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The absolute error of each sample: float [n]."""
    return (output - target).abs()


class R2(MetricTracker):
    """The share of the target's variance that the output explains, over all samples."""

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:  # type: ignore[override]
        """Add outputs and targets, float [n]."""
        target = target.double()
        super().update("error", (output - target) ** 2)
        super().update("y", target)
        super().update("y2", target**2)

    def compute(self) -> float:
        """R² of all samples since the last reset, also of those of other processes.

        NaN if all targets are the same.
        """
        mean = self.result()
        variance = mean["y2"] - mean["y"] ** 2
        if variance <= 0:
            return math.nan
        return 1 - mean["error"] / variance
