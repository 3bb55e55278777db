"""Pictures of discs and boxes, and which pixel belongs to what."""

from typing import Any

import torch
from torch.utils.data import Dataset

from base import BaseDataLoader


class Shapes(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Pictures of 32 × 32 pixels with a disc and a box in noise, drawn from a seed for each.

    Args:
        n: how many.
        seed: of the first one.
    """

    #: No global generators: they need no seeds.
    draws_from = ()

    def __init__(self, n: int, seed: int) -> None:
        self.n = n
        self.seed = seed

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """A picture float [1, 32, 32], and its mask int64 [32, 32]: 0 paper, 1 disc, 2 box."""
        draw = torch.Generator().manual_seed(self.seed + index)
        y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
        disc, box, size = torch.rand(3, 2, generator=draw).mul(20).add(6).unbind()
        squared = (x - disc[0]).square() + (y - disc[1]).square()
        in_disc = squared < (size[0] / 4 + 2) ** 2
        farthest = torch.maximum((x - box[0]).abs(), (y - box[1]).abs())
        in_box = farthest < size[1] / 4 + 1
        mask = torch.zeros(32, 32, dtype=torch.int64)
        mask[in_disc] = 1
        mask[in_box] = 2
        grey = torch.tensor([0.0, 0.6, 1.0])[mask] + 0.4 * torch.randn(32, 32, generator=draw)
        return grey[None], mask


class ShapesLoader(BaseDataLoader):
    """Pictures of shapes with their masks.

    Args:
        n: how many for training; a quarter as many for testing.
        training: the training pictures, or the test pictures.
        batch_size, shuffle, validation_split, num_workers, options: as in `BaseDataLoader`.
    """

    def __init__(
        self,
        n: int = 600,
        training: bool = True,
        batch_size: int = 16,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        if training:
            dataset = Shapes(n, 0)
        else:
            dataset = Shapes(n // 4, 1_000_000)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)
