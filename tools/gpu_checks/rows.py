"""The rows of the table: what is measured, and its goal."""

import gc
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from base import BaseDataLoader
from data_loader.image_loader import ImageLoader
from machinery.order.split import DatasetMaker
from model.loss import cross_entropy, nll_loss
from model.model import MnistModel
from tools.benchmarks.loops import device, digits, resident
from tools.benchmarks.steps import Vectors
from tools.gpu_checks import networks
from tools.gpu_checks.sides import (
    ByHand,
    Step,
    Tensors,
    compared,
    network,
    numbers,
    ours,
    pictures,
    rate,
    seconds,
    sizes,
    take,
)

#: Steps in which the host may not wait for the device.
_STEPS = 50
#: What is tried with the ResNet-18, one by one.
_SWITCHES: list[dict[str, Any]] = [
    {"precision": "tf32"},
    {"precision": "bf16"},
    {"cudnn_benchmark": True},
    {"channels_last": True},
    {"precision": "bf16", "channels_last": True},
]
_MEAN, _STD = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


class Row(NamedTuple):
    """A line of the table."""

    name: str
    value: float
    unit: str
    #: What it may be at most; None: nothing is asked.
    most: float | None = None
    #: Or what it has to be at least.
    least: float | None = None
    #: Whether the goal holds for a GPU alone: times on a CPU say nothing of one.
    on_gpu: bool = True

    def judged(self) -> str:
        """Whether the goal is met: "yes", "NO", or nothing."""
        if self.most is None and self.least is None:
            return ""
        if self.on_gpu and device().type == "cpu":
            return ""
        fits = self.most is None or self.value <= self.most
        fits = fits and (self.least is None or self.value >= self.least)
        return "yes" if fits else "NO"


class Reads(TorchDispatchMode):
    """Counts the values that the host reads of tensors, for which it waits."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.count += 1
        return function(*args, **(kwargs or {}))


def waits(step: Step, count: int = _STEPS) -> int:
    """How often the host waits for the device in some steps, after those at the start."""
    take(step, 10)
    with Reads() as reads:
        take(step, count)
    if device().type != "cuda":
        return reads.count
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            take(step, count)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [each for each in told if "synchroniz" in str(each.message)]
    return max(reads.count, len(found))


def image_loader(count: int, size: int, **options: Any) -> ImageLoader:
    """A loader of noise as bytes, augmented."""
    data = Tensors(*pictures(count))
    maker = DatasetMaker(lambda sections: Singles(data), ("args",), "dataset", "check")
    given: dict[str, Any] = {"crop": 2, "flip": 0.5, **options}
    return ImageLoader(maker, _MEAN, _STD, batch_size=size, **given)


class Singles(torch.utils.data.Dataset[Any]):
    """One sample at a time."""

    def __init__(self, data: Tensors) -> None:
        self._data = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._data.x[index], int(self._data.y[index])


def synchronisations(folder: Path) -> Iterator[Row]:
    """Row 1: how often the host waits for the device in a step."""
    count = 64 * (_STEPS + 20)
    made: dict[str, Callable[[], BaseDataLoader]] = {
        "data in memory": lambda: resident(Tensors(*pictures_as_numbers(count)), 64),
        "device_resident": partial(image_loader, count, 64, device_resident=True),
        "pinned workers": partial(image_loader, count, 64, num_workers=2),
    }
    for name, make in made.items():
        fast = partial(networks.FastNet, width=max(64 // sizes().thinner, 8))
        step = ours(folder, network(fast), make(), cross_entropy, log_step=10**6)
        row = f"waits of the host in {_STEPS} steps, {name}"
        yield Row(row, waits(step), "", most=0, on_gpu=False)


def pictures_as_numbers(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise as float, in the memory of the host."""
    images, classes = pictures(count)
    return images.float().div_(255), classes


def small_steps(folder: Path) -> Iterator[Row]:
    """Row 2: LeNet and a linear model, beside the loop by hand."""
    data = digits(1)
    data.images = data.images.to(device())
    data.labels = data.labels.to(device())
    for size in (64, 1024):
        bare = ByHand(network(MnistModel), data.images, data.labels, size, nll_loss)
        step = ours(folder, network(MnistModel), resident(data, size), nll_loss)
        both = compared(step, bare)
        yield Row(f"step of LeNet, batch {size}, beside the loop by hand", both.ratio, "", 1.05)
    vectors = Vectors(16_000, 8)
    vectors.to(device())
    linear = partial(nn.Linear, 8, 4)
    bare = ByHand(network(linear), vectors.x, vectors.y, 16, cross_entropy)
    step = ours(folder, network(linear), resident(vectors, 16), cross_entropy)
    both = compared(step, bare, 10 * sizes().steps)
    more = 1e6 * (both.ours - both.bare)
    yield Row("step of a linear model, what the loop adds", more, "us", 40)


def switches(folder: Path) -> Iterator[Row]:
    """Row 3: what each switch gives a ResNet-18, and all of them beside a loop with the same."""
    size = 128
    x, y = numbers(sizes().samples)
    width = 64 // sizes().thinner
    make = partial(networks.ResNet18, width=width)
    loader = resident(Tensors(x, y), size)

    def measured(**settings: Any) -> float:
        step = ours(folder, network(make), loader, cross_entropy, **settings)
        return rate(step, size)

    plain = measured()
    yield Row("ResNet-18, batch 128, as it is", plain, "samples/s")
    for settings in _SWITCHES:
        shown = " ".join(f"{key}={value}" for key, value in settings.items())
        yield Row(f"… {shown}", measured(**settings) / plain, "times")
    best: dict[str, Any] = {"precision": "bf16", "channels_last": True}
    if device().type != "cpu":
        best["compile"] = "blocks"
    step = ours(folder, network(make), loader, cross_entropy, **best)
    bare = ByHand(network(make), x, y, size, cross_entropy, **best)
    both = compared(step, bare)
    yield Row("… together", size / both.ours / plain, "times")
    yield Row("… together, beside the loop by hand", both.ratio, "", 1.03)


def images_as_bytes(folder: Path) -> Iterator[Row]:
    """Rows 4 and 5: images that travel as bytes, beside a loop by hand, and beside numbers."""
    best: dict[str, Any] = {"precision": "bf16", "channels_last": True}
    count = sizes().samples
    make = partial(networks.FastNet, width=max(64 // sizes().thinner, 8))
    loader = image_loader(count, 512, device_resident=True)
    images, classes = (each.to(device()) for each in pictures(count))
    bare = ByHand(network(make), images, classes, 512, cross_entropy, partial(augmented, 2), **best)
    step = ours(folder, network(make), loader, cross_entropy, **best)
    both = compared(step, bare)
    yield Row("airbench's net, batch 512, on the device, by hand", both.ratio, "", 1.1)
    wide = partial(networks.FastNet, width=max(256 // sizes().thinner, 8))
    as_bytes = image_loader(count, 256, in_memory=True)
    as_numbers = resident(Tensors(*pictures_as_numbers(count)), 256)
    byte_step = ours(folder, network(wide), as_bytes, cross_entropy, **best)
    number_step = ours(folder, network(wide), as_numbers, cross_entropy, **best)
    both = compared(byte_step, number_step)
    yield Row("the same wide, from the host: bytes beside numbers", both.ratio, "", 1.0)
    yield Row("… share of the time in which the GPU is idle", idle(byte_step), "", 0.05)


def augmented(crop: int, images: torch.Tensor) -> torch.Tensor:
    """Images uint8, moved, mirrored and normalised, as one would write it."""
    n, channels, height, width = images.shape
    there = images.device
    padded = F.pad(images.float().div_(255), (crop,) * 4, mode="reflect")
    down = torch.randint(2 * crop + 1, (n, 1), device=there) + torch.arange(height, device=there)
    right = torch.randint(2 * crop + 1, (n, 1), device=there) + torch.arange(width, device=there)
    flipped = torch.rand(n, 1, device=there) < 0.5
    right = torch.where(flipped, right.flip(1), right)
    source = down[:, :, None] * (width + 2 * crop) + right[:, None, :]
    source = source.view(n, 1, -1).expand(n, channels, height * width)
    moved = padded.flatten(2).gather(2, source).view_as(images)
    return moved.sub_(0.5).div_(0.25)


def idle(step: Step) -> float:
    """The share of the time in which nothing runs on the GPU; NaN without one."""
    if device().type != "cuda":
        return math.nan
    take(step, 10)
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        took = seconds(step, 20)
    busy = 0.0
    end = 0.0
    spans = []
    for event in profile.events() or []:
        if str(event.device_type).endswith("CUDA"):
            spans.append((event.time_range.start, event.time_range.end))
    for start, stop in sorted(spans):
        busy += max(stop - max(start, end), 0.0)
        end = max(end, stop)
    return 1 - busy / 1e6 / took


def free() -> None:
    """Give back what a row has held."""
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()
