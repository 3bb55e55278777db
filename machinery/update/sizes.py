"""How large batches are, and what each counts for in an update."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from machinery import distributed
from machinery.errors import DataError, UserError
from machinery.order.batches import EMPTY, Share
from machinery.order.outstanding import OUTSTANDING, same_batch
from machinery.update.divisor import LossSize, Sizing


class Sized(NamedTuple):
    """How large a batch is."""

    #: What the mean loss of this process' share is over; 0 for a stand-in, which counts nothing.
    size: float
    #: How many samples the share has.
    samples: float
    #: The sizes of the shares of all processes together; None: they have to be asked.
    whole: float | None


class Shares:
    """What the batches of one update count for.

    How large the whole batches are that several processes have shares of is added up while they
    compute, if nobody knows.

    Args:
        sizes: of what this process has of the batches.
        wholes: of the whole batches, if they are known.
        samples: how many this process has of each batch.
    """

    def __init__(
        self, sizes: list[float], wholes: list[float] | None, samples: list[float]
    ) -> None:
        self.sizes = sizes
        self.samples = samples
        #: Whether the mean of each batch is what is wanted, as of one batch of one process.
        self.plain = wholes is sizes and len(sizes) == 1 and sizes[0] != 0
        self._wait: Callable[[], list[float]] | None = None
        # Until they are known, those of this process.
        self._wholes = sizes
        if wholes is not None:
            self._wholes = wholes
        else:
            self._wait = distributed.totals(sizes)

    def weight(self, k: int) -> float:
        """What the mean loss over batch k has to be multiplied by.

        The gradients' sum over the batches, averaged over the processes, is then that of the mean
        over all samples of the update. Waits for the other processes if they had to be asked.
        """
        if self._wait is not None:
            self._wholes = self._wait()
            self._wait = None
        of_update = 1.0
        if self._wholes[k] == 0:
            return 0.0
        if len(self._wholes) > 1:
            of_update = self._wholes[k] / sum(self._wholes)
        if self._wholes is self.sizes:  # of one process
            return of_update
        return of_update * self.sizes[k] * distributed.size() / self._wholes[k]

    def nothing(self) -> bool:
        """Whether no process has anything to learn from, as far as `weight` has found out.

        None of their samples could be read, or the loss ignores the targets of all.
        """
        return not any(self._wholes)


class Counts(NamedTuple):
    """What a batch counts for."""

    #: What the mean loss is over, in this process; 0 for a stand-in.
    size: float
    #: How many samples it has.
    samples: float
    #: Of the batches of its update, and which of them it is; None for an evaluation.
    shares: Shares | None
    number: int
    #: How much of that batch it is.
    fraction: float = 1.0


_STAND_IN = Sized(0, 0, None)


class Sizes:
    """How large the batches of a trainer are.

    Args:
        samples_of: says how many samples a batch has.
        size_of: says what its mean loss is over; None: nobody does.
        ordered: the loader's order knows how many samples there are, too.
        criterion: gives the loss, which says it of batches (data, target) if they are in samples.
    """

    def __init__(
        self,
        samples_of: Sizing,
        size_of: Sizing | None,
        ordered: bool,
        criterion: Callable[[], Any],
    ) -> None:
        self.samples_of = samples_of
        self._given = size_of
        if size_of is None and not ordered:
            self._given = samples_of
        self._by_loss = LossSize(criterion, samples_of)
        self._ordered = ordered
        self._alone = distributed.alone()
        self._evaluating = False
        self._fetched: list[Any] = []
        # What this process has of them, and of the next; empty where there is no order.
        self._shares: list[Share | None] = []
        self._next: list[Share | None] = []
        self._sized: dict[int, Sized] = {}

    @property
    def size_of(self) -> Sizing:
        """What says what the mean loss of a batch is over."""
        if self._given is not None:
            return self._given
        return self._by_loss.now()

    @property
    def are_samples(self) -> bool:
        """Whether the mean loss is over samples, as far as is known."""
        return self._ordered and self.size_of == self.samples_of

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Within it, batches are evaluated: each process has as many as it has."""
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False

    def noted(self, batches: Iterator[Any], first: int, loader: Any) -> Iterator[Any]:
        """Pass on batches, from the run's `first` on; their shares are known during their pass."""
        if self._alone or not hasattr(loader, "share"):
            return batches
        return self._noted(batches, first, loader)

    def _noted(self, batches: Iterator[Any], first: int, loader: Any) -> Iterator[Any]:
        length = len(loader)
        for number, batch in enumerate(batches, first):
            passes, k = divmod(number, length)
            self._next.append(loader.share(k, passes + 1))
            yield batch

    def fetch(self, batches: Sequence[Any]) -> list[Any]:
        """Note the batches that are fetched for an update; those that are not empty."""
        #: Batches of the epoch that the update takes.
        self.steps = len(batches)
        self._fetched = [batch for batch in batches if batch is not EMPTY]
        self._shares, self._next = self._next, []
        self._sized = {}
        return self._fetched

    def of(self, batch: Any) -> Sized:
        """How large a batch is: one that was fetched for the update, or one of the user's own.

        What is made of stand-ins counts nothing, as they do.

        Raises:
            DataError: it holds other samples than its share says.
        """
        for number, fetched in enumerate(self._fetched):
            if same_batch(fetched, batch):
                return self._of_fetched(number)
        if OUTSTANDING.weight_of(batch) == 0:
            return _STAND_IN
        if self._stand_ins() == len(self._fetched) > 0:
            return _STAND_IN
        if self._stand_ins() > 0:
            raise UserError(
                "some of an update's batches are stand-ins, and nobody knows of which this one is "
                "made: let self.group(…) have the batches themselves"
            )
        return Sized(*self.measured(batch), None)

    def measured(self, batch: Any) -> tuple[float, float]:
        """What the mean loss of a batch is over, and how many samples it has."""
        size_of = self.size_of
        size = size_of(batch)
        if size_of == self.samples_of:
            return size, size
        return size, self.samples_of(batch)

    def _of_fetched(self, number: int) -> Sized:
        """A fetched batch, measured once."""
        if number not in self._sized:
            share = None
            if self._shares:
                share = self._shares[number]
            self._sized[number] = self._by_order(self._fetched[number], share)
        return self._sized[number]

    def _by_order(self, batch: Any, share: Share | None) -> Sized:
        """A fetched batch, as far as the order tells how large the whole of it is."""
        size, samples = self.measured(batch)
        if share is None:
            return Sized(size, samples, None)
        # Beyond the order, an iteration of the user's own gives batches that are no stand-ins.
        if share.mine == 0 and share.whole > 0:
            size = 0
            samples = 0
        if not (self._ordered and share.exact):
            return Sized(size, samples, None)
        if samples != share.mine:
            what = f"a part of {share.mine} samples holds {samples}"
            raise DataError(f"{what}, as if __getitems__ left some out")
        if self.size_of != self.samples_of:
            return Sized(size, samples, None)
        return Sized(size, samples, share.whole)

    def _stand_ins(self) -> int:
        """How many of the fetched batches are stand-ins."""
        samples = [self._of_fetched(number).samples for number in range(len(self._fetched))]
        return samples.count(0)

    def shares(self, batches: Sequence[Any]) -> Shares:
        """What the batches of an update count for."""
        if self._alone:
            size_of = self.size_of
            sizes = [size_of(batch) for batch in batches]
            samples = sizes
            if size_of != self.samples_of:
                samples = [self.samples_of(batch) for batch in batches]
            return Shares(sizes, sizes, samples)
        return self._measured(batches)

    def _measured(self, batches: Sequence[Any]) -> Shares:
        """What batches count for that several processes have shares of."""
        measured = [self.of(batch) for batch in batches]
        sizes = [sized.size for sized in measured]
        samples = [sized.samples for sized in measured]
        wholes = [sized.whole for sized in measured if sized.whole is not None]
        if len(wholes) < len(sizes):
            return Shares(sizes, None, samples)
        return Shares(sizes, wholes, samples)

    def counts(self, batch: Any) -> Counts:
        """What a batch counts for in an evaluation, or in a loop of the user's own."""
        if self._alone or self._evaluating or not torch.is_grad_enabled():
            return Counts(*self.measured(batch), None, 0)
        shares = self.shares([batch])
        return Counts(shares.sizes[0], shares.samples[0], shares, 0)
