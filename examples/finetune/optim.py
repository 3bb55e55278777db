"""Two learning rates: a small one for what is known already, a large one for what is new."""

from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn


def two_rates(
    named: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    head: str,
    head_lr: float,
    weight_decay: float = 0.01,
) -> torch.optim.Optimizer:
    """AdamW over two groups of parameters.

    Args:
        named: the parameters that are trained, with their names.
        lr: learning rate of the rest.
        head: pattern of the names of the new layer's parameters.
        head_lr: learning rate of these.
        weight_decay: of both.
    """
    known = []
    new = []
    for name, parameter in named:
        if fnmatch(name, head):
            new.append((name, parameter))
        else:
            known.append((name, parameter))
    groups: list[dict[str, Any]] = []
    if known:
        groups.append({"params": known})
    if new:
        groups.append({"params": new, "lr": head_lr})
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay)
