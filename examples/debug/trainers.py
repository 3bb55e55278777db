"""Trainers that find out what is wrong.

One sees a few batches alone, the other names what made a NaN.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from base import one_pass
from trainer import Trainer
from utils import ConfigError


class FewBatches(Trainer):
    """Trains on the first batches alone, again and again.

    A network that can learn at all gets to a loss near 0. A key of its own in the section
    `trainer`: `batches`, how many; 1 by default.
    """

    def __init__(
        self,
        model: Any,
        criterion: Any,
        metric_ftns: Any,
        optimizer: Any,
        config: Any,
        device: torch.device,
        data_loader: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if data_loader is not None:
            n = config["trainer"].get("batches", 1)
            if type(n) is not int or n < 1:
                where = config.where("trainer", "batches")
                raise ConfigError(f"{where}: expected a number of batches")
            batches = one_pass(data_loader, config.settings.seed, epoch=1)
            data_loader = list(itertools.islice(batches, n))
        super().__init__(
            model, criterion, metric_ftns, optimizer, config, device, data_loader, *args, **kwargs
        )


class Anomaly(Trainer):
    """Names the operation of a forward pass whose gradient became NaN; some times slower."""

    def _update(self, batches: Sequence[Any]) -> None:
        with torch.autograd.set_detect_anomaly(True):
            super()._update(batches)
