"""Which samples make up which batch: by its place alone."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler, SubsetRandomSampler

from machinery import distributed
from machinery.errors import DataError
from machinery.order import seeding, shared_order
from machinery.order.choosing import drawn
from machinery.order.unreadable import EMPTY as EMPTY

Indices = np.ndarray[Any, np.dtype[np.int64]]


class BatchIndex(NamedTuple):
    """The place of a batch and the samples it holds: all that a worker needs to know."""

    epoch: int
    batch: int
    #: The place of the batch's first sample in the pass, and from each to the next.
    position: int
    stride: int
    #: int64 [n]. NumPy's, because a tensor on its way to a worker costs a file descriptor.
    indices: Indices
    #: Whether it is a stand-in, whose sample is another process'.
    stands_in: bool = False


class Share(NamedTuple):
    """How many samples of a batch are for this process, 0 for a stand-in, and how many it has."""

    mine: int
    whole: int
    #: Whether it surely holds as many, because nobody of the user's own has a hand in it.
    exact: bool = False

    @property
    def weight(self) -> float:
        """What the mean over this share counts for beside those of the other processes."""
        return self.mine * distributed.size() / self.whole


class Split(SubsetRandomSampler):
    """One side of the validation split, shuffled only if the loader shuffles."""


class PassOrder(Sampler[BatchIndex]):
    """The batches of one pass at a time.

    Of several processes, number r of W takes every W-th sample of each batch, from the r-th on.
    Where that leaves none, in training it gets a stand-in, the batch's first sample, and in an
    evaluation it gets no batch.

    Args:
        dataset: says how many samples it has, whenever a pass begins.
        batch_size: samples in a batch.
        shuffle: draw a new order for each pass.
        seed, name: of the loader.
        sampler: says which samples a pass has, and in which order, if given.
        batch_sampler: says the batches themselves, if given.
        drop_last: leave out a last batch that is smaller.
    """

    #: Of the samples to train on, if they are drawn by weight: float64 [n].
    weights: np.ndarray[Any, np.dtype[Any]] | None = None

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool,
        seed: int,
        name: str,
        sampler: Any = None,
        batch_sampler: Any = None,
        drop_last: bool = False,
    ) -> None:
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.name = name
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.drop_last = drop_last
        self.dataset = dataset
        self._n_at_split = len(dataset)
        self._rank = distributed.rank()
        self._size = distributed.size()
        # Which pass is under way, and which of its batches are wanted: see `take`.
        self._epoch = 1
        self._wanted = range(0)
        # Of that pass and the one before: how many samples each has, or how large its batches are,
        # if a batch_sampler makes them.
        self._samples: dict[int, int] = {}
        self._sizes: dict[int, list[int]] = {}
        # A long random order, and what it is of.
        self._held: tuple[tuple[int | str, ...], torch.Tensor] | None = None

    def __len__(self) -> int:
        return self.n_batches(training=True)

    def n_batches(self, training: bool) -> int:
        """Batches in a pass; an evaluation drops none."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        if self.drop_last and training:
            return self.in_pass() // self.batch_size
        return -(-self.in_pass() // self.batch_size)

    def in_pass(self) -> int:
        """Samples in a pass that begins: those of the dataset, or as many as the sampler draws.

        Raises:
            DataError: the dataset has another length than when a part was split off.
        """
        if self.sampler is None:
            return len(self.dataset)
        if type(self.sampler) is Split and len(self.dataset) != self._n_at_split:
            changed = f"{self._n_at_split} -> {len(self.dataset)} samples"
            hint = "set validation_split to 0, and give a valid_data_loader"
            raise DataError(f"data that is split cannot change its length, {changed}: {hint}")
        return len(self.sampler)

    def share(self, k: int, epoch: int) -> Share:
        """What this process has of batch k of a pass; nothing of one beyond its end."""
        if epoch in self._sizes:
            size = self._sizes[epoch][k]
        else:
            samples = self._samples.get(epoch)
            if samples is None:
                samples = self.in_pass()
            size = min(self.batch_size, samples - k * self.batch_size)
        return Share(len(range(self._rank, size, self._size)), size)

    def take(self, epoch: int, first: int, last: int) -> None:
        """Say which batches of which pass the next iteration gives."""
        self._epoch = epoch
        self._wanted = range(first, last)

    def __iter__(self) -> Iterator[BatchIndex]:
        # Not a generator itself, which would read the place only as it starts.
        if self.batch_sampler is not None:
            return self._sampled_batches(self._epoch, self._wanted)
        return self._cut_batches(self._epoch, self._wanted)

    def _cut_batches(self, epoch: int, wanted: range) -> Iterator[BatchIndex]:
        """Batches of one size, cut from the order of the pass."""
        order = self.of_pass(epoch).numpy()
        self._samples = {e: known for e, known in self._samples.items() if e == epoch - 1}
        self._samples[epoch] = len(order)
        for k in wanted:
            start = k * self.batch_size
            indices = order[start : start + self.batch_size].astype(np.int64, copy=False)
            index = self._mine(epoch, k, start, indices)
            if index is not None:
                yield index

    def _sampled_batches(self, epoch: int, wanted: range) -> Iterator[BatchIndex]:
        """Batches as the user's batch_sampler makes them."""
        listed = self._listed(self.batch_sampler, epoch)
        sizes = [len(batch) for batch in listed]
        self._sizes = {e: known for e, known in self._sizes.items() if e == epoch - 1}
        self._sizes[epoch] = sizes
        starts = list(itertools.accumulate(sizes, initial=0))
        for k in wanted:
            indices = np.asarray(listed[k], dtype=np.int64)
            index = self._mine(epoch, k, starts[k], indices)
            if index is not None:
                yield index

    def _mine(self, epoch: int, k: int, start: int, indices: Indices) -> BatchIndex | None:
        """What this process takes of a batch: its share, a stand-in, or nothing."""
        if self._rank < len(indices):
            mine = indices[self._rank :: self._size]
            return BatchIndex(epoch, k, start + self._rank, self._size, mine)
        if epoch > 0:
            return BatchIndex(epoch, k, start, self._size, indices[:1], stands_in=True)
        return None

    def place(self, epoch: int) -> tuple[int | str, ...]:
        """Where the order of a pass is drawn."""
        return (self.seed, self.name, "order", epoch)

    def of_pass(self, epoch: int) -> torch.Tensor:
        """The order of a pass: [n], int32 or int64."""
        place = self.place(epoch)
        if self.weights is not None:
            if len(self.weights) != self.in_pass():
                raise DataError("data that is drawn by weight cannot change its length")
            return torch.from_numpy(self.chosen()[drawn(self.weights, *place)])
        if type(self.sampler) is Split:  # no list of Python integers
            indices = torch.as_tensor(self.sampler.indices)
            if self.shuffle:
                indices = indices[self._shuffled(len(indices), epoch)]
            return indices
        if self.sampler is not None:
            return torch.as_tensor(self._listed(self.sampler, epoch), dtype=torch.int64)
        if self.shuffle:
            return self._shuffled(len(self.dataset), epoch)
        return torch.arange(len(self.dataset))

    def _shuffled(self, n: int, epoch: int) -> torch.Tensor:
        """The random order of n samples that belongs to a pass.

        A long one is held until another is wanted: an epoch may go on with the same pass.
        """
        wanted = (n, *self.place(epoch))
        if self._held is not None and self._held[0] == wanted:
            return self._held[1]
        self._held = None  # before there are two
        order = shared_order.permutation(n, *self.place(epoch))
        if order.nbytes >= shared_order.LEAST:
            self._held = (wanted, order)
        return order

    def chosen(self) -> Indices:
        """The samples that a pass is made of, without a sampler of the user's own: int64 [n]."""
        if type(self.sampler) is Split:
            return np.asarray(self.sampler.indices, dtype=np.int64)
        return np.arange(len(self.dataset), dtype=np.int64)

    def _listed(self, sampler: Iterable[Any], epoch: int) -> list[Any]:
        """A user's own sampler, listed once for the pass, with its draws seeded by the place."""
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        seeding.seed_everything(self.seed, self.name, "order", epoch)
        return list(sampler)
