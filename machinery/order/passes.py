"""Passes over data from any place on, with the DataLoaders and workers that they need."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, default_collate

from machinery.errors import ConfigError, DataError, UserError
from machinery.order import seeding
from machinery.order.batches import PassOrder, Share, Split
from machinery.order.choosing import Choice as Choice, LengthBatches, values_of, weights_of
from machinery.order.fetching import SeededFetcher, handed_out as handed_out
from machinery.order.glance import glance
from machinery.order.standing import (
    Course,
    Places,
    Source,
    Start,
    Stood,
    says_where,
    start_worker_of,
)
from machinery.order.twins import Twins
from machinery.order.unreadable import Reading
from machinery.stopping import shielded, start_worker

#: Options of torch's DataLoader that are about workers, and an obstacle where there are none.
_OF_WORKERS = ("prefetch_factor", "persistent_workers", "multiprocessing_context", "timeout")


def make_passes(
    loader: Any, sampler: Any, batch_sampler: Any, options: dict[str, Any]
) -> "OrderedPasses | StreamPasses":
    """What makes the batches of a loader: of data that can be read anywhere, or of a stream.

    Args:
        loader: has the dataset, the seed and the name, and says how batches are cut.
        sampler, batch_sampler: of the user's own, or of a split.
        options: of torch's DataLoader, with num_workers and pin_memory.

    Raises:
        ConfigError: the options make no sense.
    """
    if not callable(loader.collate_fn):
        what = f"collate_fn: expected a function, found {loader.collate_fn!r}"
        hint = "a loader of your own takes a name where it says so: collate_fn: Callable[…, Any]"
        if isinstance(loader.collate_fn, int):  # the sixth argument by position
            hint = "give a BaseDataLoader its further options by name: pin_memory=True"
        raise ConfigError(f"{what}; {hint}")
    own = batch_sampler is not None or (sampler is not None and type(sampler) is not Split)
    loader.choice.check(loader, own)
    dataset = loader.dataset
    seed = loader.seed
    name = loader.name
    if isinstance(dataset, IterableDataset):
        for key in ("batch_size", "collate_fn", "drop_last"):
            options[key] = getattr(loader, key)
        if says_where(dataset):
            return StandingPasses(dataset, seed, name, options)
        return StreamPasses(dataset, seed, name, options)
    order = PassOrder(
        dataset,
        loader.batch_size,
        loader.shuffle,
        seed,
        name,
        sampler,
        batch_sampler,
        loader.drop_last,
    )
    choice = loader.choice
    choose(order, choice)
    fetcher = SeededFetcher(dataset, loader.collate_fn, seed, name, choice.skip_unreadable)
    return OrderedPasses(order, fetcher, options)


def choose(order: PassOrder, choice: Choice) -> None:
    """Let the passes of an order be of what an owner chooses.

    Raises:
        ConfigError: the dataset does not say what is asked for.
    """
    if choice.weights is not None and order.shuffle:
        order.weights = weights_of(choice.weights, order.dataset, order.chosen())
    if choice.batch_by is None:
        return
    lengths = values_of(order.dataset, choice.lengths, "batch_by")
    place = None
    if order.shuffle:
        place = order.place
    by_tokens = choice.batch_by == "tokens"
    order.batch_sampler = LengthBatches(
        lambda epoch: order.of_pass(epoch).numpy(), lengths, order.batch_size, by_tokens, place
    )


class OrderedPasses:
    """Passes over map-style data, which begin at any batch.

    Args:
        order: which samples make up which batch.
        fetcher: makes the batches.
        options: of torch's DataLoader, with num_workers and pin_memory.
    """

    def __init__(self, order: PassOrder, fetcher: SeededFetcher, options: dict[str, Any]) -> None:
        self.order = order
        self.fetcher = fetcher
        self._in_workers = options["num_workers"] > 0 or options["pin_memory"]
        #: What is left out of the passes; None where nothing may be.
        self.reading: Reading | None = None
        #: Where it stands is said by the place alone.
        self.places: Places | None = None
        if fetcher.skips:
            self.reading = Reading(order.name)
        # What workers that live on from pass to pass have a copy of.
        self._copied: Any = None
        options = _worker_options(options)
        options.setdefault("generator", torch.Generator())
        # batch_size None: an index is a whole batch, with its place, which even a prefetching
        # worker then knows.
        self.inner = _Inner(
            fetcher, batch_size=None, sampler=order, collate_fn=_unchanged, **options
        )

    def __len__(self) -> int:
        return len(self.order)

    @property
    def n_samples(self) -> int:
        """Samples in a pass that begins."""
        return self.order.in_pass()

    def rename(self, name: str) -> None:
        """Draw by another name from the next pass on."""
        self.order.name = name
        self.fetcher.name = name
        if self.reading is not None:
            self.reading.name = name

    def tell_samplers(self, epoch: int) -> None:
        """Let samplers of the user's own know which pass comes."""
        tell_samplers(self.order, epoch)

    def batches(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        """Batches `first` up to `last` (all) of a pass; pass 0 is an evaluation."""
        if last is None:
            last = self.order.n_batches(training=epoch > 0)
        self.order.take(epoch, first, last)
        self.fetcher.look()
        batches: Iterator[Any] = map(self.fetcher.__getitem__, self.order)
        if self._in_workers:
            self._end_old_workers()
            batches = iter(self.inner)
        if self.reading is None:
            return batches
        self.reading.begin(epoch, first, self.order.in_pass())
        return self.reading.unpacked(batches, epoch)

    def _end_old_workers(self) -> None:
        """Let a pass have new workers if the dataset has changed since those that live on began."""
        if not self.inner.persistent_workers:
            return
        now = [self.fetcher.name, glance(self.fetcher.dataset)]
        if now != self._copied:
            end_workers(self.inner)
        self._copied = now

    def share(self, k: int, epoch: int) -> Share:
        """What this process has of batch k of a pass."""
        share = self.order.share(k, epoch)._replace(exact=self._keeps_sizes())
        if self.reading is not None and share.mine > 0:
            share = share._replace(mine=share.mine - self.reading.left_out(epoch, k))
        return share

    def _keeps_sizes(self) -> bool:
        """Whether a batch holds as many samples as the order says.

        Nobody of the user's own has a hand in it then: no sampler, no collate function, no dataset
        that returns finished batches as it likes.
        """
        sampler = self.order.sampler
        if sampler is not None and type(sampler) is not Split:
            return False
        if self.order.batch_sampler is not None or self.reading is not None:
            return False
        return self.fetcher.collate_fn is default_collate and self.fetcher.keeps_all


class StreamPasses:
    """Passes over iterable data, which keep its own order, and are read and dropped up to a batch.

    Args:
        dataset: iterable data.
        seed, name: of the loader.
        options: of torch's DataLoader, with batch_size, collate_fn, drop_last and num_workers.
    """

    def __init__(self, dataset: Any, seed: int, name: str, options: dict[str, Any]) -> None:
        self._dataset = dataset
        self._seed = seed
        self._name = name
        self._drop_last = options["drop_last"]
        self._batch_size = options["batch_size"]
        options = _worker_options(options)
        options["persistent_workers"] = False  # their generators would go on from pass to pass
        self.inner = self._inner(options)

    def _inner(self, options: dict[str, Any]) -> "_Inner":
        """What reads it."""
        return _Inner(self._dataset, **options)

    #: Samples in a pass, which nobody has counted.
    n_samples = 0
    #: What is left out of the passes is the dataset's business.
    reading: Reading | None = None
    #: Where it stands, if it says so.
    places: Places | None = None

    def rename(self, name: str) -> None:
        """Draw by another name from the next pass on."""
        self._name = name

    def tell_samplers(self, epoch: int) -> None:
        """There are none."""

    def __len__(self) -> int:
        dataset = self._dataset
        if not hasattr(dataset, "__len__"):
            kind = type(dataset).__name__
            raise DataError(f"{kind} has no length: give it a __len__, the samples of a pass")
        # Each worker makes batches of its own share, which may leave one more unfinished.
        workers = max(self.inner.num_workers, 1)
        each, rest = divmod(len(dataset), workers)
        return rest * self._batches_of(each + 1) + (workers - rest) * self._batches_of(each)

    def _batches_of(self, samples: int) -> int:
        """How many batches a worker makes of its share."""
        if self._drop_last:
            return samples // self._batch_size
        return -(-samples // self._batch_size)

    def batches(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        """Batches `first` up to `last` (all) of a pass; pass 0 is an evaluation."""
        place = (self._seed, self._name, "pass", epoch)
        drop_last = self._drop_last and epoch > 0  # an evaluation drops nothing
        # torch refuses to have it changed; nothing has read it before a pass begins.
        object.__setattr__(self.inner, "drop_last", drop_last)
        return replayed(self.inner, place, place, first, last)

    def share(self, k: int, epoch: int) -> Share | None:
        """Nobody knows: what each process reads is the dataset's business."""
        return None


class StandingPasses(StreamPasses):
    """Passes over a stream that says where it stands, and goes on there.

    Where its place is not known it is read and dropped up to the batch. The arguments are those of
    `StreamPasses`.
    """

    def __init__(self, dataset: Any, seed: int, name: str, options: dict[str, Any]) -> None:
        super().__init__(dataset, seed, name, options)
        self._known = Places(self.inner.num_workers, self._batch_size)
        self.places = self._known
        # What has been told of it.
        self._told: set[str] = set()

    def _inner(self, options: dict[str, Any]) -> "_Inner":
        self._source = Source(self._dataset, options["batch_size"], options["collate_fn"])
        if options["num_workers"] > 0:
            options["worker_init_fn"] = partial(start_worker_of, options["worker_init_fn"])
        options.update(batch_size=None, collate_fn=_unchanged, drop_last=False)
        return _Inner(self._source, **options)

    def batches(self, epoch: int, first: int, last: int | None) -> Iterator[Any]:
        """Batches `first` up to `last` (all) of a pass; pass 0 is an evaluation."""
        known = None
        done = 0
        if first > 0:
            known = self._known.at(epoch, first)
            if known is None:
                read = f"reads pass {epoch} up to batch {first} again: {self._known.why}"
                self._tell(logging.INFO, read)
            else:
                done = first
        course = None
        if epoch > 0:
            course = self._known.begin(epoch, known)
        batches = self._begun(epoch, known)
        twins = Twins(self.inner, self._dataset)
        try:
            while done != last:
                stood = next(batches, None)
                if stood is None:
                    break
                if isinstance(stood, UserError):
                    raise stood
                done += 1
                twins.see(stood.batch)
                if course is not None:
                    self._note(course, stood)
                if done > first:
                    yield stood.batch
            twins.judge()
        finally:
            del batches  # see `handed_out`

    def _begun(self, epoch: int, known: Course | None) -> Iterator[Stood | UserError]:
        """The batches of a pass, from its beginning or from a course."""
        place = (self._seed, self._name, "pass", epoch)
        turn = 0
        reached = {}
        if known is not None:
            turn = known.turn
            reached = known.reached
        trains = epoch > 0
        drop_last = self._drop_last and trains  # an evaluation drops nothing
        self._source.begin(Start(place, turn, reached, drop_last, trains))
        _begin_pass(self.inner, place)
        return (stood for stood in self.inner if stood is not None)

    def _note(self, course: Course, stood: Stood) -> None:
        """Note where the stream stands behind a batch."""
        self._known.add(course, stood)
        if stood.why:
            self._tell(logging.WARNING, stood.why)

    def _tell(self, level: int, what: str) -> None:
        """Tell something of the stream, once."""
        if what in self._told:
            return
        self._told.add(what)
        kind = type(self._dataset).__name__
        text = f"the loader {self._name!r}, {kind}: {what}"
        logging.getLogger("data_loader").log(level, text)


class _Inner(DataLoader[Any]):
    """The DataLoader that works; it starts its workers so that they outlive a stop."""

    def __iter__(self) -> Any:
        with shielded():
            return super().__iter__()


def _worker_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a DataLoader whose workers outlive a stop; without workers none about them."""
    options = dict(options)
    if options["num_workers"] > 0:
        options["worker_init_fn"] = partial(start_worker, options.get("worker_init_fn"))
        return options
    for name in _OF_WORKERS:
        options.pop(name, None)
    return options


def _unchanged(batch: Any) -> Any:
    return batch


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
        fetch: of a batch, without its number: what data draws here is seeded from it.
    """
    _begin_pass(loader, place)
    twins = Twins(loader)
    batches = iter(loader)
    try:
        for k in itertools.count():
            if k == last:
                twins.judge()
                return
            seeding.seed_everything(*fetch, k)
            try:
                batch = next(batches)
            except StopIteration:
                twins.judge()
                return
            twins.see(batch)
            if k >= first:
                yield batch
    finally:
        del batches  # see `handed_out`


def end_workers(loader: Any) -> None:
    """Let the next pass over a torch DataLoader have new workers; torch has no public way."""
    loader._iterator = None


def tell_samplers(loader: Any, epoch: int) -> None:
    """Let the samplers of a loader, or of what orders a pass, know which one comes."""
    for name in ("sampler", "batch_sampler"):
        sampler: Any = getattr(loader, name, None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)


def _begin_pass(loader: Any, place: tuple[Any, ...]) -> None:
    """Seed all that a pass over a loader draws from; the epoch comes last in its place."""
    seeding.seed_everything(*place)
    if getattr(loader, "persistent_workers", False):
        end_workers(loader)  # their generators would go on from pass to pass
    tell_samplers(loader, place[-1])
    generator = getattr(loader, "generator", None)
    if generator is not None:  # a DataLoader's own
        generator.manual_seed(seeding.mix(*place))
