"""Trainers that find out what is wrong: one that sees a few batches alone, one that names what made a NaN."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch

from base import one_pass
from trainer import Trainer
from utils import ConfigError


class FewBatches(Trainer):
    """Trains on the first batches alone, again and again: a network that can learn at all gets to a loss near 0.

    A key of its own in the section `trainer`: `batches`, how many; 1 by default.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        names = ("model", "criterion", "metric_ftns", "optimizer", "config", "device", "data_loader")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if given.get("data_loader") is not None:
            n = given["config"]["trainer"].get("batches", 1)
            if type(n) is not int or n < 1:
                raise ConfigError(f"{given['config'].where('trainer', 'batches')}: expected a number of batches")
            batches = list(itertools.islice(one_pass(given["data_loader"], given["config"].settings.seed, 1), n))
            args = (
                tuple(batches if name == "data_loader" else value for name, value in zip(names, args, strict=False))
                + args[7:]
            )
            kwargs |= {"data_loader": batches} if "data_loader" in kwargs else {}
        super().__init__(*args, **kwargs)


class Anomaly(Trainer):
    """Names the operation of a forward pass whose gradient became NaN; some times slower."""

    def _update(self, batches: Sequence[Any]) -> None:
        with torch.autograd.set_detect_anomaly(True):
            super()._update(batches)
