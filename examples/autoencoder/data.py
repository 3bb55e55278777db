"""Images without labels."""

from typing import Any

import torch
from torch.utils.data import Dataset

from base import BaseDataLoader
from data_loader.data_loaders import MNIST_MEAN, MNIST_STD, DigitsDataLoader


class Unlabelled(Dataset[torch.Tensor]):
    """The bundled digits in grey values of 0 to 1.

    Args:
        training: the training samples, or the test samples.
    """

    #: No global generators: they need no seeds.
    draws_from = ()

    def __init__(self, training: bool) -> None:
        digits: Any = DigitsDataLoader(training=training).dataset
        self.images = digits.images * MNIST_STD + MNIST_MEAN

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: torch.Tensor) -> torch.Tensor:
        """Samples int64 [n] as images float [n, 1, 28, 28]."""
        return self.images[indices]


class ImagesLoader(BaseDataLoader):
    """Images alone.

    Args:
        training: the training samples, or the test samples.
        batch_size, shuffle, validation_split, num_workers, options: as in `BaseDataLoader`.
    """

    def __init__(
        self,
        training: bool = True,
        batch_size: int = 64,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        dataset = Unlabelled(training)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)
