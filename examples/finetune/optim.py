"""Two learning rates: a small one for what is known already, a large one for what is new."""

from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn


def two_rates(
    named: Iterable[tuple[str, nn.Parameter]], lr: float, head: str, head_lr: float, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """AdamW over two groups of parameters.

    Args:
        named: the parameters that are trained, with their names.
        lr: learning rate of the rest.
        head: pattern of the names of the new layer's parameters.
        head_lr: learning rate of these.
        weight_decay: of both.
    """
    named = list(named)
    body = [(name, parameter) for name, parameter in named if not fnmatch(name, head)]
    new = [(name, parameter) for name, parameter in named if fnmatch(name, head)]
    groups: list[dict[str, Any]] = [{"params": body}, {"params": new, "lr": head_lr}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, weight_decay=weight_decay)
