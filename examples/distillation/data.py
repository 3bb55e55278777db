"""Batches that are dicts."""

from typing import Any

import torch
from torch.utils.data import Dataset

from base import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader


class Named(Dataset[dict[str, torch.Tensor]]):
    """The bundled digits by name.

    Args:
        training: the training samples, or the test samples.
    """

    #: No global generators: they need no seeds.
    draws_from = ()

    def __init__(self, training: bool) -> None:
        self.digits: Any = DigitsDataLoader(training=training).dataset

    def __len__(self) -> int:
        return len(self.digits)

    def __getitems__(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """Samples int64 [n] as images float [n, 1, 28, 28] and labels int64 [n]."""
        image, label = self.digits.__getitems__(indices)
        return {"image": image, "label": label}


class DictLoader(BaseDataLoader):
    """Digits as dicts.

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
        dataset = Named(training)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)
