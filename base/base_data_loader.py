"""The base of every data loader: a DataLoader whose order and randomness depend on the place alone."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Subset, SubsetRandomSampler
from torch.utils.data import default_collate as torch_default_collate

from base.data_order import Failure, PassOrder, SeededFetcher, lost_worker
from base.prefetch import prefetch
from utils import seeding
from utils.errors import ConfigError, DataError
from utils.stopping import start_worker

Collate = Callable[[list[Any]], Any]


class BaseDataLoader(DataLoader[Any]):
    """A DataLoader with a validation split, and the same batches on every machine and after every interruption.

    Args:
        dataset: map-style data; with `__getitems__` it gets an index tensor [n] and returns a finished batch. If it
            has an `evaluation_view()`, validation reads that instead (the same samples without augmentation).
            Iterable data keeps its own order, and is read and dropped up to the place where a run resumes.
        batch_size: samples in a batch.
        shuffle: draw a new order for each pass.
        validation_split: share (0 ≤ x < 1) or number of samples held out for `split_validation()`.
        num_workers: processes that prepare batches; 0 prepares them in this one. The batches are the same.
        collate_fn: makes a batch of a list of samples.
        name: makes the random draws of this loader differ from those of another.
        sampler: chooses the samples of a pass, in place of `shuffle`.
        batch_sampler: chooses the batches, in place of `batch_size`, `shuffle`, `sampler` and `drop_last`.
        drop_last: leave out a last batch that is smaller.
        device_resident: keep the data on the device that `to` names, and make the batches there; for whole-batch data
            with a `to(device)` that moves it in place.
        options: passed on to torch's DataLoader: `pin_memory`, `persistent_workers`, `prefetch_factor`, `timeout`, …

    Raises:
        DataError: there are no samples.
        ConfigError: the split or the options make no sense.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        shuffle: bool,
        validation_split: float,
        num_workers: int,
        collate_fn: Collate = torch_default_collate,
        *,
        name: str = "train",
        sampler: Iterable[int] | None = None,
        batch_sampler: Iterable[list[int]] | None = None,
        drop_last: bool = False,
        device_resident: bool = False,
        **options: Any,
    ) -> None:
        if isinstance(sampler, DistributedSampler):
            raise ConfigError("leave the DistributedSampler out: the loader cuts each batch for the processes itself")
        if options.get("prefetch_factor") is not None and options["prefetch_factor"] < 1:
            raise ConfigError(f"prefetch_factor: expected at least 1, found {options['prefetch_factor']}")
        if batch_sampler is None and (type(batch_size) is not int or batch_size < 1):
            raise ConfigError(f"batch_size: expected an integer of at least 1, found {batch_size!r}")
        self.validation_split, self.shuffle, self.name = validation_split, shuffle, name
        self.seed = seeding.root_seed()
        self._iterable = isinstance(dataset, IterableDataset)
        self.n_samples = 0 if self._iterable else len(dataset)
        if not self._iterable and self.n_samples == 0:
            raise DataError(f"the dataset of the loader {name!r} is empty: {type(dataset).__name__} has no samples")
        self.valid_sampler: Any = None
        if sampler is None and batch_sampler is None:
            sampler, self.valid_sampler = self._split_sampler(validation_split)
        self.init_kwargs = {
            "dataset": dataset,
            "batch_size": batch_size,
            "shuffle": shuffle and sampler is None and not self._iterable,
            "collate_fn": collate_fn,
            "num_workers": num_workers,
            "drop_last": drop_last,
            **options,
        }
        # Only what a user reads of a DataLoader; the inner one does the work, with the workers.
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            shuffle=self.init_kwargs["shuffle"],
            collate_fn=collate_fn,
            drop_last=drop_last,
        )
        self.num_workers = num_workers
        # Without an accelerator there is nothing to pin for, and torch would warn.
        self.pin_memory = bool(options.get("pin_memory", False)) and torch.accelerator.is_available()
        self._next: tuple[int, int, int | None, str] = (1, 0, None, "step")
        self._options = {"generator": torch.Generator(), **options, "num_workers": num_workers}
        if num_workers:
            self._options["worker_init_fn"] = partial(start_worker, options.get("worker_init_fn"))
        self._options["pin_memory"] = self.pin_memory
        self._make_inner(sampler, batch_sampler)
        #: Where `to` has brought the batches; None before.
        self.device: torch.device | None = None
        self._ahead = False
        self.device_resident = device_resident
        if device_resident:
            self._check_resident(bool(options.get("pin_memory")))

    def _check_resident(self, pinned: bool) -> None:
        if self._order is None:
            raise ConfigError(f"device_resident: {type(self.dataset).__name__} is iterable: its batches are its own")
        self._fetcher.check_resident()
        if self.num_workers or pinned:
            raise ConfigError(
                "device_resident makes the batches on the device: set num_workers to 0 and pin_memory to false"
            )

    def _make_inner(self, sampler: Iterable[int] | None, batch_sampler: Iterable[list[int]] | None) -> None:
        if self._iterable:
            self._order = None
            self._inner = DataLoader(
                self.dataset,
                batch_size=self.batch_size,
                collate_fn=self.collate_fn,
                drop_last=self.drop_last,
                **self._options,
            )
            return
        self._order = PassOrder(
            self.n_samples,
            self.batch_size or 1,
            self.drop_last,
            self.shuffle,
            sampler,
            batch_sampler,
            self.seed,
            self.name,
        )
        if batch_sampler is None:
            self.n_samples = self._order.n_yielded()
        self._fetcher = SeededFetcher(self.dataset, self.collate_fn, self.seed, self.name)
        # batch_size None: an index is a whole batch, with its place, which even a prefetching worker then knows.
        self._inner = DataLoader(
            self._fetcher, batch_size=None, sampler=self._order, collate_fn=_unchanged, **self._options
        )

    def __len__(self) -> int:
        if self._order is not None:
            return len(self._order)
        if not hasattr(self.dataset, "__len__"):
            raise DataError(f"{type(self.dataset).__name__} has no length: give it a __len__, the samples of a pass")
        return len(self._inner)

    def to(self, device: torch.device, ahead: bool = True) -> "BaseDataLoader":
        """Give batches on a device from now on: of resident data, or copied there from pinned memory one batch ahead.

        Other batches stay on the CPU, and whoever computes on them moves them.

        Args:
            device: where the model is.
            ahead: False leaves the batches of pinned memory on the CPU, too.

        Raises:
            DataError: the data does not fit.
            ConfigError: the data does not move in place.
        """
        self._ahead = ahead and self.pin_memory and device.type != "cpu"
        if device == self.device:
            return self
        if self.device_resident:
            assert self._order is not None
            try:
                self._fetcher.to(device)
            except torch.OutOfMemoryError as error:
                raise DataError(
                    f"device_resident: the data of {self.name!r} does not fit on {device}: {error}"
                ) from error
            self._order.device = device
        self.device = device
        return self

    def set_place(self, epoch: int, first: int = 0, last: int | None = None, purpose: str = "step") -> None:
        """Say what the next iteration gives: batches `first` up to `last` (all) of pass `epoch`.

        `purpose` is "step" in training and "eval" in evaluation, where draws don't depend on the epoch.
        """
        self._next = (epoch, first, last, purpose)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch, first, last, purpose = self._next
        self._next = (epoch + 1, 0, None, "step")
        return self._batches(epoch, first, last, purpose)

    def _batches(self, epoch: int, first: int, last: int | None, purpose: str) -> Iterator[Any]:
        batches = self._iterable_pass(epoch, first, last) if self._order is None else self._pass(epoch, first, last)
        if self._ahead and self.device is not None:
            batches = prefetch(batches, self.device)
        try:
            for k in itertools.count(first):
                try:
                    batch = next(batches)
                except StopIteration:
                    return
                except RuntimeError as error:
                    raise lost_worker(error, self.name, k) or error from error.__cause__
                if isinstance(batch, Failure):
                    raise DataError(
                        f"the loader {self.name!r} could not make batch {k} of pass {epoch}: {batch.message}"
                    )
                place = (epoch, k) if purpose == "step" else (k,)
                # Here, after any prefetching, so that a hand-written loop over the loader is exact too.
                seeding.seed_everything(self.seed, purpose, *place, 0)
                yield batch
        finally:
            # The workers end now. If the iterator went with a traceback that holds this frame, torch would wait for
            # each of them for 5 s.
            del batches

    def _pass(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        order = self._order
        assert order is not None
        order.epoch, order.first, order.last = epoch, first, len(order) if last is None else last
        if self.num_workers == 0 and not self.pin_memory:
            return map(self._fetcher.__getitem__, order)
        return iter(self._inner)

    def _iterable_pass(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        place = (self.seed, self.name, "pass", epoch)
        self._options["generator"].manual_seed(seeding.mix(*place))  # the workers' seeds come from it
        batches = iter(self._inner)
        for k in itertools.count() if last is None else range(last):
            seeding.seed_everything(*place, k)  # for data that draws in this process
            batch = next(batches, None)
            if batch is None:
                return
            if k >= first:
                yield batch

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
            raise ConfigError(f"validation_split {split} of {n} {left}: give a share below 1 or a number below {n}")
        indices = np.arange(n)
        np.random.RandomState(0).shuffle(indices)
        order = cast(Sequence[int], indices)  # an array, not a list of a million Python integers
        return SubsetRandomSampler(order[n_valid:]), SubsetRandomSampler(order[:n_valid])

    def split_validation(self) -> "BaseDataLoader | None":
        """A loader of the held-out samples, in a fixed order and without augmentation; None without a split."""
        if self.valid_sampler is None:
            return None
        indices = getattr(self.valid_sampler, "indices", None)
        held_out = list(self.valid_sampler) if indices is None else indices
        kwargs = {**self.init_kwargs, "dataset": Subset(evaluation_view(self.dataset), list(map(int, held_out)))}
        kwargs.update(shuffle=False, drop_last=False)
        name = f"{self.name}-valid"
        return BaseDataLoader(validation_split=0.0, name=name, device_resident=self.device_resident, **kwargs)


def evaluation_view(dataset: Any) -> Any:
    """The dataset as evaluation reads it: its own `evaluation_view()`, through `Subset`s, or the dataset itself."""
    if type(dataset) is Subset:
        return Subset(evaluation_view(dataset.dataset), dataset.indices)
    return dataset.evaluation_view() if hasattr(dataset, "evaluation_view") else dataset


def _unchanged(batch: Any) -> Any:
    return batch
