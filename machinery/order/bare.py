"""Loops of the user's own over a loader: which pass each takes, and where it stands.

A loader that a trainer holds, and goes through by itself, such as unlabelled data beside the
labelled, has a state: the place of each iterator that is alive. An iterator begins with its first
batch, at a restored place if there is one for it.
"""

import logging
from collections.abc import Iterator
from typing import Any

import torch

from machinery import distributed
from machinery.arriving import on_host
from machinery.errors import ConfigError
from machinery.order import seeding
from machinery.order.batches import Share
from machinery.order.fetching import CLOCK
from machinery.order.outstanding import OUTSTANDING
from machinery.order.unreadable import EMPTY, Reading


class _Place:
    """Where an iterator stands: its pass, and the batches that it has handed out."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch = epoch
        self.batch = batch


def check_constructed(loader: Any, where: str) -> None:
    """Refuse a loader whose constructor has not called that of its base.

    Args:
        where: what an error message begins with.

    Raises:
        ConfigError: with the line to write.
    """
    if isinstance(loader, BareIteration) and "_places" not in vars(loader):
        what = f"{type(loader).__name__}'s __init__ has not called its base's"
        hint = "super().__init__(dataset, batch_size, shuffle, validation_split, num_workers)"
        raise ConfigError(f"{where}: {what}: {hint}")


class BareIteration:
    """The bare iteration of a loader: each one is another pass."""

    _passes: Any
    name: str
    seed: int
    batch_size: int | None
    #: The pass that the next bare iteration takes.
    epoch = 1
    # The trainer's epoch that is under way; 0: none.
    _during = 0
    # Whether a trainer holds it beside its own two, and its place is saved.
    _held = False
    # The epoch in which the restored places were saved, and how often some were restored.
    _saved_during = 0
    _times_restored = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Of the iterators that are alive, in the order in which they began.
        self._places: list[_Place] = []
        # Restored, for iterators that have not begun.
        self._restored: list[_Place] = []

    def batches(self, epoch: int, first: int = 0, last: int | None = None) -> Iterator[Any]:
        """Batches `first` up to `last` (all) of a pass."""
        raise NotImplementedError

    def share(self, k: int, epoch: int) -> Share | None:
        """How much of batch k of a pass is this process'."""
        raise NotImplementedError

    def __iter__(self) -> Any:
        return self._iterate(CLOCK.handed_out, self._times_restored)

    def _iterate(self, made_at: int, times_restored: int) -> Iterator[Any]:
        """The batches of a pass, from its beginning or from a restored place.

        Args:
            made_at: how many batches had been handed out when the iterator was made.
            times_restored: how often places had been restored then.
        """
        at_once = made_at == CLOCK.handed_out
        place = self._begin(at_once or times_restored < self._times_restored)
        self._places.append(place)
        batches = self.batches(place.epoch, place.batch)
        if not distributed.alone():
            batches = self._noted(batches, place.epoch, place.batch)
        try:
            for batch in batches:
                place.batch += 1
                if batch is EMPTY:
                    continue
                if self._held:  # else a step draws for it what it has drawn for the trainer's own
                    where = ("step", place.epoch, place.batch, distributed.rank())
                    seeding.seed_everything(self.seed, self.name, *where)
                yield on_host(batch)
        finally:  # it is at its end, or nobody holds it any more
            self._places.remove(place)
            del batches

    def _begin(self, goes_on: bool) -> _Place:
        """Where an iterator begins.

        A place that was saved inside an epoch is for the next iterator, however it was made. At an
        epoch's edge one that is made anew for each epoch would have begun a new pass.

        Args:
            goes_on: it was there when the run was restored, or is made where its first batch is
                wanted, as by a generator that goes round without an end.
        """
        if self._restored:
            place = self._restored.pop(0)
            if goes_on or self._during == self._saved_during:
                return place
        self.epoch += 1
        return _Place(self.epoch - 1, 0)

    def _noted(self, batches: Iterator[Any], epoch: int, first: int) -> Iterator[Any]:
        """On several processes, note what each batch counts for."""
        OUTSTANDING.begin(self)
        for k, batch in enumerate(batches, first):
            share = self.share(k, epoch)
            if share is not None and self.unreadable is not None and torch.is_grad_enabled():
                (whole,) = distributed.totals([share.mine])()
                share = share._replace(whole=int(whole) or 1)
            weight = 1.0 if share is None else share.weight
            if torch.is_grad_enabled():
                OUTSTANDING.hand_out(self, batch, weight)
                yield batch
            elif weight:  # an evaluation takes no stand-in
                yield batch
        OUTSTANDING.end(self)
        if self.unreadable is not None and torch.is_grad_enabled():
            self.unreadable.tell()

    def begin_epoch(self, epoch: int, held: bool) -> None:
        """An epoch of the trainer begins: a loop of its own over the loader takes this pass.

        Args:
            held: beside the trainer's own two; a pass that has been taken is not taken again then.
        """
        self._during = epoch
        self._held = held
        if not held or self.epoch < epoch:
            self.epoch = epoch

    @property
    def unreadable(self) -> Reading | None:
        """What was left out of the passes, if samples that cannot be read may be."""
        return self._passes.reading

    @property
    def places(self) -> Any:
        """Where its stream stands, if it says so; None for other data."""
        return self._passes.places

    def rename(self, name: str) -> None:
        """Draw by another name from the next pass on."""
        self.name = name
        self._passes.rename(name)

    def tell_samplers(self, epoch: int) -> None:
        """Let samplers of the user's own know which pass comes."""
        self._passes.tell_samplers(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The places of the iterators that are alive, and the next pass."""
        places = [[place.epoch, place.batch] for place in (*self._places, *self._restored)]
        of_pass = [self._passes.n_samples, self.batch_size]
        return {"epoch": self.epoch, "during": self._during, "places": places, "of": of_pass}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iterators go on where those of a saved state stood."""
        if state == self.state_dict():  # they stand there
            return
        self.epoch = int(state["epoch"])
        self._saved_during = int(state["during"])
        self._restored = [_Place(int(epoch), int(batch)) for epoch, batch in state["places"]]
        self._times_restored += 1
        if self._restored and state["of"] != self.state_dict()["of"]:
            self._restored = []
            what = f"a held {type(self).__name__} has other data, or another batch_size"
            logging.getLogger("data_loader").warning(f"{what}: it begins a new pass")
