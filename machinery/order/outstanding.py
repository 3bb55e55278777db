"""What batches count for in a loop of the user's own, on several processes.

Such a loop computes `criterion(model(data), target)` and says to nobody which batch it is. So the
gradients are weighted as the batches ask for that have been handed out and not been learnt from.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from machinery.errors import UserError
from machinery.order.generators import own_generators as own_generators, state_of as state_of


def first_tensor(batch: Any) -> torch.Tensor | None:
    """The first tensor of a batch, in the order of its containers."""
    for tensor in tensors_in(batch):
        return tensor
    return None


def tensors_in(batch: Any) -> Iterator[torch.Tensor]:
    """The tensors of a batch, in the order of its containers."""
    if isinstance(batch, torch.Tensor):
        yield batch
        return
    values: Iterable[Any] = ()
    if isinstance(batch, list | tuple):
        values = batch
    elif isinstance(batch, Mapping):
        values = batch.values()
    for value in values:
        yield from tensors_in(value)


def times_written(tensor: torch.Tensor) -> int:
    """How often a tensor has been written into; those made for inference alone don't count it."""
    if tensor.is_inference():
        return 0
    return tensor._version


def same_batch(first: Any, second: Any) -> bool:
    """Whether two batches are one: the same object, or put together anew of the same tensors."""
    if first is second:
        return True
    tensor = first_tensor(first)
    return tensor is not None and tensor is first_tensor(second)


class _Pass:
    """The batches that one pass over a loader has handed out, oldest first, with their weights."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, float]] = []
        #: Whether there was a backward pass since the last of them was handed out, and at all.
        self.learnt = False
        self.ever_learnt = False


class Outstanding:
    """The batches that bare iterations have handed out, and that nobody has learnt from yet."""

    def __init__(self) -> None:
        self._passes: dict[int, _Pass] = {}
        self._weighted = False
        #: Whether the loss whose gradients are computed counts nothing.
        self.is_nothing = False

    def begin(self, loader: Any) -> None:
        """A pass over a loader begins; what the one before has left is forgotten."""
        self._passes[id(loader)] = _Pass()

    def hand_out(self, loader: Any, batch: Any, weight: float) -> None:
        """Note a batch that counts for `weight`.

        If there was a backward pass since the loader's last one, it was on the oldest.
        """
        current = self._passes[id(loader)]
        if current.learnt and current.batches:
            del current.batches[0]
        current.learnt = False
        current.batches.append((batch, weight))

    def end(self, loader: Any) -> None:
        """A pass has ended; one that nobody has learnt from was an evaluation."""
        if not self._passes[id(loader)].ever_learnt:
            self._passes[id(loader)].batches.clear()

    def weight_of(self, batch: Any) -> float | None:
        """What a batch counts for; None if no bare iteration has handed it out."""
        for current in self._passes.values():
            for other, weight in current.batches:
                if same_batch(other, batch):
                    return weight
        return None

    def learnt(self) -> float:
        """What the gradients of a backward pass count for that says of no batch.

        Raises:
            UserError: nobody can tell which batch it is on.
        """
        if self._weighted:
            return 1.0
        weights = set()
        self._learn()
        for current in self._passes.values():
            for _, weight in current.batches:
                weights.add(weight)
        if len(weights) > 1:
            raise UserError(
                "batches that count for different weights are under way, and nobody says which one "
                "this loss is of:\n  with self.group([batch]) as group: "
                "self.backward(self.compute(batch)); group.step(self.optimizer)"
            )
        return weights.pop() if weights else 1.0

    def _learn(self) -> None:
        """Note a backward pass."""
        for current in self._passes.values():
            current.learnt = True
            current.ever_learnt = True

    @contextmanager
    def weighted(self, nothing: bool) -> Iterator[None]:
        """Within it, losses have been weighted already.

        Args:
            nothing: with 0.
        """
        self._weighted = True
        self.is_nothing = nothing
        try:
            yield
        finally:
            self._weighted = False
            self.is_nothing = False
            self._learn()


#: Those of this process.
OUTSTANDING = Outstanding()
