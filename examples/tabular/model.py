"""A network on rows of a table, which knows how to bring them to one scale."""

import torch
from torch import nn

from base import BaseModel


class MLP(BaseModel):
    """Three layers behind a normalisation that is fitted once, and kept in the checkpoint.

    Args:
        columns: of the table, without the target.
        width: of the hidden layers.
        dropout: share of what is left out in training.
    """

    def __init__(self, columns: int, width: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("std", torch.ones(columns))
        self.register_buffer("target", torch.tensor([0.0, 1.0]))  # its mean and standard deviation
        first = [nn.Linear(columns, width), nn.ReLU(), nn.Dropout(dropout)]
        second = [nn.Linear(width, width), nn.ReLU()]
        self.net = nn.Sequential(*first, *second, nn.Linear(width, 1), nn.Flatten(0))

    def fit(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """Take means and standard deviations of rows float [n, columns] and targets [n].

        Holes are left out.
        """
        there = ~x.isnan()
        count = there.sum(dim=0).clamp(min=1)
        self.mean = x.nan_to_num().sum(dim=0) / count
        squares = torch.where(there, x - self.mean, 0.0).square().sum(dim=0) / count
        self.std = torch.where(squares > 0, squares.sqrt(), 1.0)
        self.target = torch.stack([y.mean(), y.std().clamp(min=1e-12)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Rows float [n, columns] to targets float [n]; a hole counts as the mean of its column."""
        scaled = ((x - self.mean) / self.std).nan_to_num(nan=0.0)
        return self.net(scaled) * self.target[1] + self.target[0]
