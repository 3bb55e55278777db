"""The batches of one update: what each counts for, and the door through which every update goes.

with self.group(batches) as group:
    for batch in group:
        self.backward(self.compute(batch))
    group.step(self.optimizer)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import torch
from torch.optim import Optimizer

from machinery import distributed
from machinery.errors import DataError, UserError
from machinery.order.batches import Share
from machinery.order.outstanding import OUTSTANDING, same_batch
from machinery.update.runtime import Runtime

Again = Callable[[], None]


class Sized(NamedTuple):
    """How large a batch is: in samples, tokens or whatever the mean loss is over."""

    #: Of this process' share; 0 for a stand-in, which counts nothing.
    size: float
    #: Of the shares of all processes together; None: they have to be asked.
    whole: float | None


class Shares:
    """What the batches of one update count for.

    How large the whole batches are that several processes have shares of is added up while they
    compute, if nobody knows.

    Args:
        sizes: of what this process has of the batches.
        wholes: of the whole batches, if they are known.
    """

    def __init__(self, sizes: list[float], wholes: list[float] | None) -> None:
        self.sizes = sizes
        #: Whether the mean of each batch is what is wanted, as of one batch of one process.
        self.plain = wholes is sizes and len(sizes) == 1 and sizes[0] != 0
        self._wait: Callable[[], list[float]] | None = None
        self._wholes: list[float] = []
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


class Counts(NamedTuple):
    """What a batch counts for."""

    #: Samples of this process; 0 for a stand-in.
    size: float
    #: Of the batches of its update, and which of them it is; None for an evaluation.
    shares: Shares | None
    number: int
    #: How much of that batch it is.
    fraction: float = 1.0


class Sizes:
    """How large the batches of a trainer are.

    Args:
        size_of: says it of a batch: samples, tokens or whatever the mean loss is over.
        in_samples: sizes are numbers of samples.
    """

    def __init__(self, size_of: Callable[[Any], float], in_samples: bool) -> None:
        self.size_of = size_of
        self._in_samples = in_samples
        self._alone = distributed.alone()
        self._fetched: list[Any] = []
        # What this process has of them, and of the next; empty where there is no order.
        self._shares: list[Share | None] = []
        self._next: list[Share | None] = []
        self._sized: dict[int, Sized] = {}

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

    def fetch(self, batches: Sequence[Any]) -> None:
        """Note the batches that are fetched for an update."""
        self._fetched = list(batches)
        self._shares, self._next = self._next, []
        self._sized = {}

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
            return Sized(0, None)
        if self._stand_ins() == len(self._fetched) > 0:
            return Sized(0, None)
        if self._stand_ins() > 0:
            raise UserError(
                "some of an update's batches are stand-ins, and nobody knows of which this one is "
                "made: let self.group(…) have the batches themselves"
            )
        return Sized(self.size_of(batch), None)

    def _of_fetched(self, number: int) -> Sized:
        """A fetched batch, measured once."""
        if number not in self._sized:
            size = self.size_of(self._fetched[number])
            share = None
            if self._shares:
                share = self._shares[number]
            self._sized[number] = _by_order(size, share, self._in_samples)
        return self._sized[number]

    def _stand_ins(self) -> int:
        """How many of the fetched batches count nothing."""
        sizes = [self._of_fetched(number).size for number in range(len(self._fetched))]
        return sizes.count(0)

    def shares(self, batches: Sequence[Any]) -> Shares:
        """What the batches of an update count for."""
        if self._alone:
            sizes = [self.size_of(batch) for batch in batches]
            return Shares(sizes, sizes)
        measured = [self.of(batch) for batch in batches]
        sizes = [sized.size for sized in measured]
        wholes = [sized.whole for sized in measured if sized.whole is not None]
        if len(wholes) < len(sizes):
            return Shares(sizes, None)
        return Shares(sizes, wholes)

    def counts(self, batch: Any) -> Counts:
        """What a batch counts for in an evaluation, or in a loop of the user's own."""
        if self._alone or not torch.is_grad_enabled():
            return Counts(self.size_of(batch), None, 0)
        shares = self.shares([batch])
        return Counts(shares.sizes[0], shares, 0)


def _by_order(size: float, share: Share | None, in_samples: bool) -> Sized:
    """A fetched batch, as far as the order tells how large the whole of it is."""
    if share is None:
        return Sized(size, None)
    # Beyond the order, an iteration of the user's own gives batches that are no stand-ins.
    if share.mine == 0 and share.whole > 0:
        size = 0
    if not (in_samples and share.exact):
        return Sized(size, None)
    if size != share.mine:
        what = f"a part of {share.mine} samples holds {size}"
        raise DataError(f"{what}, as if __getitems__ left some out")
    return Sized(size, share.whole)


class Computed:
    """What a forward pass has made of a batch.

    Args:
        terms: the loss terms by name.
        output, target: what the metrics take.
        counts: what the batch counts for.
        group: the update that it is of; None outside of one.
    """

    def __init__(
        self,
        terms: dict[str, torch.Tensor],
        output: Any,
        target: Any,
        counts: Counts,
        group: "Group | None",
    ) -> None:
        self.terms = terms
        self.output = output
        self.target = target
        #: Samples of this process; 0 for a stand-in.
        self.size = counts.size
        #: Which batch of its update it is.
        self.number = counts.number
        self.group = group
        self._counts = counts
        #: Whether the loss has a weight other than 1.
        self.weighs = counts.shares is not None and not counts.shares.plain
        if counts.fraction != 1:
            self.weighs = True

    def __iter__(self) -> Iterator[Any]:
        """The terms, the output and the target, as `_forward` returns them."""
        return iter((self.terms, self.output, self.target))

    @property
    def weight(self) -> float:
        """What the loss is multiplied by, so that the update's gradients are those of its mean.

        Waits for the other processes if they have to say how large their shares are.
        """
        if self._counts.shares is None:
            return 1.0
        return self._counts.shares.weight(self._counts.number) * self._counts.fraction

    def kept(self) -> "Computed":
        """The same for after a step, which changes the weights that terms may be views of."""
        terms = {}
        for name, term in self.terms.items():
            if isinstance(term, torch.Tensor):
                term = term.detach().clone()
            terms[name] = term
        return Computed(terms, self.output, self.target, self._counts, self.group)


class Step(Protocol):
    """Lets optimizers apply the gradients of a group; False if the update is skipped."""

    def __call__(
        self, group: "Group", optimizers: Sequence[Optimizer], again: Again | None
    ) -> bool: ...


class Group:
    """Batches that make up one update, as if they were one large batch.

    It can be gone through more than once, as for two networks in turn.

    Args:
        batches: of this process.
        sizes: how large they are.
        runtime: how they are computed.
        step: lets optimizers apply the gradients.
        keep: keeps what an update that is skipped has to put back; None: none is skipped.
    """

    def __init__(
        self,
        batches: Iterable[Any],
        sizes: Sizes,
        runtime: Runtime,
        step: Step,
        keep: Callable[[], Callable[[], None]] | None,
    ) -> None:
        self.batches = list(batches)
        #: Whether it is being computed.
        self.open = False
        #: The losses since the last step, and what each counts for.
        self.losses: list[torch.Tensor] = []
        self.weights: list[float] = []
        # The numbers of their batches.
        self._learnt: set[int] = set()
        #: What has been computed, and is counted once its step applies.
        self.uncounted: list[Computed] = []
        self._sizes = sizes
        self._shares = sizes.shares(self.batches)
        self._runtime = runtime
        self._step = step
        self._keep = keep
        self._put_back: Callable[[], None] | None = None
        # The batch that is being computed, and how many of a pass have been handed out.
        self._current: int | None = None
        self._handed_out = 0
        self._stepped = False
        # How many samples of each batch have been counted.
        self._counted: dict[int, float] = {}

    def __enter__(self) -> "Group":
        self.open = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Refuse an update that has ended without a step; leave no gradients behind.

        Raises:
            UserError: its gradients would go into the next one.
        """
        self.open = False
        if error is not None:
            self._runtime.clear(())
        elif not self._stepped:
            raise UserError("an update has ended without group.step(optimizer)")
        elif self.losses:
            raise UserError("an update has added gradients after its last group.step(optimizer)")

    def __iter__(self) -> Iterator[Any]:
        """The batches; gradients are averaged over processes in the last one's backward pass."""
        if self._keep is not None and self._put_back is None:
            self._put_back = self._keep()
        no_sync = self._runtime.no_sync
        last = len(self.batches) - 1
        for k, batch in enumerate(self.batches):
            self._current = k
            self._handed_out = k + 1
            if k == last or no_sync is None:
                yield batch
            else:
                with no_sync():
                    yield batch
        self._current = None

    def counts(self, batch: Any) -> Counts:
        """What a batch counts for: one of the group's, or one made of that in hand.

        What is made of a part of it counts for that part.
        """
        sizes = self._shares.sizes
        for number, other in enumerate(self.batches):
            if other is batch or same_batch(other, batch):
                return Counts(sizes[number], self._shares, number)
        if self._current is None:
            hint = "for batch in group: self.backward(self.compute(…))"
            raise UserError(f"a batch is none of the update's, and made of none in hand: {hint}")
        whole = sizes[self._current]
        if whole == 0:  # a stand-in
            return Counts(0, self._shares, self._current)
        size = self._sizes.size_of(batch)
        return Counts(size, self._shares, self._current, size / whole)

    def counts_first(self, counts: Counts) -> bool:
        """Whether samples are computed for the first time, and so to be counted."""
        counted = self._counted.get(counts.number, 0) + counts.size
        if counted > self._shares.sizes[counts.number]:
            return False
        self._counted[counts.number] = counted
        return True

    def add_loss(self, loss: torch.Tensor, weight: float, number: int) -> None:
        """Note a loss whose gradients are added, what it counts for, and of which batch it is."""
        self._learnt.add(number)
        if weight == 0:  # a loss over no samples is NaN
            loss = torch.zeros_like(loss)
        self.losses.append(loss)
        self.weights.append(weight)

    def take_mean(self) -> torch.Tensor:
        """The mean loss over all samples, of all processes, since the last step or mean.

        Raises:
            UserError: not all batches have added their gradients.
        """
        self._check_complete()
        mean = torch.zeros_like(self.losses[0])
        for loss, weight in zip(self.losses, self.weights, strict=True):
            mean = mean + loss * weight
        self.forget_losses()
        return distributed.average(mean)  # the same everywhere

    def forget_losses(self) -> None:
        """Begin to collect losses anew."""
        self._learnt = set()
        self.losses = []
        self.weights = []

    def step(self, *optimizers: Optimizer, again: Again | None = None) -> bool:
        """Unscale, clip and apply the gradients, and clear those of all optimizers.

        Args:
            optimizers: which apply their gradients.
            again: adds the gradients once more, for an optimizer that computes its loss several
                times a step, such as LBFGS.

        Returns:
            False if the update is skipped, because its loss is not finite.

        Raises:
            UserError: not all batches have added their gradients, or there is no optimizer.
        """
        if not self.open:
            raise UserError("group.step(optimizer) belongs into: with self.group(batches) as group")
        if not optimizers:
            raise UserError("group.step() has no optimizer: group.step(self.optimizer)")
        for optimizer in optimizers:
            if not hasattr(optimizer, "param_groups"):
                raise _no_optimizer(optimizer)
        self._check_complete()
        self._stepped = True
        applied = self._step(self, optimizers, again)
        if not applied:
            self._counted = {}
            if self._put_back is not None:
                self._put_back()
        self._put_back = None
        self.forget_losses()
        self.uncounted = []
        return applied

    def _check_complete(self) -> None:
        """Refuse a step on gradients of some batches alone."""
        total = len(self.batches)
        if 0 < total == len(self._learnt) and self._handed_out == total:
            return
        if total == 0:
            raise UserError("an update has no batches: leave an empty group out")
        if self._handed_out < total:
            done = f"{self._handed_out} of the group's {total} batches"
            hint = "for batch in group: …"
            raise UserError(f"an update has gone through {done} only, its step is wrong: {hint}")
        done = f"{len(self._learnt)} of the group's {total} batches"
        hint = "self.backward(self.compute(batch)) for each"
        raise UserError(f"an update has the gradients of {done} only: {hint}")


def _no_optimizer(found: Any) -> UserError:
    """The error that says what stands in an optimizer's place."""
    hint = "group.step(first, second), and again=… for what computes the loss again"
    return UserError(f"group.step takes optimizers, found a {type(found).__name__}: {hint}")
