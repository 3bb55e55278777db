"""The batches from one place of a run to another, of the template's own loaders and of foreign ones."""

from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

from base.base_data_loader import BaseDataLoader
from base.data_order import handed_out, replayed
from utils.errors import DataError


def training_batches(loader: Any, start: int, stop: int, seed: int) -> Iterator[Any]:
    """Batches `start` up to `stop`, counted from the beginning of the run, pass after pass over the loader.

    A loader of ours begins at the place itself; a foreign one is read and dropped up to it, so that a resumed run sees
    what the unbroken one saw.
    """
    length = len(loader)
    if length == 0:
        raise DataError("the training loader has no batches: fewer samples than a batch, with drop_last?")
    while start < stop:
        epoch, first = start // length + 1, start % length
        last = min(length, first + stop - start)
        yield from one_pass(loader, seed, epoch, first, last)
        start += last - first


def one_pass(loader: Any, seed: int, epoch: int = 0, first: int = 0, last: int | None = None) -> Iterator[Any]:
    """Batches `first` up to `last` (all) of a pass over a loader; pass 0, an evaluation, is the same each time."""
    if not isinstance(loader, BaseDataLoader):
        start = partial(replayed, loader, (seed, "pass", epoch), (seed, "fetch", epoch), first, last)
        return handed_out(start, seed, type(loader).__name__, epoch, first)
    if type(loader).__iter__ is BaseDataLoader.__iter__:
        return loader.batches(epoch, first, last)
    loader.epoch = epoch  # what the user's own iteration adds to a pass is not to be left out
    return handed_out(lambda: islice(iter(loader), first, last), seed, loader.name, epoch, first)
