"""Steps in pairs: after each of a loop's, one of a twin by hand, in one process.

Whole epochs vary with whatever else a machine does; two steps side by side meet the same of it.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from trainer import Trainer

#: Pairs at the start, which pay for what comes once.
_FIRST = 50


class Data(NamedTuple):
    """Samples, and their classes."""

    x: torch.Tensor
    y: torch.Tensor


class Pair(NamedTuple):
    """The seconds of both sides."""

    ours: float
    bare: float

    @property
    def ratio(self) -> float:
        """What ours takes, in relation to the other."""
        return self.ours / self.bare


class ByHand:
    """A loop written by hand: batches sliced from tensors, SGD, the sums of loss and hits.

    Args:
        model: on the device of the data.
        data: to train on.
        size: of a batch.
        loss_of: the mean over a batch.
    """

    def __init__(self, model: nn.Module, data: Data, size: int, loss_of: Any) -> None:
        self._model = model
        self._data = data
        self._size = size
        self._loss_of = loss_of
        self._optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        self._loss = torch.zeros((), dtype=torch.float64, device=data.x.device)
        self._hits = torch.zeros((), dtype=torch.float64, device=data.x.device)

    def epoch(self, order: torch.Tensor) -> float:
        """Train on all samples of an order; their mean loss."""
        self._loss.zero_()
        self._hits.zero_()
        self._model.train()
        for k in range(0, len(order), self._size):
            self.step(order[k : k + self._size])
        return float(self._loss) / len(order)

    def step(self, batch: torch.Tensor) -> None:
        """Train on the samples with these indices."""
        output = self._model(self._data.x.index_select(0, batch))
        target = self._data.y.index_select(0, batch)
        loss = self._loss_of(output, target)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._loss.add_(loss.detach(), alpha=len(target))
        self._hits += (output.argmax(1) == target).sum()

    def steps(self, order: torch.Tensor) -> Callable[[], None]:
        """A function that takes the next step of an order, over and over."""
        batches = [*order.split(self._size)]
        self._model.train()
        taken = 0

        def step() -> None:
            nonlocal taken
            self.step(batches[taken % len(batches)])
            taken += 1

        return step


class Stopwatch:
    """Times the steps of a loop, and a step by hand after each.

    Args:
        by_hand: takes one.
    """

    def __init__(self, by_hand: Callable[[], None]) -> None:
        self._by_hand = by_hand
        self._began: float | None = None
        self._theirs: list[float] = []
        self._bare: list[float] = []

    def stepped(self) -> None:
        """To be called after each step of the loop."""
        now = _now()
        if self._began is not None:
            self._theirs.append(now - self._began)
        self._by_hand()
        self._began = _now()
        self._bare.append(self._began - now)

    def pair(self) -> Pair:
        """The medians of both sides."""
        theirs = statistics.median(self._theirs[_FIRST:])
        return Pair(theirs, statistics.median(self._bare[_FIRST:]))


def _now() -> float:
    """The time at which all is done, also what the GPU has still to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class PairedTrainer(Trainer):
    """The template's loop under a stopwatch."""

    stopwatch: Stopwatch

    def _after_update(self, batches: int) -> None:
        super()._after_update(batches)
        self.stopwatch.stepped()
