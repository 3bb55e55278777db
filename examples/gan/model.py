"""Two networks that play against each other (Goodfellow et al. 2014, arXiv:1406.2661)."""

import torch
from torch import nn

from base import BaseModel


class Generator(BaseModel):
    """Makes images of noise.

    Args:
        noise: numbers that an image is made of.
        width: of the hidden layer.
    """

    def __init__(self, noise: int = 64, width: int = 256) -> None:
        super().__init__()
        self.noise = noise
        self.net = nn.Sequential(nn.Linear(noise, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 784))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Noise float [n, noise] to images float [n, 1, 28, 28]."""
        return self.net(z).view(-1, 1, 28, 28)


class Critic(BaseModel):
    """Tells images of the data from those of the generator."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.LeakyReLU(0.2), nn.Linear(width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1, 28, 28] to logits float [n, 1]: high for those of the data."""
        return self.net(x)
