"""An autoencoder: what it learns is to say an image in a few numbers."""

import torch
from torch import nn

from base import BaseModel


class Autoencoder(BaseModel):
    """Two layers down to a code, and two back.

    Args:
        code: how many numbers an image becomes.
        width: of the hidden layers.
    """

    def __init__(self, code: int = 16, width: int = 256) -> None:
        super().__init__()
        down = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, code)]
        self.encoder = nn.Sequential(nn.Flatten(), *down)
        up = [nn.Linear(code, width), nn.ReLU(), nn.Linear(width, 784)]
        self.decoder = nn.Sequential(*up, nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1, 28, 28] of 0 to 1 to their reconstructions."""
        return self.decoder(self.encoder(x)).view_as(x)
