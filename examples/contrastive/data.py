"""Two views of each image in a batch."""

from typing import Any

import torch
from torch.utils.data import Dataset

from base import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Views(Dataset[Batch]):
    """Images of a dataset that augments, each of them twice.

    Args:
        images: gives batches of images and labels.
    """

    #: No global generators: they need no seeds.
    draws_from = ()

    def __init__(self, images: Any) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: torch.Tensor) -> Batch:
        """Samples int64 [n] as two views float [n, 1, 28, 28] of each, and labels int64 [n]."""
        first, labels = self.images.__getitems__(indices)
        second, _ = self.images.__getitems__(indices)
        return first, second, labels

    def evaluation_view(self) -> "Views":
        """The same without augmentation."""
        return Views(self.images.evaluation_view())


class ViewsLoader(BaseDataLoader):
    """The bundled digits, twice each.

    Args:
        training: the training samples, or the test samples.
        shift, rotate: in training, as in `DigitsDataLoader`.
        batch_size, shuffle, validation_split, num_workers, options: as in `BaseDataLoader`.
    """

    def __init__(
        self,
        training: bool = True,
        shift: float = 3.0,
        rotate: float = 20.0,
        batch_size: int = 128,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        digits = DigitsDataLoader(training=training, shift=shift, rotate=rotate).dataset
        dataset = Views(digits)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)
