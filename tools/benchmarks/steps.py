"""Steps of one model, by the template, by hand, and by other libraries."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from machinery.order import seeding
from model.loss import cross_entropy, nll_loss
from model.model import MnistModel
from tools.benchmarks import libraries
from tools.benchmarks.libraries import Library, Task
from tools.benchmarks.loops import Case, device, digits, make_trainer, resident, timed
from tools.benchmarks.paired import ByHand, Data, Pair, PairedTrainer, Stopwatch


class Vectors(torch.utils.data.Dataset[Any]):
    """Whole-batch data for a linear model on a device, with no randomness of its own."""

    draws_from = ()

    def __init__(self, n: int, width: int) -> None:
        self.x = torch.randn(n, width, generator=torch.Generator().manual_seed(0))
        self.y = torch.arange(n) % 4

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> None:
        """Move the data."""
        self.x = self.x.to(device)
        self.y = self.y.to(device)

    def __getitems__(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x.index_select(0, indices), self.y.index_select(0, indices)


class _Steps:
    """Steps of a linear model: by each side, on the same batches.

    Args:
        folder: for what is written.
        data: of the model.
        epochs: over the data.
    """

    _SIZE = 16

    def __init__(self, folder: Path, data: Vectors, epochs: int) -> None:
        self._folder = folder
        self._data = data
        self._epochs = epochs
        self._updates = epochs * len(data) // self._SIZE
        #: Ours of the last run.
        self._loss: float | None = None

    def _model(self) -> nn.Module:
        seeding.seed_everything(1, "model")
        return nn.Linear(self._data.x.shape[1], 4).to(device())

    def ours(self) -> float:
        """Seconds of the template."""
        settings: dict[str, Any] = {
            "epochs": self._epochs,
            "tensorboard": False,
            "save_period": 1000,
        }
        loader = resident(self._data, self._SIZE)
        trainer = make_trainer(self._folder, self._model(), loader, None, cross_entropy, **settings)
        seconds = timed(trainer.train)
        self._loss = trainer.train_metrics.avg("loss")
        return seconds / self._updates

    def bare(self) -> float:
        """Seconds of the loop by hand."""
        linear = self._model()
        data = Data(self._data.x.to(device()), self._data.y.to(device()))
        losses: list[float] = []
        seconds = timed(self._by_hand, linear, data, losses)
        if self._loss is not None:
            assert abs(self._loss - losses[-1]) < 1e-6, (self._loss, losses[-1])
        return seconds / self._updates

    def _by_hand(self, linear: nn.Module, data: Data, losses: list[float]) -> None:
        """Train; add the loss of each epoch."""
        n = len(data.y)
        by_hand = ByHand(linear, data, self._SIZE, cross_entropy)
        for epoch in range(1, self._epochs + 1):
            order = seeding.permutation(n, seeding.root_seed(), "train", "order", epoch)
            order = order.to(device())
            losses.append(by_hand.epoch(order))


def in_turn(
    folder: Path,
    n: int,
    width: int = 8,
    epochs: int = 1,
    name: str = "step of a linear model",
) -> Case:
    """Steps of a tiny model: what is left is the loop's own time. Both sides see the same batches.

    Args:
        n: samples.
        width: numbers in a sample.
        epochs: over the samples.
        name: of the case.
    """
    sides = _Steps(folder, Vectors(n, width), epochs)
    return Case(name, "step", sides.ours, sides.bare, grows=True)


class _Paired:
    """A step of a model in pairs: of the template, or of another library, and by hand.

    Args:
        folder: for what is written.
        data: whole-batch data of ours; `on_device` is what it gives.
        size: of a batch.
        network: makes the model, always the same.
        loss_of: the mean over a batch.
    """

    def __init__(
        self,
        folder: Path,
        data: Any,
        on_device: Data,
        size: int,
        network: Callable[[], nn.Module],
        loss_of: Any,
    ) -> None:
        self._folder = folder
        self._data = data
        self._on_device = on_device
        self._size = size
        self._network = network
        self._loss_of = loss_of

    def _model(self) -> nn.Module:
        seeding.seed_everything(1, "model")
        return self._network().to(device())

    def _stopwatch(self) -> Stopwatch:
        twin = ByHand(self._model(), self._on_device, self._size, self._loss_of)
        order = torch.randperm(len(self._on_device.y), generator=torch.Generator().manual_seed(0))
        return Stopwatch(twin.steps(order.to(device())))

    def ours(self) -> Pair:
        """The template's."""
        settings: dict[str, Any] = {"tensorboard": False, "save_period": 1000}
        loader = resident(self._data, self._size)
        trainer = make_trainer(
            self._folder,
            self._model(),
            loader,
            None,
            self._loss_of,
            trainer_class=PairedTrainer,
            **settings,
        )
        assert isinstance(trainer, PairedTrainer)
        trainer.stopwatch = self._stopwatch()
        trainer.train()
        return trainer.stopwatch.pair()

    def other(self, library: Library) -> Pair:
        """Another library's."""
        data = Data(self._on_device.x.cpu(), self._on_device.y.cpu())
        stopwatch = self._stopwatch()
        task = Task(
            self._model(),
            data,
            None,
            self._size,
            self._loss_of,
            device(),
            self._folder,
            stopwatch.stepped,
        )
        library(task)
        return stopwatch.pair()

    def case(self, name: str) -> Case:
        """Both sides, and other libraries."""
        others = {key: partial(self.other, each) for key, each in libraries.installed().items()}
        return Case(name, "step", together=self.ours, others=others)


def paired_linear(folder: Path, n: int) -> Case:
    """A step of a linear model, batch 16: what is left is the loop's own time."""
    data = Vectors(n, 8)
    on_device = Data(data.x.to(device()), data.y.to(device()))
    network = partial(nn.Linear, 8, 4)
    paired = _Paired(folder, data, on_device, 16, network, cross_entropy)
    return paired.case("step of a linear model, batch 16")


def paired_lenet(folder: Path, copies: int) -> Case:
    """A step of LeNet, batch 64.

    Args:
        copies: of the bundled digits.
    """
    data = digits(copies)
    on_device = Data(data.images.to(device()), data.labels.to(device()))
    paired = _Paired(folder, data, on_device, 64, MnistModel, nll_loss)
    return paired.case("step of LeNet, batch 64")
