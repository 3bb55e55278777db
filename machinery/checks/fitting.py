"""Whether the parts of a training fit each other and its settings, before anything is written."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from machinery.checks.processes import check_processes
from machinery.checks.settings import check_settings
from machinery.config.settings import TrainerSettings


def check_parts(
    settings: TrainerSettings,
    where: Callable[..., str],
    loss_terms: Sequence[str],
    metrics: Sequence[Any],
    model: nn.Module,
    loaders: tuple[Any, Any],
    batches: int,
) -> None:
    """Refuse settings that make no sense together, or with the parts.

    Args:
        where: gives the origin of a key path.
        loss_terms: their names.
        loaders: of the training and the validation data.
        batches: in an epoch; 0 if that is not known.

    Raises:
        ConfigError: with all problems.
    """
    loader, valid_loader = loaders
    names = [*loss_terms, *(metric.__name__ for metric in metrics)]
    check_settings(settings, where, names, valid_loader is not None, batches)
    check_processes(model, loader, metrics, settings.sync_batchnorm)
