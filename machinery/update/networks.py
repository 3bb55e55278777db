"""The networks of a trainer: their device, their modes, and how several processes keep them the same."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from base.base_data_loader import BaseDataLoader
from machinery import distributed
from machinery.checkpoints.parts import held_by, networks
from machinery.errors import UserError

_DDP = nn.parallel.DistributedDataParallel


def bring(parts: list[nn.Module], device: torch.device) -> None:
    """Bring networks that are on the CPU to the device; one that is elsewhere has been put there."""
    for network in parts:
        tensors = [*network.parameters(), *network.buffers()]
        if device.type != "cpu" and all(tensor.device.type == "cpu" for tensor in tensors):
            network.to(device)


def connect(trainer: Any) -> None:
    """Let several processes begin with the same weights, and average the gradients of all that a trainer optimizes.

    What is in a DistributedDataParallel is its business; every other parameter averages its gradient as it comes, so
    that loops and updates of the user's own may clip, accumulate and step as on one process.
    """
    if distributed.SIZE == 1:
        return
    nets, parts = networks(trainer), held_by(trainer).parts.values()
    groups = [
        group["params"]
        for p in parts
        if isinstance(p, torch.optim.Optimizer)
        for group in p.param_groups
    ]
    parameters = {
        id(each): each
        for some in (*(network.parameters() for network in nets), *groups)
        for each in some
    }
    distributed.broadcast(parameters.values())
    share_buffers(nets)
    known = {
        id(p)
        for n in nets
        for m in n.modules()
        if isinstance(m, _DDP)
        for p in m.parameters()
        if p.requires_grad
    }
    own = not hasattr(trainer, "runtime")  # which has weighted the loss

    def average(gradient: torch.Tensor) -> torch.Tensor:
        assert not gradient.requires_grad, "several processes cannot average gradients of gradients"
        return distributed.average(gradient * BaseDataLoader.weight if own else gradient)

    for key, each in parameters.items():
        if key not in known and (each.is_floating_point() or each.is_complex()):
            trained = each.requires_grad  # or will be, later
            each.requires_grad_(True).register_hook(average)
            each.requires_grad_(trained)


def check_alike(parts: list[nn.Module]) -> None:
    """Make sure that several processes have the same weights.

    Raises:
        UserError: they have drifted apart.
    """
    if distributed.SIZE > 1:
        # Squares, because there are losses that keep plain sums.
        sums = [
            float(p.detach().abs().cpu().double().square().sum())
            for part in parts
            for p in part.parameters()
        ]
        if not all(
            np.allclose(sums, each, 1e-6, 1e-6, equal_nan=True)
            for each in distributed.gathered(sums)
        ):
            raise UserError(
                "the processes have come to other weights: call self.model(…), not what is inside of it"
            )


def share_buffers(parts: list[nn.Module]) -> None:
    """Give the networks of all processes the main one's buffers, such as the running means of BatchNorm."""
    distributed.broadcast(tensor for network in parts for tensor in network.buffers())


def to_training(parts: list[nn.Module]) -> None:
    """Put networks in training mode by their own `train()`; what has been switched off stays off."""
    off = [module for network in parts for module in network.modules() if not module.training]
    for network in parts:
        if network.training:
            network.train()
    for module in off:
        module.training = False


@contextmanager
def evaluating(parts: list[nn.Module]) -> Iterator[None]:
    """Put networks in evaluation mode; afterwards each of their modules is in the mode that it was in."""
    modes = [(module, module.training) for network in parts for module in network.modules()]
    training = [network for network in parts if network.training]
    try:
        for network in parts:
            network.eval()
        yield
    finally:
        for network in training:
            network.train()  # which may do more than set flags
        for module, mode in modes:
            module.training = mode


def keep_buffers(parts: list[nn.Module]) -> Callable[[], None]:
    """What puts the buffers of networks back as they are now."""
    modules = [module for network in parts for module in network.modules()]
    before = [
        (module, {n: b.clone() for n, b in module.named_buffers(recurse=False)})
        for module in modules
    ]

    def put_back() -> None:
        for module, buffers in before:
            module._buffers.update(buffers)

    return put_back
