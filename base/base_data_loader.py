"""The base of every data loader: its order and randomness depend on the place alone."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset, default_collate as torch_default_collate

from machinery.order import passes, seeding, split
from machinery.order.bare import BareIteration
from machinery.order.batches import Share
from machinery.order.epochs import one_pass as one_pass, training_batches as training_batches


class BaseDataLoader(BareIteration, DataLoader[Any]):
    """A DataLoader with a validation split and the same batches everywhere and at any time.

    Args:
        dataset: map-style data; with `__getitems__` it gets an index tensor [n] and returns a
            finished batch. If it has an `evaluation_view()`, validation reads that instead (the
            same samples without augmentation). Iterable data keeps its own order; without a
            `state_dict()` it is read and dropped up to the place where a run resumes.
        batch_size: samples in a batch, of which each of several processes takes its share.
        shuffle: draw a new order for each pass.
        validation_split: share (0 ≤ x < 1) or number of samples held out for `split_validation()`.
        num_workers: processes that prepare batches; 0 prepares them in this one. The batches are
            the same.
        collate_fn: makes a batch of a list of samples; validation has its `evaluation_view()`, if
            it has one.
        name: makes the random draws of this loader differ from those of another.
        weights: draw the samples to train on by weight, with replacement: "balanced" (as many of
            each class), the name of an attribute of the dataset, or a number for each sample.
        batch_by: "length" puts samples of about one length into a batch; with "tokens",
            `batch_size` is the tokens of a batch, the longest times their number.
        lengths: the attribute of the dataset, or its column, that has the lengths.
        skip_unreadable: leave samples out that are None or cannot be read, up to 1 % of a pass.
        options: of torch's DataLoader. `sampler` chooses the samples of a pass in place of
            `shuffle`, `batch_sampler` the batches themselves, `drop_last` leaves out a last batch
            that is smaller, `pin_memory` is on with workers beside a GPU; `timeout`, …

    Raises:
        DataError: there are no samples.
        ConfigError: the split or the options make no sense.
    """

    #: The names of the classes, if they have some, in the order of their numbers.
    classes: Any = None

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 64,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] = torch_default_collate,
        *,
        name: str = "train",
        weights: str | list[float] | None = None,
        batch_by: str | None = None,
        lengths: str = "lengths",
        skip_unreadable: bool = False,
        **options: Any,
    ) -> None:
        split.check_options(batch_size, shuffle, validation_split, num_workers, options)
        #: What a pass is made of.
        self.choice = passes.Choice(weights, batch_by, lengths, skip_unreadable)
        self.validation_split = validation_split
        self.shuffle = shuffle
        self.name = name
        self.seed = seeding.root_seed()
        #: Samples in a pass at the start; 0 for iterable data, which nobody has counted.
        self.n_samples = split.count_samples(dataset, name)
        sampler = options.pop("sampler", None)
        batch_sampler = options.pop("batch_sampler", None)
        self.valid_sampler: Any = None
        if sampler is None and batch_sampler is None:
            sampler, self.valid_sampler = self._split_sampler(validation_split)
        shuffled = shuffle and sampler is None and self.n_samples > 0
        drop_last = options.pop("drop_last", False)
        # Only what a user reads of a DataLoader: the passes do the work, and have the workers.
        super().__init__(
            dataset, batch_size, shuffled, sampler, collate_fn=collate_fn, drop_last=drop_last
        )
        self.init_kwargs = self._same_samples(shuffled, num_workers, options)
        self.num_workers = num_workers
        self._make_passes(sampler, batch_sampler, options)

    def _make_passes(self, sampler: Any, batch_sampler: Any, options: dict[str, Any]) -> None:
        """What makes the batches, with the workers."""
        # Without an accelerator there is nothing to pin for, and torch would warn.
        asked = options.pop("pin_memory", self.num_workers > 0)
        self.pin_memory = asked and torch.accelerator.is_available()
        options.update(num_workers=self.num_workers, pin_memory=self.pin_memory)
        self._passes = passes.make_passes(self, sampler, batch_sampler, options)
        self.n_samples = self._passes.n_samples

    def _same_samples(
        self, shuffle: bool, num_workers: int, options: dict[str, Any]
    ) -> dict[str, Any]:
        """What makes a DataLoader of the same samples, as in the classic template."""
        return {
            "dataset": self.dataset,
            "batch_size": self.batch_size,
            "shuffle": shuffle,
            "num_workers": num_workers,
            "collate_fn": self.collate_fn,
            "drop_last": self.drop_last,
            **options,
        }

    def __len__(self) -> int:
        return len(self._passes)

    def batches(self, epoch: int, first: int = 0, last: int | None = None) -> Iterator[Any]:
        """Batches `first` up to `last` (all) of a pass, each with what its step draws seeded.

        Args:
            epoch: from 1; 0 is an evaluation, whose draws are the same each time.

        Raises:
            DataError: a batch could not be made.
        """
        start = partial(self._pass, epoch, first, last)
        return passes.handed_out(start, self.seed, self.name, epoch, first)

    def _pass(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        return self._passes.batches(epoch, first, last)

    def share(self, k: int, epoch: int) -> Share | None:
        """How much of batch k of pass `epoch` is this process', in samples.

        None for iterable data, where nobody knows.
        """
        share = self._passes.share(k, epoch)
        if share is not None and type(self).__iter__ is not BaseDataLoader.__iter__:
            return share._replace(exact=False)
        return share

    def _split_sampler(self, validation_split: float) -> tuple[Any, Any]:
        """The samplers of the training and the validation samples; None, None without a split.

        A project may override it. The split is the same for every seed, and the classic template's.
        """
        if validation_split == 0:
            return None, None
        return split.split_samples(self.n_samples, validation_split, self.name, self.shuffle)

    def evaluation_data(self) -> Any:
        """The dataset as validation reads it."""
        return split.evaluation_view(self.dataset)

    def split_validation(self) -> "BaseDataLoader | None":
        """A loader of the held-out samples, in a fixed order and without augmentation; or None."""
        if self.valid_sampler is None:
            return None
        dataset = Subset(self.evaluation_data(), split.samples_of(self.valid_sampler))
        options = {**self.init_kwargs, "dataset": dataset, "shuffle": False, "drop_last": False}
        options["collate_fn"] = split.evaluation_view(self.collate_fn)
        options.update(self.choice.for_validation())
        valid = BaseDataLoader(validation_split=0.0, name=f"{self.name}-valid", **options)
        valid.classes = self.classes
        return valid
