"""Optimizers and schedulers of your own: add them here, name them like those of torch.

A class like those of torch.optim, or a function that makes one, takes the parameters first; a
scheduler the optimizer.
"""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, warmup: float = 0.05, lowest: float = 0.0
) -> LambdaLR:
    """Raises the rate evenly to the optimizer's, then lowers it as a cosine.

    Args:
        optimizer: whose rates it changes.
        total_steps: of the schedule in the run; the program counts them.
        warmup: how many of them raise it; a number below 1 is a share.
        lowest: what is left at the end, as a share of the rate.
    """
    rise = warmup * total_steps if warmup < 1 else warmup
    if not 0 <= rise <= total_steps:
        steps = f"{total_steps} steps of the run"
        raise ValueError(f'a warm-up of {rise:g} of {steps}: perhaps "interval": "step"?')
    if not 0 <= lowest <= 1:
        raise ValueError(f"lowest is {lowest:g}: a share of the rate")

    def factor(step: int) -> float:
        if step < rise:
            return (step + 1) / (rise + 1)
        done = min((step - rise) / max(total_steps - rise, 1), 1.0)
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * done)) / 2

    schedule = LambdaLR(optimizer, factor)
    schedule.total_steps = total_steps  # type: ignore[attr-defined]
    return schedule
