"""A student."""

import torch
from torch import nn

from base import BaseModel


class Small(BaseModel):
    """One hidden layer.

    Args:
        width: of the hidden layer.
        num_classes: how many classes.
    """

    def __init__(self, width: int = 16, num_classes: int = 10) -> None:
        super().__init__()
        hidden = [nn.Flatten(), nn.Linear(784, width), nn.ReLU()]
        self.net = nn.Sequential(*hidden, nn.Linear(width, num_classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1, 28, 28] to logits float [n, num_classes]."""
        return self.net(x)
