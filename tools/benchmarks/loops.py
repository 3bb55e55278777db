"""The template's loops against loops written by hand, in one process, on the same data."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from base import BaseDataLoader
from data_loader.data_loaders import MNIST_MEAN, MNIST_STD, DigitsDataLoader, InMemoryImages
from machinery.checkpoints import file as checkpoint
from machinery.order import seeding
from model.loss import cross_entropy, nll_loss
from model.metric import accuracy
from model.model import MnistModel
from parse_config import ConfigParser
from tools.benchmarks import libraries
from tools.benchmarks.libraries import Data, Library, Task
from trainer import Trainer

Side = Callable[[], float]


class Pair(NamedTuple):
    """The seconds of both sides."""

    ours: float
    bare: float

    @property
    def ratio(self) -> float:
        """What ours takes, in relation to the other."""
        return self.ours / self.bare


@dataclass(frozen=True)
class Case:
    """What two sides do: each returns seconds; `unit` says of what.

    Attributes:
        name: in the table, 37 letters at most.
        others: other libraries that do the same, by name.
        grows: whether its peak memory is of interest.
    """

    name: str
    unit: str
    ours: Side
    bare: Side
    others: Mapping[str, Side] = field(default_factory=dict)
    grows: bool = False

    def run(self) -> Pair:
        """Run both sides."""
        ours = self.ours()
        return Pair(ours, self.bare())


def timed(function: Callable[..., Any], *args: Any) -> float:
    """Seconds that a call takes, with what the GPU has still to do."""
    started = time.perf_counter()
    function(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def make_trainer(
    folder: Path,
    model: nn.Module,
    loader: BaseDataLoader,
    valid: Any,
    criterion: Any,
    fused: bool = False,
    **settings: Any,
) -> Trainer:
    """A trainer on a loader, with everything logged.

    Args:
        valid: a loader, too, or None.
        fused: whether the optimizer is.
        settings: of the trainer.
    """
    config = ConfigParser(
        {
            "name": "Benchmark",
            "n_gpu": int(torch.cuda.is_available()),
            "arch": {"type": type(model).__name__},
            "data_loader": {"type": "DigitsDataLoader"},
            "optimizer": {"type": "SGD", "args": {"lr": 0.01}},
            "loss": criterion.__name__,
            "metrics": ["accuracy"],
            "trainer": {"epochs": 1, "save_dir": str(folder), "verbosity": 0, **settings},
        }
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
    return Trainer(model, criterion, [accuracy], optimizer, config, device(), loader, valid)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")


def digits(copies: int) -> InMemoryImages:
    """The bundled training digits, repeated."""
    data: Any = DigitsDataLoader().dataset
    images = (data.images * MNIST_STD + MNIST_MEAN).mul(255).round().byte()[:, 0]
    images = images.repeat(copies, 1, 1)
    return InMemoryImages(images, data.labels.repeat(copies), MNIST_MEAN, MNIST_STD)


def resident(data: Any, size: int, shuffle: bool = True, split: float = 0.0) -> BaseDataLoader:
    """A loader whose batches are made where the model is, as the bare loops' are."""
    return BaseDataLoader(data, size, shuffle, split, 0)


def bare_epoch(model: nn.Module, data: Data, order: torch.Tensor, size: int, loss_of: Any) -> float:
    """A hand-written epoch of SGD: batches sliced from tensors; the mean loss."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total = torch.zeros((), dtype=torch.float64, device=data.x.device)
    hits = torch.zeros((), dtype=torch.float64, device=data.x.device)
    model.train()
    for k in range(0, len(order), size):
        batch = order[k : k + size]
        output = model(data.x.index_select(0, batch))
        target = data.y.index_select(0, batch)
        loss = loss_of(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total.add_(loss.detach(), alpha=len(target))
        hits += (output.argmax(1) == target).sum()
    return float(total) / len(order)


def bare_evaluation(model: nn.Module, data: Data, indices: torch.Tensor, loss_of: Any) -> float:
    """A hand-written evaluation; the mean loss."""
    total = torch.zeros((), dtype=torch.float64, device=data.x.device)
    hits = torch.zeros((), dtype=torch.float64, device=data.x.device)
    model.eval()
    with torch.no_grad():
        for k in range(0, len(indices), 64):
            batch = indices[k : k + 64]
            output = model(data.x.index_select(0, batch))
            target = data.y.index_select(0, batch)
            total.add_(loss_of(output, target), alpha=len(target))
            hits += (output.argmax(1) == target).sum()
    return float(total) / len(indices)


def small_resnet() -> nn.Module:
    """A residual network of eight convolutions for digits."""
    from torchvision.models.resnet import BasicBlock, ResNet

    resnet = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
    return nn.Sequential(nn.Conv2d(1, 3, 1), resnet, nn.LogSoftmax(dim=1))


class _Epoch:
    """A whole epoch of a network on the digits, with validation: by each side.

    Args:
        folder: for what is written.
        data: the digits.
        network: makes the network.
        switches: of our trainer.
    """

    def __init__(
        self,
        folder: Path,
        data: InMemoryImages,
        network: Callable[[], nn.Module],
        switches: dict[str, Any],
    ) -> None:
        self._folder = folder
        self._data = data
        self._network = network
        self._switches = switches
        self._on_device = Data(data.images.to(device()), data.labels.to(device()))

    def _model(self) -> nn.Module:
        return self._network().to(device())

    def _loader(self) -> BaseDataLoader:
        return resident(self._data, 64, split=0.1)

    def ours(self) -> float:
        """Seconds of the template."""
        train = self._loader()
        valid = train.split_validation()
        model = self._model()
        trainer = make_trainer(self._folder, model, train, valid, nll_loss, **self._switches)
        return timed(trainer.train)

    def bare(self) -> float:
        """Seconds of the loop by hand."""
        train = self._loader()
        sampler: Any = train.sampler
        kept = torch.as_tensor(sampler.indices)
        order = kept[torch.randperm(len(kept))].to(device())
        held_out = torch.as_tensor(train.valid_sampler.indices).to(device())
        return timed(self._by_hand, self._model(), order, held_out)

    def _by_hand(self, model: nn.Module, order: torch.Tensor, held_out: torch.Tensor) -> None:
        bare_epoch(model, self._on_device, order, 64, nll_loss)
        bare_evaluation(model, self._on_device, held_out, nll_loss)

    def other(self, library: Library) -> float:
        """Seconds of another library."""
        loader = self._loader()
        sampler: Any = loader.sampler
        train = self._part(sampler.indices)
        valid = self._part(loader.valid_sampler.indices)
        task = Task(self._model(), train, valid, 64, nll_loss, device(), self._folder)
        return library(task)

    def _part(self, indices: Any) -> Data:
        wanted = torch.as_tensor(indices)
        return Data(self._data.images[wanted], self._data.labels[wanted])


def lenet(
    folder: Path,
    copies: int,
    network: Callable[[], nn.Module] = MnistModel,
    name: str = "LeNet",
    **tuned: Any,
) -> Case:
    """A whole epoch of a network with validation, checkpoints and TensorBoard.

    Args:
        copies: of the bundled digits.
        tuned: the switches that `tools/tune.py` recommends for it, against the plain bare loop.
    """
    data = digits(copies)
    epoch = _Epoch(folder, data, network, tuned)
    what = f"epoch of {name}, {len(data):,} digits"
    if tuned:
        return Case(f"{what}, tuned", "epoch", epoch.ours, epoch.bare)
    others = {}
    for key, library in libraries.installed().items():
        others[key] = partial(epoch.other, library)
    return Case(what, "epoch", epoch.ours, epoch.bare, others)


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
        for epoch in range(1, self._epochs + 1):
            order = seeding.permutation(n, seeding.root_seed(), "train", "order", epoch)
            order = order.to(device())
            losses.append(bare_epoch(linear, data, order, self._SIZE, cross_entropy))

    def other(self, library: Library) -> float:
        """Seconds of another library."""
        data = Data(self._data.x.cpu(), self._data.y.cpu())
        model = self._model()
        task = Task(model, data, None, self._SIZE, cross_entropy, device(), self._folder)
        return library(task) / self._updates


def steps(
    folder: Path,
    n: int,
    width: int = 8,
    epochs: int = 1,
    name: str = "step of a linear model",
    grows: bool = True,
) -> Case:
    """Steps of a tiny model: what is left is the loop's own time. Both sides see the same batches.

    Args:
        n: samples.
        width: numbers in a sample.
        epochs: over the samples.
        name: of the case.
        grows: whether its peak memory is of interest, rather than what other libraries take.
    """
    sides = _Steps(folder, Vectors(n, width), epochs)
    others = {}
    if not grows:
        for key, library in libraries.installed().items():
            others[key] = partial(sides.other, library)
    return Case(name, "step", sides.ours, sides.bare, others, grows)


def validation(folder: Path) -> Case:
    """The evaluation loop."""
    images = digits(5)
    model = MnistModel().to(device())
    data = Data(images.images.to(device()), images.labels.to(device()))
    indices = torch.arange(len(images)).to(device())
    trainer = make_trainer(folder, model, resident(images, 64), None, nll_loss)
    loader = resident(images, 64, shuffle=False)
    ours = partial(timed, trainer.evaluate, loader)
    bare = partial(timed, bare_evaluation, model, data, indices, nll_loss)
    return Case(f"validation of {len(images):,} digits", "pass", ours, bare)


class _Pictures(torch.utils.data.Dataset[Any]):
    """Digits as torchvision's MNIST has them: pictures, one by one."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, transform: Any) -> None:
        from torchvision.transforms.functional import to_pil_image

        self._pictures = [to_pil_image(image * MNIST_STD + MNIST_MEAN) for image in images]
        self._labels = labels.tolist()
        self._transform = transform

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self._transform(self._pictures[i]), self._labels[i]


def pipeline(folder: Path, augment: bool) -> Case:
    """Digits from our loader, beside torchvision's MNIST with the usual transforms one by one."""
    from torchvision import transforms

    usual: list[Any] = [transforms.ToTensor(), transforms.Normalize((MNIST_MEAN,), (MNIST_STD,))]
    data: Any = digits(1)
    name = "digits, beside torchvision"
    if augment:
        usual.insert(0, transforms.RandomAffine(10, translate=(2 / 28, 2 / 28)))
        data = DigitsDataLoader(shift=2, rotate=10).dataset
        name = f"augmented {name}"
    pictures = _Pictures(data.images, data.labels, transforms.Compose(usual))
    ours = BaseDataLoader(data, 64, True, 0.0, 0)
    theirs = torch.utils.data.DataLoader(pictures, 64, shuffle=True, generator=torch.Generator())
    return Case(name, "pass", partial(timed, _read, ours), partial(timed, _read, theirs))


def _read(loader: Any) -> None:
    for _ in loader:
        pass


def saving(folder: Path) -> Case:
    """A checkpoint of 100 MB: written, flushed, verified and renamed, against torch.save alone."""
    weights = {str(number): torch.randn(1024, 1024) for number in range(25)}
    state = {"state_dict": weights}
    ours = partial(timed, checkpoint.save, state, folder / "ours.pth")
    bare = partial(timed, torch.save, state, folder / "bare.pth")
    return Case("100 MB checkpoint, beside torch.save", "file", ours, bare)
