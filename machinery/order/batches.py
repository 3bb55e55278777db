"""Which samples make up which batch, how it is made and handed out: by its place alone."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, Subset, SubsetRandomSampler

from machinery import distributed
from machinery.errors import DataError, UserError
from machinery.order import seeding
from machinery.order.choosing import drawn
from machinery.order.generators import own_generators, seed_own
from machinery.order.unreadable import EMPTY as EMPTY, UNREADABLE, LeftOut, Partial, why_not
from machinery.telling import lost_worker, told

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
            index = self._mine(epoch, k, start, order[start : start + self.batch_size])
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
            return BatchIndex(epoch, k, start, self._size, indices[:1])
        return None

    def of_pass(self, epoch: int) -> torch.Tensor:
        """The order of a pass: int64 [n]."""
        place = (self.seed, self.name, "order", epoch)
        if self.weights is not None:
            if len(self.weights) != self.in_pass():
                raise DataError("data that is drawn by weight cannot change its length")
            return torch.from_numpy(self.chosen()[drawn(self.weights, *place)])
        if type(self.sampler) is Split:  # no list of Python integers
            indices = torch.as_tensor(self.sampler.indices)
            if self.shuffle:
                indices = indices[seeding.permutation(len(indices), *place)]
            return indices
        if self.sampler is not None:
            return torch.as_tensor(self._listed(self.sampler, epoch), dtype=torch.int64)
        if self.shuffle:
            return seeding.permutation(len(self.dataset), *place)
        return torch.arange(len(self.dataset))

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


class SeededFetcher(Dataset[Any]):
    """Makes the finished batch of a `BatchIndex`, in whichever process it runs.

    A dataset with `__getitems__` (whole-batch data) is handed an index tensor [n]; a list that it
    returns is collated, anything else is the batch. It is looked for beneath `Subset`s, whose own
    `__getitems__` is only a short cut. If it says `draws_rows_only`, all it draws comes from
    `uniform_rows`, and the global generators need no seed for it.

    Args:
        dataset: map-style data.
        collate_fn: makes a batch of a list of samples.
        seed, name: of the loader.
        skips: leave out samples that cannot be read, or are None.
    """

    def __init__(
        self,
        dataset: Any,
        collate_fn: Callable[[list[Any]], Any],
        seed: int,
        name: str,
        skips: bool = False,
    ) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn
        self.skips = skips
        self.seed = seed
        self.name = name
        self.look()

    def look(self) -> None:
        """See what the dataset is and holds, now that a pass begins: it may have changed."""
        self._subsets: list[Indices] = []
        inner = self.dataset
        while type(inner) is Subset:
            self._subsets.append(np.asarray(inner.indices, dtype=np.int64))
            inner = inner.dataset
        self._whole: Any = inner if _takes_batches(inner) else None
        self._own = own_generators(inner)
        self._draws_freely = not getattr(inner, "draws_rows_only", False)

    @property
    def keeps_all(self) -> bool:
        """Whether a batch holds each of its samples: it is made of single ones, or row by row."""
        if self._whole is None:
            return True
        return not self._draws_freely

    def __getitem__(self, index: BatchIndex) -> Any:
        threads = torch.get_num_threads()
        # One thread, as in a worker: two threads sum in another order, and give other bits.
        if threads > 1:
            torch.set_num_threads(1)
        try:
            if self._whole is None:
                return self._of_samples(index)
            return self._whole_batch(index)
        except Exception as error:  # whatever the user's dataset raises is told in one piece
            return DataError(_reason(error))
        finally:
            if threads > 1:
                torch.set_num_threads(threads)

    def _whole_batch(self, index: BatchIndex) -> Any:
        """The batch that whole-batch data makes."""
        indices = index.indices
        for subset in self._subsets:
            indices = subset[indices]
        if self._draws_freely or self._own:
            self._seed_batch(index)
        with seeding.Rows(self.seed, self.name, index.epoch, index.position, index.stride):
            batch = self._whole.__getitems__(torch.as_tensor(indices))
        if not isinstance(batch, list):
            return batch
        left_out = []
        if self.skips:
            for i, sample in zip(indices.tolist(), batch, strict=True):
                if sample is None:
                    left_out.append(LeftOut(i, "None"))
            batch = [sample for sample in batch if sample is not None]
        return self._collated(batch, left_out, index)

    def _of_samples(self, index: BatchIndex) -> Any:
        """The batch made of samples, each of which draws what belongs to its place."""
        samples = []
        left_out: list[LeftOut] = []
        for offset, i in enumerate(index.indices.tolist()):
            place = index.position + offset * index.stride
            self._seed("sample", index.epoch, place)
            try:
                sample = self.dataset[i]
            except Exception as error:
                if self.skips and isinstance(error, UNREADABLE):
                    left_out.append(LeftOut(i, why_not(error)))
                    continue
                error.add_note(f"in sample {i}")
                raise
            if sample is None and self.skips:
                left_out.append(LeftOut(i, "None"))
            else:
                samples.append(sample)
        self._seed_batch(index)
        return self._collated(samples, left_out, index)

    def _collated(self, samples: list[Any], left_out: list[LeftOut], index: BatchIndex) -> Any:
        """A batch of samples, with a note of those that were left out."""
        if not left_out:
            return self.collate_fn(samples)
        if not samples and index.epoch > 0 and distributed.size() > 1:
            samples = [self._stand_in(left_out[0].number)]  # the other processes wait for its step
        batch: Any = EMPTY
        if samples:
            batch = self.collate_fn(samples)
        of_dataset = [each._replace(number=self._in_dataset(each.number)) for each in left_out]
        return Partial(index.batch, batch, of_dataset)

    def _in_dataset(self, sample: int) -> int:
        """The number that a sample has beneath the subsets."""
        if self._whole is None:
            for subset in self._subsets:
                sample = int(subset[sample])
        return sample

    def _stand_in(self, index: int) -> Any:
        """The next sample that can be read, for a batch that counts nothing."""
        n = len(self.dataset)
        for i in range(index + 1, index + n):
            try:
                sample = self.dataset[i % n]
            except UNREADABLE:
                continue
            if sample is not None:
                return sample
        raise DataError("no sample can be read")

    def _seed_batch(self, index: BatchIndex) -> None:
        """Seed what is drawn for the batch as a whole, such as MixUp in `collate_fn`."""
        self._seed("batch", index.epoch, index.batch, distributed.rank())

    def _seed(self, *place: int | str) -> None:
        """Seed the global generators, and those of the dataset."""
        seeding.seed_everything(self.seed, self.name, *place)
        if self._own:
            seed_own(self._own, self.seed, self.name, *place)


def _takes_batches(dataset: Any) -> bool:
    """Whether a dataset makes whole batches by a `__getitems__` of its own.

    torch's own classes have one, too, which takes a list and is only a short cut.
    """
    method = getattr(type(dataset), "__getitems__", None)
    return method is not None and not str(method.__module__).startswith("torch.")


class Clock:
    """Counts the batches that loaders hand out in this process: what comes before what."""

    def __init__(self) -> None:
        self.handed_out = 0

    def tick(self) -> None:
        """One more."""
        self.handed_out += 1


#: That of this process.
CLOCK = Clock()


def handed_out(
    start: Callable[[], Iterator[Any]], seed: int, name: str, epoch: int, first: int
) -> Iterator[Any]:
    """Pass on the batches that `start` begins with batch `first`; seed what the step on each draws.

    Pass 0 is an evaluation, where the draws don't depend on the epoch. The seeding comes after any
    prefetching, and here, so that a loop of the user's own over a loader is exact, too.

    Raises:
        DataError: a batch could not be made.
    """
    place: tuple[Any, ...] = ("step", epoch) if epoch else ("eval",)
    rank = distributed.rank()
    batches = None
    try:
        for k in itertools.count(first):
            try:
                if batches is None:
                    batches = start()
                batch = next(batches)
            except StopIteration:
                return
            except UserError:
                raise
            except Exception as error:  # of a sampler, of iterable data, of a loader not ours
                raise _not_made(name, k, epoch, _reason(error)) from error
            if isinstance(batch, DataError):
                raise _not_made(name, k, epoch, str(batch))
            seeding.seed_everything(seed, *place, k, rank)
            CLOCK.tick()
            yield batch
    finally:
        # The workers end now. If the iterator went with a traceback that holds this frame, torch
        # would wait for each of them for 5 s.
        del batches


def _not_made(name: str, k: int, epoch: int, reason: str) -> DataError:
    return DataError(f"the loader {name!r} could not make batch {k} of pass {epoch}: {reason}")


def _reason(error: Exception) -> str:
    """What an error of a loader says; what torch raises when a worker is lost, in plain words."""
    first_line = str(error).partition("\n")[0]
    if not first_line.startswith("DataLoader"):
        return told(error)
    return lost_worker(first_line)
