"""Two networks that play against each other, made of convolutions.

Goodfellow et al. 2014, arXiv:1406.2661; Radford et al. 2015, arXiv:1511.06434.
"""

import torch
from torch import nn

from base import BaseModel
from data_loader.data_loaders import MNIST_MEAN, MNIST_STD


class Generator(BaseModel):
    """Makes images of noise.

    Args:
        noise: numbers that an image is made of.
        width: channels of the last but one layer.
    """

    def __init__(self, noise: int = 64, width: int = 16) -> None:
        super().__init__()
        self.noise = noise
        first = [nn.Linear(noise, 98 * width), nn.BatchNorm1d(98 * width), nn.ReLU()]
        square = nn.Unflatten(1, (2 * width, 7, 7))
        middle = [nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU()]
        last = [nn.ConvTranspose2d(width, 1, 4, 2, 1), nn.Sigmoid()]
        self.net = nn.Sequential(*first, square, *middle, *last)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Noise float [n, noise] to images float [n, 1, 28, 28], in the range of the data's."""
        return (self.net(z) - MNIST_MEAN) / MNIST_STD


class Critic(BaseModel):
    """Tells images of the data from those of the generator.

    Args:
        width: channels of the first layer.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        first = [nn.Conv2d(1, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        middle = [nn.Conv2d(width, 2 * width, 4, 2, 1), nn.LeakyReLU(0.2)]
        last = [nn.Flatten(), nn.Dropout(0.3), nn.Linear(98 * width, 1)]
        self.net = nn.Sequential(*first, *middle, *last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1, 28, 28] to logits float [n, 1]: high for those of the data."""
        return self.net(x)
