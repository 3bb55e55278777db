"""How a batch is made, in whichever process, and handed out: by its place alone."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Subset

from machinery import distributed
from machinery.errors import DataError, UserError
from machinery.order import seeding
from machinery.order.batches import BatchIndex, Indices
from machinery.order.draws import Draws, UnnamedDraws
from machinery.order.unreadable import EMPTY, LeftOut, Partial, is_unreadable, why_not
from machinery.telling import is_of_lost_worker, lost_worker, told

Context = AbstractContextManager[None]

_NOTHING = nullcontext()
#: In so many of the first batches of a pass, whole-batch data is watched for what it draws; single
#: samples always are: it costs them little.
_WATCHED = 4


class SeededFetcher(Dataset[Any]):
    """Makes the finished batch of a `BatchIndex`, in whichever process it runs.

    A dataset with `__getitems__` (whole-batch data) is handed an index tensor [n]; a list that it
    returns is collated, anything else is the batch. It is looked for beneath `Subset`s, whose own
    `__getitems__` is only a short cut. If it says `draws_from`, only the global generators that it
    names are seeded for it.

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
        self._draws = Draws(inner)

    @property
    def keeps_all(self) -> bool:
        """Whether a batch holds each of its samples: it is made of single ones, or row by row."""
        if self._whole is None:
            return True
        return not self._draws.modules

    def __getitem__(self, index: BatchIndex) -> Any:
        threads = torch.get_num_threads()
        # One thread, as in a worker: two threads sum in another order, and give other bits.
        if threads > 1:
            torch.set_num_threads(1)
        try:
            if self._whole is None:
                return self._of_samples(index)
            return self._whole_batch(index)
        except UnnamedDraws as error:
            return error
        except (Exception, SystemExit) as error:  # whatever the user's dataset raises is told so
            return DataError(_reason(error))
        finally:
            if threads > 1:
                torch.set_num_threads(threads)

    def _whole_batch(self, index: BatchIndex) -> Any:
        """The batch that whole-batch data makes."""
        indices = index.indices
        for subset in self._subsets:
            indices = subset[indices]
        watch: Context = _NOTHING
        if index.batch < _WATCHED:
            watch = self._draws.watched()
        place = self._of_batch(index)
        rows = seeding.Rows(self.seed, self.name, index.epoch, index.position, index.stride)
        try:
            with watch, rows:
                self._draws.seed(*place)
                batch = self._whole.__getitems__(torch.from_numpy(indices))
        except Exception as error:
            if not self.skips or not is_unreadable(error):
                raise
            batch = None
        if batch is None and self.skips:
            return self._one_by_one(index, indices)
        if isinstance(batch, list):
            self._draws.seed_others(*place)
            return self._without_none(index, indices, batch)
        return batch

    def _one_by_one(self, index: BatchIndex, indices: Indices) -> Any:
        """The batch made of single samples, where whole-batch data cannot read all of them.

        Each draws what belongs to its place, as if all could be read.
        """
        samples = []
        for offset, i in enumerate(indices.tolist()):
            place = index.position + offset * index.stride
            # `draws_from` may be said of whole batches alone.
            self._draws.seed_all(self.seed, self.name, "sample", index.epoch, place)
            with seeding.Rows(self.seed, self.name, index.epoch, place):
                try:
                    samples.append(self._whole[i])
                except (Exception, SystemExit) as error:
                    samples.append(self._left_out(i, error))
        self._draws.seed_all(*self._of_batch(index))
        return self._without_none(index, indices, samples)

    def _without_none(self, index: BatchIndex, indices: Indices, samples: list[Any]) -> Any:
        """A batch of those of some samples that could be read, if others may be left out."""
        if not self.skips:
            return self._collated(samples, [], index)
        left_out = []
        read = []
        kept = []
        for offset, i in enumerate(indices.tolist()):
            sample = samples[offset]
            if isinstance(sample, LeftOut):
                left_out.append(sample)
            elif sample is None:
                left_out.append(LeftOut(i, "None"))
            else:
                read.append(offset)
                kept.append(sample)
        return self._collated(kept, left_out, index, read)

    def _of_samples(self, index: BatchIndex) -> Any:
        """The batch made of samples, each of which draws what belongs to its place."""
        samples = []
        read = []
        left_out: list[LeftOut] = []
        with self._draws.watched():
            for offset, i in enumerate(index.indices.tolist()):
                place = index.position + offset * index.stride
                self._draws.seed(self.seed, self.name, "sample", index.epoch, place)
                try:
                    sample = self.dataset[i]
                except (Exception, SystemExit) as error:
                    left_out.append(self._left_out(i, error))
                    continue
                if sample is None and self.skips:
                    left_out.append(LeftOut(i, "None"))
                else:
                    read.append(offset)
                    samples.append(sample)
        self._draws.seed_all(*self._of_batch(index))
        return self._collated(samples, left_out, index, read)

    def _left_out(self, i: int, error: Exception | SystemExit) -> LeftOut:
        """What is noted of a sample that cannot be read; any other error is raised."""
        if self.skips and is_unreadable(error):
            return LeftOut(i, why_not(error))
        error.add_note(f"in sample {i}")
        raise error

    def _collated(
        self,
        samples: list[Any],
        left_out: list[LeftOut],
        index: BatchIndex,
        read: list[int] | None = None,
    ) -> Any:
        """A batch of samples, with a note of those that were left out.

        Args:
            read: the numbers that the samples have in the batch, if not all are there.
        """
        rows = seeding.Rows(self.seed, self.name, index.epoch, index.position, index.stride)
        if left_out:
            rows.read = read
        if not samples and left_out and index.epoch > 0 and distributed.size() > 1:
            samples = [self._stand_in(left_out[0].number)]  # the other processes wait for its step
            rows.read = None
        batch: Any = EMPTY
        if samples or not left_out:
            with rows:
                batch = self.collate_fn(samples)
        if not left_out:
            return batch
        of_dataset = [each._replace(number=self._in_dataset(each.number)) for each in left_out]
        if index.stands_in:  # the process whose sample it is notes it
            of_dataset = []
        return Partial(index.batch, batch, of_dataset)

    def _in_dataset(self, sample: int) -> int:
        """The number that a sample has beneath the subsets."""
        if self._whole is None:
            for subset in self._subsets:
                sample = int(subset[sample])
        return sample

    def _stand_in(self, index: int) -> Any:
        """The next sample that can be read, for a batch that counts nothing."""
        data = self._whole
        if data is None:
            data = self.dataset
        n = len(data)
        for i in range(index + 1, index + n):
            try:
                sample = data[i % n]
            except Exception as error:
                if not is_unreadable(error):
                    raise
                continue
            if sample is not None:
                return sample
        raise DataError("no sample can be read")

    def _of_batch(self, index: BatchIndex) -> tuple[int | str, ...]:
        """Where is drawn what is for a batch as a whole, such as MixUp in `collate_fn`."""
        return (self.seed, self.name, "batch", index.epoch, index.batch, distributed.rank())


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
            except (Exception, SystemExit) as error:  # of a sampler, of a foreign loader, …
                reason = _reason(error)
                if is_of_lost_worker(error):
                    reason = lost_worker(reason.partition("\n")[0])
                raise _not_made(name, k, epoch, reason) from error
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


def _reason(error: Exception | SystemExit) -> str:
    """What an error of a loader says; what torch raises when a worker is lost, in plain words."""
    first_line = str(error).partition("\n")[0]
    if not first_line.startswith("DataLoader"):
        return told(error)
    return lost_worker(first_line)
