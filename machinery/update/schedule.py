"""Learning-rate schedulers: how they are readied, and by what a plateau is judged."""

from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from machinery.update.watching import Monitor


def expect_steps(optimizer: Optimizer) -> None:
    """Tell torch that the order of optimizer and scheduler is fixed in the trainer.

    Its check cries wolf after a resume, and where fp16 skips the first step; it has no public
    switch.
    """
    optimizer._opt_called = True  # type: ignore[attr-defined]


def step_scheduler(scheduler: Any, log: Mapping[str, float], monitor: Monitor, loss: str) -> None:
    """Step a scheduler; a plateau looks at a number of the log, and waits where there is none.

    One that counts by itself may look at it, too.

    That is what is monitored; if nothing is, the loss, of the (first) validation if there is one.

    Args:
        loss: the name of the loss.
    """
    is_plateau = isinstance(scheduler, ReduceLROnPlateau)
    if not is_plateau and not getattr(scheduler, "judges", False):
        scheduler.step()
        return
    judged_by = loss
    if monitor.on:
        judged_by = monitor.name
    elif f"val_{loss}" in log:
        judged_by = f"val_{loss}"
    else:
        for name in log:  # of the first of several sets
            if name.startswith("val_") and name.endswith(f"_{loss}"):
                judged_by = name
                break
    if judged_by in log:
        scheduler.step(log[judged_by])
    elif not is_plateau:
        scheduler.step()
