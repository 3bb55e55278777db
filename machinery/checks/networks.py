"""Whether the networks of a run are as somebody would want them who trains."""

from collections.abc import Sequence
from logging import Logger
from typing import Any

from torch import nn
from torch.optim import Optimizer

from machinery.update.runtime import unwrap

#: So many parameters are named.
_NAMED = 3


def warn_of_networks(
    model: nn.Module, criterion: Any, optimizers: Sequence[Optimizer], logger: Logger
) -> None:
    """Warn of a model in evaluation mode, and of parameters that nobody trains.

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
    if len(names) > _NAMED:
        return f"{', '.join(names[:_NAMED])}, … ({len(names)})"
    return ", ".join(names)
