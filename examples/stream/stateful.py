"""Streams that say themselves where they stand.

A run that is continued need not read them up to its place.
"""

import copy
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from base import BaseDataLoader
from trainer import Trainer
from utils import distributed, seeding


class Place:
    """What a dataset said of itself after the last batch of an epoch; a part of the checkpoints."""

    def __init__(self) -> None:
        #: The pass and how many of its batches were read; -1, -1 before.
        self.at = (-1, -1)
        self.state: Any = None

    def state_dict(self) -> dict[str, Any]:
        """Both."""
        return {"at": list(self.at), "state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them."""
        epoch, batch = state["at"]
        self.at = (int(epoch), int(batch))
        self.state = state["state"]


class StatefulLoader(BaseDataLoader):
    """A loader of iterable data that has a `state_dict()` and a `load_state_dict(state)`.

    The state is plain data. Without workers and on one process, a run goes on where the dataset
    says it was. Else, or where the checkpoint's place is another, it is read and dropped up to the
    place; the batches are the same. The arguments are those of `BaseDataLoader`.
    """

    dataset: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Where the dataset stood after the last batch.
        self.place = Place()

    def _pass(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        if epoch == 0 or self.num_workers or not distributed.alone():
            return super()._pass(epoch, first, last)
        return self._going_on(epoch, first, last)

    def _going_on(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        """The batches of a pass, from where the dataset stands if that is known, or up to there."""
        place = (self.seed, self.name, "pass", epoch)
        seeding.seed_everything(*place)
        k = 0
        if self.place.at == (epoch, first):
            self.dataset.load_state_dict(copy.deepcopy(self.place.state))
            k = first
        batches = iter(self._undivided())
        while last is None or k < last:
            seeding.seed_everything(*place, k)  # what a dataset draws depends on the place alone
            try:
                batch = next(batches)
            except StopIteration:
                return
            k += 1
            self.place.at = (epoch, k)
            self.place.state = copy.deepcopy(self.dataset.state_dict())
            if k > first:
                yield batch

    def _undivided(self) -> DataLoader[Any]:
        """A plain loader of the same samples, which reads them here, without workers."""
        return DataLoader(
            self.dataset,
            self.batch_size,
            collate_fn=self.collate_fn,
            drop_last=self.drop_last,
            pin_memory=self.pin_memory,
        )


class StreamTrainer(Trainer):
    """Has the place of its data as an attribute, so that it is saved."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.place = Place()
        if isinstance(self.data_loader, StatefulLoader):
            self.place = self.data_loader.place
