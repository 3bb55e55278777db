"""What of the log of an epoch is a number."""

import logging
from collections.abc import Mapping
from typing import Any

import torch


def numbers_of(log: Mapping[str, Any], logger: logging.Logger) -> dict[str, float]:
    """The numbers of an epoch's log; the rest, text or many values, is shown."""
    numbers = {}
    for name, value in log.items():
        number = value
        if isinstance(value, torch.Tensor):
            number = value.detach()
        try:
            numbers[name] = float(number)
        except (TypeError, ValueError, RuntimeError):
            logger.info(f"{name} {value}")
    return numbers
