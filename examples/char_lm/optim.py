"""Weight decay for matrices alone."""

from collections.abc import Iterable

import torch
from torch import nn


def decayed(named: Iterable[tuple[str, nn.Parameter]], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that decays weights, but no bias and no normalisation.

    Args:
        named: the parameters with their names.
        lr, weight_decay: of AdamW.
    """
    named = list(named)
    matrices = [(name, p) for name, p in named if p.ndim > 1]
    others = [(name, p) for name, p in named if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.99))
