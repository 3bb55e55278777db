"""From images to directions."""

import torch
import torch.nn.functional as F
from torch import nn

from base import BaseModel


class Encoder(BaseModel):
    """Two convolutions and a layer.

    Args:
        width: how many numbers an image becomes.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        body = [nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.Conv2d(16, 32, 5, 2), nn.ReLU(), nn.Flatten()]
        self.net = nn.Sequential(*body, nn.Linear(512, 128), nn.ReLU(), nn.Linear(128, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1, 28, 28] to vectors float [n, width] of length 1."""
        return F.normalize(self.net(x))
