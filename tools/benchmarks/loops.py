"""The template's loops against loops written by hand, in one process, on the same data."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from base import BaseDataLoader
from data_loader.data_loaders import MNIST_MEAN, MNIST_STD, DigitsDataLoader
from machinery.checkpoints import file as checkpoint
from model.loss import nll_loss
from model.metric import accuracy
from model.model import MnistModel
from parse_config import ConfigParser
from tools.benchmarks.paired import ByHand, Data, Pair
from trainer import Trainer
from utils.in_memory import InMemoryImages

Side = Callable[[], float]


@dataclass(frozen=True)
class Case:
    """What two sides do: each returns seconds; `unit` says of what.

    Attributes:
        name: in the table, 37 letters at most.
        ours, bare: the sides, where each runs by itself.
        others: other libraries, each beside the bare side, by name.
        grows: whether its peak memory is of interest.
        together: runs both sides in one, if steps of them can be paired.
    """

    name: str
    unit: str
    ours: Side | None = None
    bare: Side | None = None
    others: Mapping[str, Callable[[], Pair]] = field(default_factory=dict)
    grows: bool = False
    together: Callable[[], Pair] | None = None

    def run(self) -> Pair:
        """Run both sides."""
        if self.together is not None:
            return self.together()
        assert self.ours is not None and self.bare is not None
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
    trainer_class: type[Trainer] = Trainer,
    metrics: Sequence[Any] = (accuracy,),
    **settings: Any,
) -> Trainer:
    """A trainer on a loader, with everything logged.

    Args:
        valid: a loader, too, or None.
        fused: whether the optimizer is.
        trainer_class: of the trainer.
        metrics: functions.
        settings: of it.
    """
    config = ConfigParser(
        {
            "name": "Benchmark",
            "n_gpu": int(torch.cuda.is_available()),
            "arch": {"type": type(model).__name__},
            "data_loader": {"type": "DigitsDataLoader"},
            "optimizer": {"type": "SGD", "args": {"lr": 0.01}},
            "loss": criterion.__name__,
            "metrics": [metric.__name__ for metric in metrics],
            "trainer": {"epochs": 1, "save_dir": str(folder), "verbosity": 0, **settings},
        }
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=fused)
    parts = (model, criterion, metrics, optimizer, config, device(), loader, valid)
    return trainer_class(*parts)


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
        ByHand(model, self._on_device, 64, nll_loss).epoch(order)
        bare_evaluation(model, self._on_device, held_out, nll_loss)


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
    return Case(what, "epoch", epoch.ours, epoch.bare)


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
