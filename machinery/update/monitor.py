"""Which epoch is the best so far, whether to go on, and whether losses and weights are finite."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from machinery import distributed
from machinery.errors import NonFiniteError

_STATE = ("best", "best_epoch", "bad_epochs")


class Monitor:
    """Watches one number of the log.

    Args:
        setting: "min NAME", "max NAME" or "off".
        early_stop: stop after this many epochs in a row without improvement; None or 0 never stops.
    """

    def __init__(self, setting: str, early_stop: int | None) -> None:
        self.mode, _, self.name = setting.partition(" ")
        #: Whether there is anything to watch.
        self.on = self.mode != "off"
        self.patience = early_stop or math.inf
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch = 0
        self.bad_epochs = 0

    def update(self, epoch: int, log: Mapping[str, float]) -> bool:
        """Judge an epoch; only a strictly better, finite value is an improvement."""
        if not self.on:
            return False
        if self.name not in log:
            logging.getLogger("trainer").warning(
                f"epoch {epoch} has no {self.name}, and counts as no improvement"
            )
        value = float(log.get(self.name, math.nan))
        better = value < self.best if self.mode == "min" else value > self.best
        if better and math.isfinite(value):
            self.best, self.best_epoch, self.bad_epochs = value, epoch, 0
            return True
        self.bad_epochs += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the patience is at its end."""
        return self.bad_epochs >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Best value, its epoch, and the epochs since."""
        return {"setting": f"{self.mode} {self.name}"} | {
            name: getattr(self, name) for name in _STATE
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on judging, unless it is another number that is watched now."""
        if state["setting"] == f"{self.mode} {self.name}":
            vars(self).update({name: state[name] for name in _STATE})


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
            self.skipped = not all(
                distributed.gathered(bool(torch.isfinite(torch.stack(losses)).all()))
            )
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
        spoilt = bool(losses) and not bool(torch.isfinite(torch.stack(losses).sum()))
        if not any(distributed.totals([spoilt])() if distributed.SIZE > 1 else [spoilt]):
            return
        values = [float(loss) for loss in losses]
        bad = next((i for i, value in enumerate(values) if not math.isfinite(value)), math.inf)
        # Of several processes, the one that met it first says where; from there on it is everywhere.
        last = values[int(bad) - 1] if 0 < bad < math.inf else before
        found = (
            bad,
            math.nan if bad == math.inf else values[int(bad)],
            None if last is None else float(last),
        )
        bad, value, last = min(distributed.gathered(found), key=lambda each: each[0])
        if bad == math.inf:  # finite values whose sum overflows
            return
        # An update with several optimizers has more losses than batches.
        where = (
            f"step {step - batches + int(bad) + 1}" if batches == len(values) else f"by step {step}"
        )
        where += (
            f" (lr {float(lr):.3g}, last finite loss {'none' if last is None else f'{last:.4g}'})"
        )
        raise NonFiniteError(f"the loss became {value} in epoch {epoch}, {where}\n  {hint}")


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
        raise NonFiniteError(
            f"weights became NaN or infinite by epoch {epoch} (lr {float(lr):.3g}): {names}\n  {hint}"
        )
