"""Averages over characters: a batch holds as many as its windows are long together."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from trainer import Trainer


def token_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of logits [n, places, classes] and classes [n, places], in nats."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def bits(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each character, in bits: float [n · places]."""
    logits = output.flatten(0, 1).float()
    return F.cross_entropy(logits, target.flatten(), reduction="none") / math.log(2)


class TokenTrainer(Trainer):
    """Counts characters, so that samples/s is characters per second."""

    def batch_size_of(self, batch: Any) -> int:
        """How many characters a batch has to foretell."""
        return batch[1].numel()
