"""The batches of one update: what each counts for, and the door through which every update goes.

with self.group(batches) as group:
    for batch in group:
        self.backward(self.compute(batch))
    group.step(self.optimizer)
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Protocol

import torch
from torch.optim import Optimizer

from machinery import distributed
from machinery.errors import UserError
from machinery.order.outstanding import same_batch
from machinery.update.runtime import Runtime
from machinery.update.sizes import Counts, Sizes
from machinery.update.whole_batch import note_share

Again = Callable[[], None]


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
        #: What the mean loss is over, in this process; 0 for a stand-in.
        self.size = counts.size
        #: Samples of this process; 0 for a stand-in.
        self.samples = counts.samples
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
        self._runtime.to_training()
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
        """What a batch counts for, as `_counts` has it; noted for `whole_batch`."""
        found = self._counts(batch)
        note_share(found.samples)
        return found

    def _counts(self, batch: Any) -> Counts:
        """What a batch counts for: one of the group's, or one made of that in hand.

        What is made of a part of it counts for that part.
        """
        shares = self._shares
        for number, other in enumerate(self.batches):
            if other is batch or same_batch(other, batch):
                return Counts(shares.sizes[number], shares.samples[number], shares, number)
        if self._current is None:
            hint = "for batch in group: self.backward(self.compute(…))"
            raise UserError(f"a batch is none of the update's, and made of none in hand: {hint}")
        whole = shares.sizes[self._current]
        if whole == 0:  # a stand-in
            return Counts(0, 0, shares, self._current)
        samples = self._sizes.samples_of(batch)
        if samples == shares.samples[self._current]:  # all of it, whatever has become of the target
            return Counts(whole, samples, shares, self._current)
        size = self._sizes.size_of(batch)
        return Counts(size, samples, shares, self._current, size / whole)

    def counts_first(self, counts: Counts) -> bool:
        """Whether samples are computed for the first time, and so to be counted."""
        counted = self._counted.get(counts.number, 0) + counts.samples
        if counted > self._shares.samples[counts.number]:
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
        if self._shares.nothing():  # zeros as gradients would move weights by momentum and decay
            self._runtime.clear(optimizers)
            optimizers = ()
            again = None
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
