"""Which samples make up which batch, and what is random about them: a function of seed, epoch and place alone."""

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, Subset, SubsetRandomSampler

from machinery import distributed
from machinery.errors import DataError, UserError, told
from machinery.order import seeding

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


class Split(SubsetRandomSampler):
    """One side of the validation split; unlike a user's sampler, it is shuffled only if the loader shuffles."""


@dataclass(eq=False)
class PassOrder(Sampler[BatchIndex]):
    """The batches of one pass at a time, in an order that depends on the seed, the loader's name and the epoch.

    Of several processes, number r of W takes every W-th sample of each batch, from the r-th on. Where that leaves none,
    in training it gets a stand-in, the batch's first sample, and in an evaluation it gets no batch.

    Before each pass, `epoch`, `first` and `last` are set to which pass, and which of its batches, are wanted.

    Args:
        n_samples: how many samples the dataset has.
        batch_size: samples in a batch.
        shuffle: draw a new order for each pass.
        seed, name: of the loader.
        sampler: says which samples a pass has, and in which order, if given.
        batch_sampler: says the batches themselves, if given.
        drop_last: leave out a last batch that is smaller.
    """

    n_samples: int
    batch_size: int
    shuffle: bool
    seed: int
    name: str
    sampler: Any = None
    batch_sampler: Any = None
    drop_last: bool = False
    epoch, first, last = 1, 0, 0
    #: Of the pass under way, if a batch_sampler makes the batches: how large they are.
    sizes: Sequence[int] = ()

    def __len__(self) -> int:
        return self.n_batches(True)

    def n_batches(self, training: bool) -> int:
        """Batches in a pass; an evaluation drops none."""
        if self.batch_sampler is not None:
            return len(self.batch_sampler)
        n = self.n_samples if self.sampler is None else len(self.sampler)
        return n // self.batch_size if self.drop_last and training else -(-n // self.batch_size)

    def part(self, k: int) -> tuple[int, int]:
        """How many samples of batch k of the pass under way are for this process, and how many it has."""
        n = self.n_samples if self.sampler is None else len(self.sampler)
        size = self.sizes[k] if self.sizes else min(self.batch_size, n - k * self.batch_size)
        return len(range(distributed.RANK, size, distributed.SIZE)), size

    def __iter__(self) -> Iterator[BatchIndex]:
        # Not a generator itself, which would read the place only as it starts.
        return self._batches(self.epoch, range(self.first, self.last))

    def _batches(self, epoch: int, numbers: range) -> Iterator[BatchIndex]:
        if self.batch_sampler is not None:
            batches = [
                np.asarray(batch, dtype=np.int64)
                for batch in self._listed(self.batch_sampler, epoch)
            ]
            self.sizes = [len(batch) for batch in batches]
            positions = [0, *itertools.accumulate(self.sizes)]
            yield from self._shares(epoch, ((k, positions[k], batches[k]) for k in numbers))
            return
        order = self._order(epoch).numpy()
        starts = ((k, k * self.batch_size) for k in numbers)
        yield from self._shares(
            epoch, ((k, start, order[start : start + self.batch_size]) for k, start in starts)
        )

    def _shares(
        self, epoch: int, batches: Iterable[tuple[int, int, Indices]]
    ) -> Iterator[BatchIndex]:
        """What this process takes of each batch."""
        rank, size = distributed.RANK, distributed.SIZE
        for k, start, indices in batches:
            if rank < len(indices):
                yield BatchIndex(epoch, k, start + rank, size, indices[rank::size])
            elif epoch > 0:
                yield BatchIndex(epoch, k, start, size, indices[:1])

    def _order(self, epoch: int) -> torch.Tensor:
        """The order of a pass: int64 [n]."""
        place = (self.seed, self.name, "order", epoch)
        if type(self.sampler) is Split:  # no list of Python integers
            indices = torch.as_tensor(self.sampler.indices)
            return indices[seeding.permutation(len(indices), *place)] if self.shuffle else indices
        if self.sampler is not None:
            return torch.as_tensor(self._listed(self.sampler, epoch), dtype=torch.int64)
        return (
            seeding.permutation(self.n_samples, *place)
            if self.shuffle
            else torch.arange(self.n_samples)
        )

    def _listed(self, sampler: Iterable[Any], epoch: int) -> list[Any]:
        """A user's own sampler, listed once for the pass, with its draws seeded by the place."""
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
        seeding.seed_everything(self.seed, self.name, "order", epoch)
        return list(sampler)


class SeededFetcher(Dataset[Any]):
    """Makes the finished batch of a `BatchIndex`, in whichever process it runs, seeding what may be random in it.

    A dataset with `__getitems__` (whole-batch data) is handed an index tensor [n]; a list that it returns is collated,
    anything else is the batch. It is looked for beneath `Subset`s, whose own `__getitems__` is only a short cut. If it
    says `draws_rows_only`, all it draws comes from `uniform_rows`, and the global generators need no seed for it.
    """

    def __init__(
        self, dataset: Any, collate_fn: Callable[[list[Any]], Any], seed: int, name: str
    ) -> None:
        self.dataset, self.collate_fn, self.seed, self.name = dataset, collate_fn, seed, name
        inner = dataset
        self._subsets: list[np.ndarray[Any, Any]] = []
        while type(inner) is Subset:
            self._subsets.append(np.asarray(inner.indices, dtype=np.int64))
            inner = inner.dataset
        # torch's own classes have one, too, which takes a list and is only a short cut.
        own = not str(
            getattr(type(inner), "__getitems__", Subset.__getitems__).__module__
        ).startswith("torch.")
        self._whole: Any = inner if own else None
        self._draws_freely = not getattr(inner, "draws_rows_only", False)
        #: Whether a batch holds each of its samples: made of single ones, or row by row.
        self.keeps_all = self._whole is None or not self._draws_freely

    def __getitem__(self, index: BatchIndex) -> Any:
        threads = torch.get_num_threads()
        # One thread, as in a worker: two threads sum in another order, and give other bits.
        if threads > 1:
            torch.set_num_threads(1)
        try:
            return self._samples(index) if self._whole is None else self._whole_batch(index)
        except Exception as error:  # whatever the user's dataset raises is told in one piece
            return DataError(told(error))
        finally:
            if threads > 1:
                torch.set_num_threads(threads)

    def _whole_batch(self, index: BatchIndex) -> Any:
        indices = index.indices
        for subset in self._subsets:
            indices = subset[indices]
        if self._draws_freely:
            seeding.seed_everything(
                self.seed, self.name, "batch", index.epoch, index.batch, distributed.RANK
            )
        with seeding.Rows(self.seed, self.name, index.epoch, index.position, index.stride):
            batch = self._whole.__getitems__(torch.as_tensor(indices))
        return self.collate_fn(batch) if isinstance(batch, list) else batch

    def _samples(self, index: BatchIndex) -> Any:
        samples = []
        for offset, i in enumerate(index.indices.tolist()):
            place = index.position + offset * index.stride
            seeding.seed_everything(self.seed, self.name, "sample", index.epoch, place)
            try:
                samples.append(self.dataset[i])
            except Exception as error:
                error.add_note(f"in sample {i}")
                raise
        seeding.seed_everything(
            self.seed, self.name, "batch", index.epoch, index.batch, distributed.RANK
        )
        return self.collate_fn(samples)


def fingerprint(dataset: Any) -> str | None:
    """Tells whether data is the same, without reading it: a hash of its length, and of 16 places of what it holds."""
    with contextlib.suppress(
        Exception
    ):  # of whatever a dataset has as attributes; a stream has no length
        found: list[Any] = [type(dataset).__name__, len(dataset)]
        for each in [
            part
            for value in vars(dataset).values()
            for part in (value if type(value) is tuple else (value,))
        ]:
            if isinstance(each, Dataset):
                found.append(fingerprint(each))
            elif (
                isinstance(each, torch.Tensor | np.ndarray | list)
                and getattr(each, "ndim", True)
                and len(each)
            ):
                found += [
                    len(each),
                    *(_fixed(each[i]) for i in np.linspace(0, len(each) - 1, 16).astype(int)),
                ]
        return hashlib.sha256(repr(found).encode()).hexdigest()[:16]
    return None


def _fixed(item: Any) -> str:
    """What stands for an item: of arrays the bytes; of texts the end, as folders may move; of objects the class."""
    if isinstance(item, torch.Tensor | np.ndarray | np.generic):
        return hashlib.sha256(torch.as_tensor(item).cpu().double().numpy().tobytes()).hexdigest()
    return (
        "/".join(str(item).split("/")[-2:])
        if type(item) in (str, int, float, tuple)
        else type(item).__name__
    )


def replayed(
    loader: Iterable[Any],
    place: tuple[Any, ...],
    fetch: tuple[Any, ...],
    first: int,
    last: int | None,
) -> Iterator[Any]:
    """Batches `first` up to `last` of a pass that can only be read from its beginning.

    Args:
        place: of the pass, which generators and torch's workers are seeded from.
        fetch: of a batch, without its number: what data draws in this process is seeded from it.
    """
    seeding.seed_everything(*place)
    if getattr(
        loader, "persistent_workers", False
    ):  # their generators would go on from pass to pass
        loader._iterator = None  # type: ignore[attr-defined]
    for name in ("sampler", "batch_sampler"):
        if hasattr(getattr(loader, name, None), "set_epoch"):
            getattr(loader, name).set_epoch(place[-1])
    if getattr(loader, "generator", None) is not None:  # a DataLoader's own
        loader.generator.manual_seed(seeding.mix(*place))  # type: ignore[attr-defined]
    batches = iter(loader)
    try:
        for k in itertools.count() if last is None else range(last):
            seeding.seed_everything(*fetch, k)
            try:
                batch = next(batches)
            except StopIteration:
                return
            if k >= first:
                yield batch
    finally:
        del batches  # see `handed_out`


def handed_out(
    start: Callable[[], Iterator[Any]], seed: int, name: str, epoch: int, first: int
) -> Iterator[Any]:
    """Pass the batches of a pass that `start` begins on from batch `first`, and seed what the step on each draws.

    Pass 0 is an evaluation, where the draws don't depend on the epoch. The seeding comes after any prefetching, and
    here, so that a loop of the user's own over a loader is exact, too.

    Raises:
        DataError: a batch could not be made.
    """
    place, where = (
        ("step", epoch) if epoch else ("eval",),
        f"the loader {name!r} could not make batch",
    )
    batches = None
    try:
        for k in itertools.count(first):
            try:
                batches = start() if batches is None else batches
                batch = next(batches)
            except StopIteration:
                return
            except UserError:
                raise
            except (
                Exception
            ) as error:  # of a sampler, of iterable data or of a loader that is not ours
                raise DataError(
                    f"{where} {k} of pass {epoch}: {_lost_worker(error) or told(error)}"
                ) from error
            if isinstance(batch, DataError):
                raise DataError(f"{where} {k} of pass {epoch}: {batch}")
            seeding.seed_everything(seed, *place, k, distributed.RANK)
            yield batch
    finally:
        # The workers end now. If the iterator went with a traceback that holds this frame, torch would wait for each
        # of them for 5 s.
        del batches


def _lost_worker(error: Exception) -> str:
    """What torch raises when a worker process died or took too long, in plain words; nothing for any other error."""
    text = str(error).partition("\n")[0]
    hint = "out of memory? try a smaller num_workers or batch_size; num_workers 0 shows an error where it happens"
    return f"a worker is lost: {text}\n  {hint}" if text.startswith("DataLoader") else ""
