"""Whether the networks of a run are as somebody would want them who trains."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from logging import Logger
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from machinery.update.runtime import unwrap

#: So many parameters are named.
_NAMED = 3
#: Containers in each other that are looked into: a list may hold itself.
_DEEP = 4


def warn_of_networks(
    model: nn.Module, criterion: Any, optimizers: Sequence[Optimizer], logger: Logger
) -> None:
    """Warn of a model in evaluation mode, and of weights that nobody trains.

    Args:
        criterion: the loss, which may have parameters, too.
        optimizers: all of the trainer.
    """
    if not model.training:
        hint = "model.train() would change that"
        logger.warning(f"the model is in evaluation mode, and trains in it: {hint}")
    trained = _trained_by(optimizers)
    untrained = _untrained(unwrap(model), trained)
    if untrained:
        hint = "freeze them (arch.freeze, requires_grad_(False)), or give them to an optimizer"
        logger.warning(f"the model has parameters that no optimizer trains: {untrained}: {hint}")
    unknown = _unknown(unwrap(model), trained)
    if unknown:
        hint = "keep layers in nn.ModuleList or nn.ModuleDict, and weights as nn.Parameter"
        what = "the model holds weights that it does not know, and neither trains nor saves"
        logger.warning(f"{what}: {unknown}: {hint}")
    if isinstance(criterion, nn.Module):
        untrained = _untrained(criterion, trained)
        if untrained:
            hint = "requires_grad_(False) freezes them, --set optimizer.loss=true trains them"
            logger.warning(f"the loss has parameters that no optimizer trains: {untrained}: {hint}")


def _trained_by(optimizers: Sequence[Optimizer]) -> set[int]:
    """The identities of the parameters of optimizers."""
    found: set[int] = set()
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            found.update(id(parameter) for parameter in group["params"])
    return found


def _untrained(network: nn.Module, trained: set[int]) -> str:
    """The names of the parameters that want a gradient, and that nobody trains."""
    names = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and id(parameter) not in trained:
            names.append(name)
    return _first_of(names)


def _unknown(network: nn.Module, trained: set[int]) -> str:
    """The names of the attributes with weights that the network does not see as its own.

    torch sees modules and parameters that are attributes, and none in a list or a dict.
    """
    known = trained.union(id(parameter) for parameter in network.parameters())
    names = []
    for prefix, module in network.named_modules():
        for name, value in vars(module).items():
            if name.startswith("_"):  # torch's own, and what somebody hides on purpose
                continue
            held = {id(weight) for weight in _weights_in(value)}
            if held - known:
                names.append(f"{prefix}.{name}".lstrip("."))
    return _first_of(names)


def _weights_in(value: Any, depth: int = _DEEP) -> Iterator[torch.Tensor]:
    """The weights that want a gradient in what an attribute holds, also in lists and dicts."""
    items: Iterable[Any] = ()
    if isinstance(value, nn.Module):
        items = value.parameters()
    elif isinstance(value, torch.Tensor):
        if _wants_gradient(value):
            yield value
    elif type(value) in (dict, OrderedDict):
        items = value.values()
    elif type(value) in (list, tuple):
        items = value
    if depth > 0:
        for item in items:
            yield from _weights_in(item, depth - 1)


def _wants_gradient(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a weight: what was computed of weights is none."""
    if not tensor.requires_grad:
        return False
    return tensor.is_leaf


def _first_of(names: Sequence[str]) -> str:
    """Some names, the first few where there are many."""
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])}, … ({len(names)})"
    return ", ".join(names)
