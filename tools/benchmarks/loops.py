"""The template's loops against loops written by hand, in one process, on the same data."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

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
from tools.benchmarks.libraries import Library
from trainer import Trainer

Side = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """What two sides do: each returns seconds; `unit` says of what.

    Attributes:
        others: other libraries that do the same, by name.
        grows: whether its peak memory is of interest.
    """

    name: str
    unit: str
    ours: Side
    bare: Side
    others: Mapping[str, Side] = field(default_factory=dict)
    grows: bool = False


def timed(function: Callable[[], Any]) -> float:
    """Seconds that a call takes, with what the GPU has still to do."""
    started = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def make_trainer(
    folder: Path,
    model: nn.Module,
    loader: BaseDataLoader,
    valid: Any,
    criterion: Any,
    **settings: Any,
) -> Trainer:
    """A trainer on a loader, with everything logged."""
    fused = settings.pop("fused", False)
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
    return InMemoryImages(images.repeat(copies, 1, 1), data.labels.repeat(copies), MNIST_MEAN, MNIST_STD)


def resident(data: Any, size: int, shuffle: bool = True, split: float = 0.0) -> BaseDataLoader:
    """A loader whose batches are made where the model is, as the bare loops' are."""
    return BaseDataLoader(data, size, shuffle, split, 0)


def bare_epoch(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], order: torch.Tensor, size: int, loss_of: Any
) -> float:
    """A hand-written epoch of SGD: batches sliced from tensors, loss and accuracy summed; the mean loss."""
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    hits = torch.zeros((), dtype=torch.float64, device=x.device)
    model.train()
    for k in range(0, len(order), size):
        batch = order[k : k + size]
        output, target = model(x.index_select(0, batch)), y.index_select(0, batch)
        loss = loss_of(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total.add_(loss.detach(), alpha=len(target))
        hits += (output.argmax(1) == target).sum()
    return float(total) / len(order)


def bare_evaluation(
    model: nn.Module, data: tuple[torch.Tensor, torch.Tensor], indices: torch.Tensor, loss_of: Any
) -> float:
    """A hand-written evaluation; the mean loss."""
    x, y = data
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    hits = torch.zeros((), dtype=torch.float64, device=x.device)
    model.eval()
    with torch.no_grad():
        for k in range(0, len(indices), 64):
            batch = indices[k : k + 64]
            output, target = model(x.index_select(0, batch)), y.index_select(0, batch)
            total.add_(loss_of(output, target), alpha=len(target))
            hits += (output.argmax(1) == target).sum()
    return float(total) / len(indices)


def small_resnet() -> nn.Module:
    """A residual network of eight convolutions for digits."""
    from torchvision.models.resnet import BasicBlock, ResNet

    return nn.Sequential(nn.Conv2d(1, 3, 1), ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10), nn.LogSoftmax(dim=1))


def lenet(
    folder: Path, copies: int, network: Callable[[], nn.Module] = MnistModel, name: str = "LeNet", **tuned: Any
) -> Case:
    """A whole epoch of a network with validation, checkpoints and TensorBoard.

    Args:
        copies: of the bundled digits.
        tuned: the switches that `tools/tune.py` recommends for it, against the plain bare loop.
    """
    data = digits(copies)
    images, labels = data.images, data.labels
    tensors = images.to(device()), labels.to(device())

    def loader() -> BaseDataLoader:
        return resident(data, 64, split=0.1)

    def ours() -> float:
        train = loader()
        model = network().to(device())
        trainer = make_trainer(folder, model, train, train.split_validation(), nll_loss, **tuned)
        return timed(trainer.train)

    def bare() -> float:
        train, model = loader(), network().to(device())
        sampler: Any = train.sampler
        order = torch.as_tensor(sampler.indices)[torch.randperm(train.n_samples)].to(device())
        held_out = torch.as_tensor(train.valid_sampler.indices).to(device())

        def epoch() -> None:
            bare_epoch(model, tensors, order, 64, nll_loss)
            bare_evaluation(model, tensors, held_out, nll_loss)

        return timed(epoch)

    def other(library: Library) -> float:
        train = loader()
        sampler: Any = train.sampler
        kept, held_out = (torch.as_tensor(part.indices) for part in (sampler, train.valid_sampler))
        model = network().to(device())
        valid = images[held_out], labels[held_out]
        return library(model, (images[kept], labels[kept]), valid, 64, nll_loss, device(), folder)

    others = {} if tuned else {key: partial(other, library) for key, library in libraries.installed().items()}
    what = ", tuned" if tuned else ", all logging"
    return Case(f"epoch of {name}, {len(data):,} digits{what}", "epoch", ours, bare, others)


class Vectors(torch.utils.data.Dataset[Any]):
    """Whole-batch data for a linear model on a device, with no randomness of its own."""

    draws_rows_only = True

    def __init__(self, n: int, width: int) -> None:
        self.x, self.y = torch.randn(n, width, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 4

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> None:
        self.x, self.y = self.x.to(device), self.y.to(device)

    def __getitems__(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x.index_select(0, indices), self.y.index_select(0, indices)


def steps(
    folder: Path, n: int, width: int = 8, epochs: int = 1, name: str = "step of a linear model", grows: bool = True
) -> Case:
    """Steps of a tiny model: what is left is the loop's own time. Both sides see the same batches."""
    data = Vectors(n, width)
    size, updates = 16, epochs * n // 16

    def model() -> nn.Module:
        seeding.seed_everything(1, "model")
        return nn.Linear(width, 4).to(device())

    losses: dict[str, float] = {}

    def ours() -> float:
        settings = {"epochs": epochs, "tensorboard": False, "save_period": 1000}
        trainer = make_trainer(folder, model(), resident(data, size), None, cross_entropy, **settings)
        seconds = timed(trainer.train)
        losses["ours"] = trainer.train_metrics.avg("loss")
        return seconds / updates

    def bare() -> float:
        linear, tensors = model(), (data.x.to(device()), data.y.to(device()))

        def train() -> None:
            for epoch in range(1, epochs + 1):
                order = seeding.permutation(n, seeding.root_seed(), "train", "order", epoch).to(device())
                losses["bare"] = bare_epoch(linear, tensors, order, size, cross_entropy)

        seconds = timed(train) / updates
        assert abs(losses.get("ours", losses["bare"]) - losses["bare"]) < 1e-6, losses
        return seconds

    def other(library: Library) -> float:
        return library(model(), (data.x.cpu(), data.y.cpu()), None, size, cross_entropy, device(), folder) / updates

    others = {name: partial(other, library) for name, library in libraries.installed().items()}
    return Case(name, "step", ours, bare, {} if grows else others, grows)


def validation(folder: Path) -> Case:
    """The evaluation loop."""
    data, model = digits(5), MnistModel().to(device())
    tensors = data.images.to(device()), data.labels.to(device())
    indices = torch.arange(len(data)).to(device())
    trainer = make_trainer(folder, model, resident(data, 64), None, nll_loss)
    loader = resident(data, 64, shuffle=False)
    return Case(
        "validation of 20,000 digits",
        "pass",
        lambda: timed(lambda: trainer.evaluate(loader)),
        lambda: timed(lambda: bare_evaluation(model, tensors, indices, nll_loss)),
    )


def pipeline(augment: bool) -> Case:
    """Digits from our loader, against torchvision's MNIST with the usual transforms and torch's loader."""
    from torchvision import transforms

    data: Any = DigitsDataLoader(shift=2, rotate=10).dataset if augment else digits(1)
    usual: list[Any] = [transforms.ToTensor(), transforms.Normalize((MNIST_MEAN,), (MNIST_STD,))]
    if augment:
        usual.insert(0, transforms.RandomAffine(10, translate=(2 / 28, 2 / 28)))
    transform = transforms.Compose(usual)
    pictures = [transforms.functional.to_pil_image(image * MNIST_STD + MNIST_MEAN) for image in data.images]
    samples = [(picture, int(label)) for picture, label in zip(pictures, data.labels, strict=True)]

    class Pictures(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, i: int) -> Any:
            return transform(samples[i][0]), samples[i][1]

    loader = BaseDataLoader(data, 64, True, 0.0, 0)
    theirs = torch.utils.data.DataLoader(Pictures(), 64, shuffle=True, generator=torch.Generator())
    what = "augmented digits" if augment else "digits"
    return Case(
        f"{what} from memory, against torchvision's per sample",
        "pass",
        lambda: timed(lambda: [None for _ in loader]),
        lambda: timed(lambda: [None for _ in theirs]),
    )


def saving(folder: Path) -> Case:
    """A checkpoint of 100 MB: written, flushed, verified and renamed, against torch.save alone."""
    state = {"state_dict": {str(i): torch.randn(1024, 1024) for i in range(25)}}
    return Case(
        "checkpoint of 100 MB, verified, against torch.save",
        "file",
        lambda: timed(lambda: checkpoint.save(state, folder / "ours.pth")),
        lambda: timed(lambda: torch.save(state, folder / "bare.pth")),
    )
