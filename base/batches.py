"""The batches from one place of a run to another, of the template's own loaders and of foreign ones."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from base.base_data_loader import BaseDataLoader
from base.data_order import lost_worker
from utils.errors import DataError
from utils.seeding import seed_everything


def training_batches(
    loader: Any, start: int, stop: int, seed: int, device: torch.device, ahead: bool = True
) -> Iterator[Any]:
    """Batches `start` up to `stop`, counted from the beginning of the run, pass after pass over the loader.

    They are on the device where the loader brings them there (`BaseDataLoader.to`).

    A loader of ours begins at the place itself; a foreign one is read and dropped up to it, from generators that are
    seeded for each pass and each batch, so that a resumed run sees what the unbroken one saw.
    """
    length = len(loader)
    if length == 0:
        raise DataError("the training loader has no batches: fewer samples than a batch, with drop_last?")
    while start < stop:
        epoch, first = start // length + 1, start % length
        last = min(length, first + stop - start)
        if isinstance(loader, BaseDataLoader):
            loader.to(device, ahead).set_place(epoch, first, last)
            yield from loader
        else:
            yield from _foreign_pass(loader, epoch, first, last, seed)
        start += last - first


def evaluation_batches(loader: Any, seed: int, device: torch.device) -> Iterator[Any]:
    """All batches of a loader, with the same random draws at every evaluation; on the device as in training."""
    if isinstance(loader, BaseDataLoader):
        loader.to(device).set_place(0, purpose="eval")
        return iter(loader)
    return _foreign_pass(loader, 0, 0, None, seed)


def _foreign_pass(loader: Iterable[Any], epoch: int, first: int, last: int | None, seed: int) -> Iterator[Any]:
    purpose = "step" if epoch else "eval"
    seed_everything(seed, "pass", epoch)
    batches = iter(loader)
    k = 0
    try:
        while last is None or k < last:
            seed_everything(seed, "fetch", epoch, k)  # for data that draws in this process
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                raise lost_worker(error, type(loader).__name__, k) or error from error.__cause__
            seed_everything(seed, purpose, epoch, k, 0)
            if k >= first:
                yield batch
            k += 1
    finally:
        del batches  # see BaseDataLoader
