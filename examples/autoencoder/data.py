"""Images without labels."""

from typing import Any

import torch

from base import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader, InMemoryImages


class Unlabelled(InMemoryImages):
    """Batches are images alone."""

    def __getitems__(self, indices: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Samples int64 [n] as images float [n, 1, height, width]."""
        return super().__getitems__(indices)[0]


class ImagesLoader(BaseDataLoader):
    """The bundled digits, in grey values of 0 to 1.

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
        images = DigitsDataLoader(training=training).dataset
        grey = (images.images[:, 0] * images.std + images.mean).mul(255).round().byte()
        dataset = Unlabelled(grey, images.labels, mean=0.0, std=1.0)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)
