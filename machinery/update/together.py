"""How several processes keep the same weights: the same at the start, and averaged gradients."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from machinery import distributed
from machinery.errors import ConfigError, UserError
from machinery.order.outstanding import OUTSTANDING
from machinery.update.networks import share_buffers
from machinery.update.runtime import is_sharded

Weigh = Callable[[], float]


def connect(
    networks: Sequence[nn.Module],
    optimizers: Iterable[torch.optim.Optimizer],
    weigh: Weigh | None,
    strategy: str = "ddp",
) -> None:
    """Let several processes begin with the same weights, and average all gradients.

    What is in a DistributedDataParallel averages by itself; every other parameter averages its
    gradient as it comes, so that loops and updates of the user's own may clip, accumulate and step
    as on one process.

    Args:
        networks, optimizers: of the trainer.
        weigh: says what the gradients of a backward pass count for, in a loop that weighs no loss.
        strategy: of the trainer.

    Raises:
        ConfigError: weights are to be shared out in a loop of the user's own.
    """
    if distributed.alone():
        return
    if strategy == "fsdp" and weigh is not None:
        raise ConfigError(
            "trainer.strategy: fsdp is for Trainer's own _train_epoch: a loop of your own takes ddp"
        )
    parameters = []
    for parameter in _all_parameters(networks, optimizers):
        if not is_sharded(parameter):  # each process has another part, and FSDP2 averages
            parameters.append(parameter)
    distributed.broadcast(parameters)
    share_buffers(networks)
    parallel = {id(parameter) for parameter in _in_parallel(networks)}
    for parameter in parameters:
        if not (parameter.is_floating_point() or parameter.is_complex()):
            continue
        averages = id(parameter) not in parallel
        if averages or weigh is not None:
            _hook(parameter, _shared_gradient(averages, weigh))


def _shared_gradient(averages: bool, weigh: Weigh | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """What becomes of a gradient of this process."""

    def shared(gradient: torch.Tensor) -> torch.Tensor:
        weight = 1.0
        if weigh is not None:
            weight = weigh()
        if weight == 0 or OUTSTANDING.is_nothing:  # no product: 0 times what is not finite is NaN
            gradient = torch.zeros_like(gradient)
        elif weight != 1:
            gradient = gradient * weight
        if not averages:
            return gradient
        assert not gradient.requires_grad, "processes cannot average gradients of gradients"
        return distributed.average(gradient)

    return shared


def _hook(parameter: torch.Tensor, shared: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Add a hook, also to a parameter that is not trained: it may be, later."""
    trained = parameter.requires_grad
    parameter.requires_grad_(True).register_hook(shared)
    parameter.requires_grad_(trained)


def _all_parameters(
    networks: Sequence[nn.Module], optimizers: Iterable[torch.optim.Optimizer]
) -> list[torch.Tensor]:
    """The parameters of networks and optimizers, each once."""
    found: dict[int, torch.Tensor] = {}
    for network in networks:
        for parameter in network.parameters():
            found.setdefault(id(parameter), parameter)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                found.setdefault(id(parameter), parameter)
    return list(found.values())


def _in_parallel(networks: Sequence[nn.Module]) -> Iterator[torch.Tensor]:
    """The trained parameters in DistributedDataParallels, wherever in a network these are."""
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.parallel.DistributedDataParallel):
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        yield parameter


def agree(networks: Sequence[nn.Module]) -> None:
    """Make sure that several processes have the same weights, and give all the main one's buffers.

    Raises:
        UserError: they have drifted apart.
    """
    check_alike(networks)
    share_buffers(networks)


def check_alike(networks: Sequence[nn.Module]) -> None:
    """Make sure that several processes have the same weights.

    Raises:
        UserError: they have drifted apart.
    """
    if distributed.alone():
        return
    sums = []
    for network in networks:
        for parameter in network.parameters():
            if is_sharded(parameter):  # each process has another part
                continue
            # Squares, because there are losses that keep plain sums.
            sums.append(float(parameter.detach().abs().cpu().double().square().sum()))
    for others in distributed.gathered(sums):
        if not np.allclose(sums, others, 1e-6, 1e-6, equal_nan=True):
            raise UserError(
                "the processes have come to other weights: "
                "call self.model(…), not what is inside of it"
            )
