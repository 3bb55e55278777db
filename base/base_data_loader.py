"""The base of every data loader: a DataLoader whose order and randomness depend on the place alone."""

import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    Subset,
    default_collate as torch_default_collate,
)

from machinery import distributed
from machinery.errors import ConfigError, DataError
from machinery.order import seeding
from machinery.order.batches import PassOrder, SeededFetcher, Split, handed_out, replayed
from machinery.stopping import shielded, start_worker

_logger = logging.getLogger("data_loader")
_OF_WORKERS = ("prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout")


class BaseDataLoader(DataLoader[Any]):
    """A DataLoader with a validation split, and the same batches on every machine and after every interruption.

    Args:
        dataset: map-style data; with `__getitems__` it gets an index tensor [n] and returns a finished batch. If it
            has an `evaluation_view()`, validation reads that instead (the same samples without augmentation).
            Iterable data keeps its own order, and is read and dropped up to the place where a run resumes.
        batch_size: samples in a batch, of which each of several processes takes its part.
        shuffle: draw a new order for each pass.
        validation_split: share (0 ≤ x < 1) or number of samples held out for `split_validation()`.
        num_workers: processes that prepare batches; 0 prepares them in this one. The batches are the same.
        collate_fn: makes a batch of a list of samples.
        name: makes the random draws of this loader differ from those of another.
        options: of torch's DataLoader. `sampler` chooses the samples of a pass in place of `shuffle`, `batch_sampler`
            the batches themselves, `drop_last` leaves out a last batch that is smaller; `pin_memory`, `timeout`, …

    Raises:
        DataError: there are no samples.
        ConfigError: the split or the options make no sense.
    """

    #: What the mean over the last batch of a bare iteration counts for, beside those of the other processes.
    weight = 1.0

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool,
        validation_split: float,
        num_workers: int,
        collate_fn: Callable[[list[Any]], Any] = torch_default_collate,
        *,
        name: str = "train",
        **options: Any,
    ) -> None:
        sampler, batch_sampler = options.pop("sampler", None), options.pop("batch_sampler", None)
        _check(
            batch_size,
            sampler,
            batch_sampler,
            num_workers,
            validation_split,
            shuffle or options.get("drop_last"),
        )
        self.validation_split, self.shuffle, self.name = validation_split, shuffle, name
        #: `epoch` is the pass that the next bare iteration takes.
        self.seed, self.epoch = seeding.ROOT_SEED, 1
        iterable = isinstance(dataset, IterableDataset)
        self.n_samples = 0 if iterable else len(dataset)
        if not iterable and self.n_samples == 0:
            raise DataError(
                f"the dataset of the loader {name!r} is empty: {type(dataset).__name__} has no samples"
            )
        self.valid_sampler: Any = None
        if sampler is None and batch_sampler is None:
            sampler, self.valid_sampler = self._split_sampler(validation_split)
        drop_last = options.pop("drop_last", False)
        shown: dict[str, Any] = {
            "batch_size": batch_size,
            "collate_fn": collate_fn,
            "drop_last": drop_last,
        }
        shown["shuffle"] = shuffle and sampler is None and not iterable
        self.init_kwargs = {"dataset": dataset, "num_workers": num_workers, **shown, **options}
        # Only what a user reads of a DataLoader; the inner one does the work, with the workers.
        super().__init__(dataset, sampler=sampler, **shown)
        self.num_workers = num_workers
        # Without an accelerator there is nothing to pin for, and torch would warn.
        self.pin_memory = (
            bool(options.get("pin_memory", False)) and torch.accelerator.is_available()
        )
        order = (batch_size, shuffle, self.seed, name, sampler, batch_sampler, drop_last)
        self._order = None if iterable else PassOrder(self.n_samples, *order)
        if self._order is not None:
            if sampler is not None:
                self.n_samples = len(sampler)
            self._fetcher = SeededFetcher(dataset, collate_fn, self.seed, name)
            # Whether a batch holds as many samples as the order says: nobody of the user's own has a hand in it.
            self._sized = (
                type(self).__iter__ is BaseDataLoader.__iter__
                and collate_fn is torch_default_collate
            )
            self._sized &= (
                batch_sampler is None
                and type(sampler) in (type(None), Split)
                and self._fetcher.keeps_all
            )
        self._inner = self._make_inner(options)

    def _make_inner(self, options: dict[str, Any]) -> DataLoader[Any]:
        """The DataLoader that works, without a reference back to this one."""
        # What is about workers is no obstacle where there are none.
        options = {
            key: value
            for key, value in options.items()
            if self.num_workers or key not in _OF_WORKERS
        }
        options |= {"num_workers": self.num_workers, "pin_memory": self.pin_memory}
        if self.num_workers:
            options["worker_init_fn"] = partial(start_worker, options.get("worker_init_fn"))
        if self._order is None:
            options["persistent_workers"] = False  # their generators would go on from pass to pass
            own = {name: getattr(self, name) for name in ("batch_size", "collate_fn", "drop_last")}
            return _Inner(self.dataset, **own, **options)
        options.setdefault("generator", torch.Generator())
        # batch_size None: an index is a whole batch, with its place, which even a prefetching worker then knows.
        return _Inner(
            self._fetcher, batch_size=None, sampler=self._order, collate_fn=_unchanged, **options
        )

    def __len__(self) -> int:
        if self._order is not None:
            return len(self._order)
        if not hasattr(self.dataset, "__len__"):
            raise DataError(
                f"{type(self.dataset).__name__} has no length: give it a __len__, the samples of a pass"
            )
        # Each worker makes batches of its own share, which may leave one more unfinished.
        n, workers, size = len(self.dataset), max(self.num_workers, 1), cast(int, self.batch_size)
        shares = [n // workers + (i < n % workers) for i in range(workers)]
        return sum(share // size if self.drop_last else -(-share // size) for share in shares)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.epoch += 1
        batches = self.batches(self.epoch - 1)
        return self._counted(batches) if distributed.SIZE > 1 else batches

    def _counted(self, batches: Iterator[Any]) -> Iterator[Any]:
        for k, batch in enumerate(batches):
            part, whole = (1, distributed.SIZE) if self._order is None else self._order.part(k)
            BaseDataLoader.weight = part * distributed.SIZE / whole
            if (
                BaseDataLoader.weight or torch.is_grad_enabled()
            ):  # an evaluation of the user's own takes no stand-in
                yield batch

    def batches(self, epoch: int, first: int = 0, last: int | None = None) -> Iterator[Any]:
        """Batches `first` up to `last` (all) of pass `epoch`, each handed out with the generators seeded for its step.

        Args:
            epoch: from 1; 0 is an evaluation, whose draws are the same each time.

        Raises:
            DataError: a batch could not be made.
        """
        last = last if last is not None or self._order is None else self._order.n_batches(epoch > 0)
        return handed_out(
            partial(self._pass, epoch, first, last), self.seed, self.name, epoch, first
        )

    def _pass(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        if self._order is None or last is None:
            place = (self.seed, self.name, "pass", epoch)
            object.__setattr__(
                self._inner, "drop_last", self.drop_last and epoch > 0
            )  # an evaluation drops nothing
            return replayed(self._inner, place, place, first, last)
        self._order.epoch, self._order.first, self._order.last = epoch, first, last
        direct = self.num_workers == 0 and not self.pin_memory
        return (
            map(self._fetcher.__getitem__, self._order) if direct else iter(cast(Any, self._inner))
        )

    def parts(
        self, first: int, sizes: list[int], by_samples: bool
    ) -> tuple[list[int], list[int] | None]:
        """The sizes of this process' parts of batches, and of the whole batches, if no other process has to be asked.

        Args:
            first: the first of the batches, counted from the beginning of the run.
            sizes: the parts' sizes, where they are no stand-ins.
            by_samples: a size is the number of samples.

        Raises:
            DataError: a part is not as large as it should be.
        """
        if self._order is None:
            return sizes, None
        parts = [self._order.part((first + i) % len(self)) for i in range(len(sizes))]
        # Beyond the order, an iteration of the user's own gives batches that are no stand-ins.
        sizes = [n * bool(part or whole < 1) for n, (part, whole) in zip(sizes, parts, strict=True)]
        if not (by_samples and self._sized):
            return sizes, None
        if sizes != [part for part, _ in parts]:
            raise DataError(
                f"a part of {parts[0][0]} samples holds {sizes[0]}, as if __getitems__ left some out"
            )
        return sizes, [whole for _, whole in parts]

    def _split_sampler(self, split: float) -> tuple[Any, Any]:
        """The samplers of the training and the validation samples; None, None without a split.

        A project may override it. The split is the same for every seed, and the classic template's.
        """
        if split == 0:
            return None, None
        n = self.n_samples
        n_valid = split if isinstance(split, int) else int(n * split)
        if split < 0 or not 0 < n_valid < n:
            left = f"leaves {max(n - n_valid, 0)} for training" if n_valid else "leaves 0 samples"
            raise ConfigError(
                f"validation_split {split} of {n} {left}: give a share or number that leaves both some"
            )
        if not self.shuffle:
            _logger.info(
                f"the loader {self.name!r} reads its samples in one order, as the split has drawn them"
            )
        indices = np.arange(n)
        np.random.RandomState(0).shuffle(indices)
        order = cast(Sequence[int], indices)  # an array, not a list of a million Python integers
        return Split(order[n_valid:]), Split(order[:n_valid])

    def split_validation(self) -> "BaseDataLoader | None":
        """A loader of the held-out samples, in a fixed order and without augmentation; None without a split."""
        if self.valid_sampler is None:
            return None
        indices = getattr(self.valid_sampler, "indices", None)
        held_out = list(self.valid_sampler) if indices is None else indices
        dataset = Subset(evaluation_view(self.dataset), list(map(int, held_out)))
        kwargs = {**self.init_kwargs, "dataset": dataset, "shuffle": False, "drop_last": False}
        return BaseDataLoader(validation_split=0.0, name=f"{self.name}-valid", **kwargs)


def training_batches(loader: Any, start: int, stop: int, seed: int) -> Iterator[Any]:
    """Batches `start` up to `stop`, counted from the beginning of the run, pass after pass over the loader.

    A loader of ours begins at the place itself; a foreign one is read and dropped up to it, so that a resumed run sees
    what the unbroken one saw.
    """
    length = len(loader)
    if length == 0:
        raise DataError(
            "the training loader has no batches: fewer samples than a batch, with drop_last?"
        )
    for epoch in range(start // length + 1, -(-stop // length) + (start < stop)):
        before = (epoch - 1) * length
        first, last = max(start - before, 0), min(stop - before, length)
        came = first
        for came, batch in enumerate(one_pass(loader, seed, epoch, first, last), first + 1):  # noqa: B007
            yield batch
        if came < last:
            told = (
                f"pass {epoch} gave {came} of the {length} batches that the loader's len promises"
            )
            if came == 0:
                raise DataError(told)
            _logger.warning(told)


def one_pass(
    loader: Any, seed: int, epoch: int = 0, first: int = 0, last: int | None = None
) -> Iterator[Any]:
    """Batches `first` up to `last` (all) of a pass over a loader; pass 0, an evaluation, is the same each time."""
    if isinstance(loader, BaseDataLoader):
        if type(loader).__iter__ is BaseDataLoader.__iter__:
            return loader.batches(epoch, first, last)
        loader.epoch = epoch  # what the user's own iteration adds to a pass is not to be left out
    start = partial(replayed, loader, (seed, "pass", epoch), (seed, "fetch", epoch), first, last)
    batches = handed_out(start, seed, getattr(loader, "name", type(loader).__name__), epoch, first)
    if epoch == 0 and distributed.SIZE > 1 and not _cuts_itself(loader):
        return itertools.islice(batches, distributed.RANK, None, distributed.SIZE)
    return batches


def _cuts_itself(loader: Any) -> bool:
    """Whether each of several processes gets only its part from a loader; others give each process everything."""
    own = isinstance(getattr(loader, "dataset", None), IterableDataset)  # whose business it is
    return (
        own
        or isinstance(loader, BaseDataLoader)
        or isinstance(getattr(loader, "sampler", None), DistributedSampler)
    )


class _Inner(DataLoader[Any]):
    """Starts its workers so that they outlive a stop."""

    def __iter__(self) -> Any:
        with shielded():
            return super().__iter__()


def evaluation_view(dataset: Any) -> Any:
    """The dataset as evaluation reads it: its own `evaluation_view()`, through `Subset`s, or the dataset itself."""
    if type(dataset) is Subset:
        return Subset(evaluation_view(dataset.dataset), dataset.indices)
    return dataset.evaluation_view() if hasattr(dataset, "evaluation_view") else dataset


def _check(
    batch_size: Any, sampler: Any, batch_sampler: Any, workers: int, split: float, ordered: Any
) -> None:
    if isinstance(sampler, DistributedSampler):
        raise ConfigError(
            "leave the DistributedSampler out: the loader cuts each batch for the processes itself"
        )
    if workers > 1000:
        raise ConfigError(f"num_workers: {workers} processes are too many")
    if batch_sampler is None and (type(batch_size) is not int or batch_size < 1):
        raise ConfigError(f"batch_size: expected an integer of at least 1, found {batch_size!r}")
    if split and (sampler is not None or batch_sampler is not None):
        raise ConfigError(
            "validation_split has no effect beside a sampler of your own: set it to 0"
        )
    if batch_sampler is not None and ordered:
        raise ConfigError(
            "shuffle and drop_last have no effect beside a batch_sampler: set them to false"
        )


def _unchanged(batch: Any) -> Any:
    return batch
