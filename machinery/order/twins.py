"""Workers that read the same: iterable data has to ask in which of them it is, and often does not.

Each sample would be trained on, or counted, once for each worker, and nothing would say so.
"""

import logging
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch.utils._pytree import tree_leaves
from torch.utils.data import IterableDataset

#: Loaders whose workers have been looked at.
_looked_at: WeakSet[Any] = WeakSet()


class Twins:
    """Looks at the first batch of each worker, which come in turn.

    Args:
        loader: a DataLoader, or whatever else gives batches.
        dataset: that it reads, if not its own.
    """

    def __init__(self, loader: Any, dataset: Any = None) -> None:
        self._loader = loader
        self._dataset = dataset
        if dataset is None:
            self._dataset = getattr(loader, "dataset", None)
        self._first: list[Any] = []
        self._workers = 0
        iterable = isinstance(self._dataset, IterableDataset)
        if iterable and loader.num_workers > 1 and loader not in _looked_at:
            self._workers = loader.num_workers

    def see(self, batch: Any) -> None:
        """Keep the first batches, until the first worker gives its second."""
        if self._workers == 0:
            return
        if len(self._first) < self._workers:
            self._first.append(batch)
        else:
            self.judge(batch)

    def judge(self, second: Any = None) -> None:
        """Warn, once for a loader, if two first batches are the same.

        Args:
            second: of the first worker. Data that repeats itself, such as zeros, says nothing.
        """
        first = self._first
        if len(first) > 1 and _varied(first[0]) and not _same(first[0], second):
            if any(_same(first[0], other) for other in first[1:]):
                kind = type(self._dataset).__name__
                hint = "give each worker a part (torch.utils.data.get_worker_info)"
                what = f"{kind}: two workers begin with the same batch, each reads all the data"
                logging.getLogger("data_loader").warning(f"{what}: {hint}, or set num_workers to 1")
        if first:
            _looked_at.add(self._loader)
        self._workers = 0
        self._first = []


def _same(batch: Any, other: Any) -> bool:
    """Whether two batches hold the same values."""
    values = tree_leaves(batch)
    others = tree_leaves(other)
    if len(values) != len(others):
        return False
    return all(map(_equal, values, others))


def _equal(value: Any, other: Any) -> bool:
    if type(value) is not type(other):
        return False
    try:
        if isinstance(value, torch.Tensor):
            return torch.equal(value, other)
        return bool(np.all(value == other))
    except Exception:  # of values that nothing can be said about
        return False


def _varied(batch: Any) -> bool:
    """Whether a batch holds more than one value over and over."""
    for value in tree_leaves(batch):
        if isinstance(value, str | bytes):
            return True
        if isinstance(value, torch.Tensor | np.ndarray):
            flat = value.reshape(-1)
            if len(flat) > 1 and not _equal(flat, flat[:1].repeat(len(flat))):
                return True
    return False
