"""The batches of an epoch, and how many it has: a pass over the data as it is then, or a number.

Epoch e is pass e in the first case, whatever the lengths of the passes before it.
"""

import itertools
import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch.utils.data import DistributedSampler, IterableDataset

from machinery import distributed
from machinery.errors import DataError
from machinery.order import passes
from machinery.order.bare import BareIteration
from machinery.order.unreadable import EMPTY, tell_unreadable as tell_unreadable
from machinery.order.waiting import Waiting
from machinery.telling import note_place


class EpochLength:
    """Batches in an epoch.

    Args:
        batches: as many, if the user says so; else a pass over the data.
        loader: of the training data; None where nothing trains.
    """

    def __init__(self, batches: int | None, loader: Any) -> None:
        self._given = batches is not None
        #: Of an epoch of the data as it is at the start; 0: nobody knows.
        self.first = batches or 0
        if batches is None and loader is not None:
            self.first = len(loader)
        self._last = self.first
        # The loader, and how long a pass over it was when its first epoch began.
        self._loader: Any = None
        self._pass = 0
        # The data of the epoch in hand, and its batches.
        self._data: Any = None
        self._batches = 0

    def at(self, epoch: int, known: int, loader: Any, interrupted: int | None) -> int:
        """Batches in an epoch that begins, or is gone on with.

        Args:
            known: as the trainer has it, who may have set it himself.
            interrupted: how many they were when it was interrupted; None if it begins.

        Raises:
            DataError: the length of the data has changed where that makes no sense.
        """
        self._data = loader
        self._batches = self._found(epoch, known, loader, interrupted)
        return self._batches

    def _found(self, epoch: int, known: int, loader: Any, interrupted: int | None) -> int:
        if self._given or known != self._last:
            self._check_pass(loader)
            return known
        if hasattr(loader, "tell_samplers"):
            loader.tell_samplers(epoch)
        else:
            passes.tell_samplers(loader, epoch)
        self._last = _length_of(loader)
        if interrupted not in (None, self._last):
            what = f"epoch {epoch} had {interrupted} batches when it was interrupted"
            hint = "what changes the data has to depend on the epoch alone"
            raise DataError(f"{what}, and has {self._last} now: {hint}")
        return self._last

    def batch(self, epoch: int, number: int) -> Any:
        """A batch of an epoch of the data, made again; None where it would have to be read up to.

        Args:
            number: from 0.
        """
        loader: Any = self._data
        if not hasattr(loader, "batches") or loader.n_samples == 0:  # or iterable data
            return None
        passes, k = divmod((epoch - 1) * self._batches + number, len(loader))
        return next(loader.batches(passes + 1, k, k + 1))

    def _check_pass(self, loader: Any) -> None:
        """Refuse passes of different lengths, which epochs of one length would cut anywhere."""
        if loader is not self._loader:
            self._loader = loader
            self._pass = _length_of(loader)
        if _length_of(loader) != self._pass:
            what = f"the data's length has changed: {self._pass} -> {len(loader)} batches in a pass"
            raise DataError(f"{what}, where trainer.len_epoch is set: leave len_epoch out")


def _length_of(loader: Any) -> int:
    """Batches in a pass, which the user's data says."""
    try:
        return len(loader)
    except Exception as error:
        note_place(error, "in the length of the data")
        raise


def training_batches(loader: Any, start: int, stop: int, seed: int) -> Iterator[Any]:
    """The batches of an epoch, or the rest of one; that much of it was waiting is told.

    Args:
        start, stop: the first batch and the one after the last, counted from the run's beginning.
    """
    return Waiting(loader).through(_batches(loader, start, stop, seed))


def _batches(loader: Any, start: int, stop: int, seed: int) -> Iterator[Any]:
    """Batches `start` up to `stop`, counted from the run's beginning, pass after pass.

    A loader of ours begins at the place itself; a foreign one is read and dropped up to it, so that
    a resumed run sees what the unbroken one saw. A batch of which no sample can be read is `EMPTY`,
    and so is one that a pass is short of, if the epoch goes on with the next pass.
    """
    length = len(loader)
    if length == 0:
        why = "fewer samples than a batch, with drop_last?"
        raise DataError(f"the training loader has no batches: {why}")
    in_shares = not distributed.alone() and _is_stream(loader)
    alike = distributed.alone() or in_shares
    at = start
    while at < stop:
        epoch, first = divmod(at, length)
        last = min(length, first + stop - at)
        came = first
        batches = _one_pass(loader, seed, epoch + 1, first, last)
        if in_shares:
            batches = _in_step(batches, epoch + 1, first)
        for batch in batches:
            came += 1
            yield batch
        if came < last:
            _tell_of_short(loader, epoch + 1, came, length)
        at += last - first
        if at < stop and alike:  # where the epoch stands is told by its batches
            yield from [EMPTY] * (last - came)


def _tell_of_short(loader: Any, epoch: int, came: int, length: int) -> None:
    """Warn of a pass that gives fewer batches than its loader promises.

    Raises:
        DataError: it gives none.
    """
    promised = f"{length} batches that the loader's len promises"
    told = f"pass {epoch} gave {came} of the {promised}"
    if came > 0:
        logging.getLogger("data_loader").warning(told)
        return
    if isinstance(loader, BareIteration) and loader.places is not None:
        told += ": does its load_state_dict set all that an iteration begins with?"
    raise DataError(told)


def _in_step(batches: Iterator[Any], epoch: int, first: int) -> Iterator[Any]:
    """Batches `first` up to the last of a pass over a stream, of which each process has a share.

    Raises:
        DataError: that of one process ends before the others': they would wait for it in vain.
    """
    for k in itertools.count(first):
        batch = next(batches, EMPTY)
        ended = batch is EMPTY
        (how_many,) = distributed.totals([float(ended)])()
        if 0 < how_many < distributed.size():
            who = distributed.gathered(ended).index(True)
            what = f"pass {epoch} has {k} batches in process {who}, and more in others"
            hint = f"share out as many to each, or let the loader's len say at most {k}"
            raise DataError(f"{what}: {hint}")
        if ended:
            return
        yield batch


def one_pass(
    loader: Any, seed: int, epoch: int = 0, first: int = 0, last: int | None = None
) -> Iterator[Any]:
    """Batches `first` up to `last` (all) of a pass; pass 0, an evaluation, never varies."""
    batches = _one_pass(loader, seed, epoch, first, last)
    if getattr(loader, "unreadable", None) is None:
        return batches
    return (batch for batch in batches if batch is not EMPTY)


def _one_pass(loader: Any, seed: int, epoch: int, first: int, last: int | None) -> Iterator[Any]:
    """As `one_pass`, with what stands for empty batches."""
    if isinstance(loader, BareIteration):
        if type(loader).__iter__ is BareIteration.__iter__:
            return loader.batches(epoch, first, last)
        loader.epoch = epoch  # what the user's own iteration adds to a pass is not to be left out
    start = partial(
        passes.replayed, loader, (seed, "pass", epoch), (seed, "fetch", epoch), first, last
    )
    name = getattr(loader, "name", type(loader).__name__)
    batches = passes.handed_out(start, seed, name, epoch, first)
    if epoch == 0 and not _cuts_itself(loader):
        return itertools.islice(batches, distributed.rank(), None, distributed.size())
    return batches


def _cuts_itself(loader: Any) -> bool:
    """Whether each of several processes gets only its share, not everything."""
    if isinstance(loader, BareIteration):
        return True
    if _is_stream(loader):  # whose business it is
        return True
    return isinstance(getattr(loader, "sampler", None), DistributedSampler)


def _is_stream(loader: Any) -> bool:
    """Whether a loader reads iterable data, which is shared out by the dataset itself."""
    return isinstance(getattr(loader, "dataset", None), IterableDataset)
