"""The weights of optimizers: the largest of some, and what puts them back."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from machinery.update.sharding import local


def weights_in(optimizers: Sequence[Optimizer]) -> list[torch.Tensor]:
    """What optimizers change."""
    found = []
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            found += group["params"]
    return found


def keep_step(optimizers: Sequence[Optimizer], average: nn.Module | None) -> Callable[[], None]:
    """What puts weights, their average and optimizers back as they are now."""
    weights = weights_in(optimizers)
    if average is not None:
        weights += [*average.parameters(), *average.buffers()]
    values = [weight.detach().clone() for weight in weights]
    states = [copy.deepcopy(optimizer.state_dict()) for optimizer in optimizers]

    def put_back() -> None:
        with torch.no_grad():
            for weight, value in zip(weights, values, strict=True):
                weight.copy_(value)
        for optimizer, state in zip(optimizers, states, strict=True):
            optimizer.load_state_dict(state)

    return put_back


def largest(tensors: Sequence[torch.Tensor]) -> torch.Tensor | None:
    """The largest magnitude in some tensors, [], which is NaN if one of them holds a NaN.

    Of what is shared out over processes, that of the part which is in this one.
    """
    dense = []
    for tensor in tensors:
        values = local(tensor.detach())  # a part may have no numbers
        if values.is_sparse:
            values = values.coalesce().values()
        if values.numel() > 0:
            dense.append(values)
    if not dense:
        return None
    return nn.utils.get_total_norm(dense, norm_type=math.inf)


def lay_flat(optimizers: Sequence[Optimizer]) -> None:
    """Let gradients lie one row after the other: LBFGS views them as one vector.

    Those of images that are channels last do not.
    """
    for weight in weights_in(optimizers):
        if weight.grad is not None and weight.grad.layout == torch.strided:
            weight.grad = weight.grad.contiguous()
