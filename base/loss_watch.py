"""Finds the first loss that is not finite, without waiting for the GPU in each step."""

import math

import torch

from utils.errors import NonFiniteError


class LossWatch:
    """Keeps the losses on the device until they are looked at."""

    def __init__(self) -> None:
        self._losses: list[torch.Tensor] = []
        self._last: torch.Tensor | None = None
        self._looked = 0

    def start(self, step: int) -> None:
        """Begin an epoch, of which `step` batches are done."""
        self._looked = step

    def add(self, losses: list[torch.Tensor]) -> None:
        """Note the losses of an update."""
        self._losses += losses

    def look(self, epoch: int, step: int, lr: float, hint: str) -> None:
        """Look at the losses since the last look; one wait for the GPU.

        Args:
            epoch, step: the place of the run, in batches done.
            lr: the learning rate.
            hint: what the user can do.

        Raises:
            NonFiniteError: one was not finite: the weights are spoilt from there on.
        """
        losses, self._losses = self._losses, []
        batches, self._looked = step - self._looked, step
        before, self._last = self._last, losses[-1] if losses else self._last
        if not losses or bool(torch.isfinite(torch.stack(losses).sum())):
            return
        values = [float(loss) for loss in losses]
        bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), None)
        if bad is None:  # finite values whose sum overflows
            return
        # An update with several optimizers has more losses than batches.
        place = f"step {step - batches + bad + 1}" if batches == len(values) else f"by step {step}"
        last = values[bad - 1] if bad else before
        raise NonFiniteError(
            f"the loss became {values[bad]} in epoch {epoch}, {place} (lr {float(lr):.3g}, "
            f"last finite loss {'none' if last is None else f'{float(last):.4g}'})\n  {hint}"
        )
