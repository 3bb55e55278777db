"""Both sides of a comparison on the device: the template's updates, and a loop by hand."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import Dataset

from base import BaseDataLoader
from machinery.order import seeding
from machinery.update.compiling import compiled
from tools.benchmarks.loops import device, make_trainer
from tools.benchmarks.paired import Pair
from tools.tuning.measuring import updates

Step = Callable[[], Any]
#: Steps at the start that are not measured.
_FIRST = 5


class Sizes(NamedTuple):
    """How much is measured."""

    #: Windows of steps that both sides take in turn, and the steps of one.
    windows: int
    steps: int
    #: Samples of each data set.
    samples: int
    #: By what the networks' widths are divided.
    thinner: int


#: On a GPU, and on a CPU, where the script is only kept alive.
ON_GPU = Sizes(7, 40, 20_000, 1)
ON_CPU = Sizes(2, 1, 512, 8)


def sizes() -> Sizes:
    """Those for this machine."""
    if device().type == "cpu":
        return ON_CPU
    return ON_GPU


class Tensors(Dataset[Any]):
    """Samples and targets where they are, cut into batches there.

    Args:
        x: samples [n, …].
        y: targets [n, …].
    """

    draws_from = ()

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], self.y[index]

    def __getitems__(self, indices: torch.Tensor) -> Any:
        indices = indices.to(self.x.device, non_blocking=True)
        return self.x.index_select(0, indices), self.y.index_select(0, indices)


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise as images uint8 [count, 3, 32, 32], and classes int64 [count]."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % 10


def numbers(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, as float on the device."""
    images, classes = pictures(count)
    return images.to(device()).float().div_(255).sub_(0.5), classes.to(device())


def network(make: Callable[[], nn.Module]) -> nn.Module:
    """A network on the device, with the same weights each time."""
    seeding.seed_everything(1, "network")
    return make().to(device())


def ours(
    folder: Path, model: nn.Module, loader: BaseDataLoader, loss: Any, **settings: Any
) -> Step:
    """What makes an update of the template."""
    given: dict[str, Any] = {"tensorboard": False, "log_step": 50, "epochs": 10**6, "fused": True}
    trainer = make_trainer(folder, model, loader, None, loss, **{**given, **settings})
    return trained(trainer)


def trained(trainer: Any) -> Step:
    """What makes an update of a trainer."""
    trainer.save_step = None
    trainer.writers._writers = []
    running = updates(trainer)
    return lambda: next(running)


class ByHand:
    """The same loop by hand, with the same switches.

    Args:
        model: on the device.
        x, y: samples and targets there.
        size: of a batch.
        loss: the mean over a batch.
        prepared: makes of a batch's samples what the network takes.
        switches: of the trainer: precision, channels_last, compile.
    """

    def __init__(
        self,
        model: nn.Module,
        x: torch.Tensor,
        y: torch.Tensor,
        size: int,
        loss: Any,
        prepared: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **switches: Any,
    ) -> None:
        self._x = x
        self._y = y
        self._size = size
        self._loss = loss
        self._prepared = prepared
        self._layout = torch.preserve_format
        if switches.get("channels_last"):
            self._layout = torch.channels_last
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
        self._model = compiled(model, switches.get("compile", False))
        self._in_bf16 = switches.get("precision") == "bf16"
        self._sum = torch.zeros((), dtype=torch.float64, device=x.device)
        self._hits = torch.zeros((), dtype=torch.float64, device=x.device)
        self._batches = self._all_batches()

    def _all_batches(self) -> Iterator[torch.Tensor]:
        while True:
            order = torch.randperm(len(self._x)).to(self._x.device, non_blocking=True)
            self._model.train()
            yield from order.split(self._size)

    def __call__(self) -> None:
        """Make a step."""
        batch = next(self._batches)
        x = self._x.index_select(0, batch)
        y = self._y.index_select(0, batch)
        if self._prepared is not None:
            x = self._prepared(x)
        if self._layout is torch.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        context: Any = nullcontext()
        if self._in_bf16:
            context = torch.autocast(x.device.type, dtype=torch.bfloat16)
        with context:
            output = self._model(x)
            loss = self._loss(output, y)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._sum.add_(loss.detach(), alpha=len(y))
        self._hits += (output.argmax(1) == y).sum()


def seconds(step: Step, count: int) -> float:
    """Seconds that some steps take, with what the GPU has still to do."""
    _wait()
    started = time.perf_counter()
    for _ in range(count):
        step()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compared(first: Step, second: Step, steps: int | None = None) -> Pair:
    """Let two sides take turns: the seconds of a step, medians over windows."""
    steps = steps or sizes().steps
    for side in (first, second):
        seconds(side, _FIRST)
    pairs = [(seconds(first, steps), seconds(second, steps)) for _ in range(sizes().windows)]
    ours_all, bare_all = zip(*pairs, strict=True)
    return Pair(statistics.median(ours_all) / steps, statistics.median(bare_all) / steps)


def rate(step: Step, samples: int) -> float:
    """Samples per second: the median over windows."""
    seconds(step, _FIRST)
    steps = sizes().steps
    times = [seconds(step, steps) for _ in range(sizes().windows)]
    return samples * steps / statistics.median(times)


def take(step: Step, count: int) -> None:
    """Make some steps."""
    for _ in itertools.repeat(None, count):
        step()
