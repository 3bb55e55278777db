"""A convex problem, which a second-order method solves in a few steps."""

import torch
from torch import nn

from base import BaseModel


class SoftmaxRegression(BaseModel):
    """One linear layer on the pixels."""

    def __init__(self, pixels: int = 784, num_classes: int = 10) -> None:
        super().__init__()
        self.linear = nn.Linear(pixels, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1, 28, 28] to logits float [n, num_classes]."""
        return self.linear(x.flatten(1))
