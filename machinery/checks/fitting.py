"""Whether the parts of a training fit each other and its settings, before anything is written."""

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from machinery.checks.processes import check_processes
from machinery.checks.settings import check_first_numbers, check_settings, sets_of, tell_of_average
from machinery.update.metrics import MetricTracker


def check_parts(
    own: Any,
    template: type,
    config: Any,
    metrics: Sequence[Any],
    model: nn.Module,
    loaders: tuple[Any, Any],
) -> None:
    """Refuse settings that make no sense together, or with the parts.

    Args:
        own: the trainer, which is being made.
        template: the class that has no numbers of its own.
        config: the parsed config.
        loaders: of the training and the validation data.

    Raises:
        ConfigError: with all problems.
    """
    settings = config.settings.trainer
    loader, valid_loader = loaders
    names = [*own.loss_terms, *(metric.__name__ for metric in metrics)]
    prefixes = list(sets_of(valid_loader))
    log_names = own.log_names
    if type(own) is template:
        log_names = None
    check_settings(settings, config.where, names, log_names, prefixes, own.len_epoch)
    if config.config.get("valid_data_loader") and getattr(loader, "valid_sampler", None):
        what = "validation_split holds out samples that nobody sees, beside a valid_data_loader"
        logging.getLogger("trainer").warning(f"data_loader.args: {what}: set it to 0")
    tell_of_average(settings, own.len_epoch)
    check_processes(model, loader, metrics, settings.sync_batchnorm)


def check_monitored(own: Any, config: Any, tracker: MetricTracker) -> None:
    """Refuse a monitored number that its metric does not give, once it has counted a batch.

    Args:
        own: the trainer.
        config: the parsed config.
        tracker: of the training.

    Raises:
        ConfigError: with the names that there are.
    """
    settings = config.settings.trainer
    sets = sets_of(own.valid_data_loader)
    check_first_numbers(settings, config.where, tracker, sets, own.log_names)
