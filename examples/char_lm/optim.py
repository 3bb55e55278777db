"""Weight decay for matrices alone."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


def decayed(
    named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float
) -> torch.optim.Optimizer:
    """AdamW that decays weights, but no bias and no normalisation.

    Args:
        named: the parameters with their names.
        lr, weight_decay: of AdamW.
    """
    matrices = []
    others = []
    for name, parameter in named:
        if parameter.ndim > 1:
            matrices.append((name, parameter))
        else:
            others.append((name, parameter))
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))
