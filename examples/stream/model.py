"""A network on points of the plane."""

import torch
from torch import nn

from base import BaseModel


class MLP(BaseModel):
    """Two hidden layers.

    Args:
        width: of both.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        first = [nn.Linear(2, width), nn.ReLU()]
        second = [nn.Linear(width, width), nn.ReLU()]
        self.net = nn.Sequential(*first, *second, nn.Linear(width, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Points float [n, 2] to logits float [n, 2]."""
        return self.net(x)
