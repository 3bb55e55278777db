"""Finds losses and weights that are not finite, without waiting for the GPU in each step."""

import math

import torch
from torch import nn

from utils.errors import NonFiniteError


class LossWatch:
    """Keeps the losses on the device until they are looked at.

    Args:
        policy: what to do about a loss that is not finite: "stop" the run, "skip" the update, or "ignore" it.
    """

    def __init__(self, policy: str) -> None:
        self.policy, self.skipped = policy, False
        self._losses: list[torch.Tensor] = []
        self._last: torch.Tensor | None = None
        self._looked = 0

    def start(self, step: int) -> None:
        """Begin an epoch, of which `step` batches are done."""
        self._looked = step

    def accepts(self, losses: list[torch.Tensor]) -> bool:
        """Note the losses of an update; False if it is to be skipped, which waits for the GPU to know."""
        if self.policy == "skip":
            self.skipped = not torch.isfinite(torch.stack(losses)).all()
            return not self.skipped
        if self.policy == "stop":
            self._losses += losses
        return True

    def look(self, epoch: int, step: int, lr: float, hint: str) -> None:
        """Look at the losses since the last look; one wait for the GPU.

        Args:
            epoch, step: where the run is, in batches done.
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
        where = f"step {step - batches + bad + 1}" if batches == len(values) else f"by step {step}"
        last = values[bad - 1] if bad else before
        finite = "none" if last is None else f"{float(last):.4g}"
        where += f" (lr {float(lr):.3g}, last finite loss {finite})"
        raise NonFiniteError(f"the loss became {values[bad]} in epoch {epoch}, {where}\n  {hint}")


def check_finite(model: nn.Module, epoch: int, lr: float, hint: str) -> None:
    """Look at the weights before they become a file: a finite loss can have gradients that are not.

    Raises:
        NonFiniteError: with the names of weights.
    """
    named = dict(model.named_parameters())
    sums = [parameter.detach().sum(dtype=torch.float32) for parameter in named.values()]
    if not sums or bool(torch.isfinite(torch.stack(sums).sum())):
        return
    bad = [name for name, parameter in named.items() if not bool(torch.isfinite(parameter).all())]
    if bad:
        names = ", ".join(bad[:3]) + (", …" if bad[3:] else "")
        raise NonFiniteError(f"weights became NaN or infinite by epoch {epoch} (lr {float(lr):.3g}): {names}\n  {hint}")
