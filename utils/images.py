"""Images that travel as bytes: on the device they are normalised, and in training augmented.

A quarter of the bytes goes over the bus, and a batch is augmented at once. What an image becomes
depends on the place of its sample alone, but for what mixing takes from its neighbour.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import default_collate

from machinery.errors import ConfigError, DataError
from machinery.order.seeding import uniform_rows
from utils.augmentation import (
    Amounts,
    Augmentation,
    Mixing,
    coloured,
    erased,
    mixed,
    moved,
)

#: Numbers that are divided by less are no pixels any more.
_LEAST_STD = 1e-6


class Pixels(NamedTuple):
    """Images of a batch on their way.

    Where they arrive they are float [n, channels, height, width], as the network takes them.
    """

    #: uint8 [n, channels, height, width].
    images: torch.Tensor
    #: The columns of `Amounts`, float [n, 15]; None for evaluation.
    amounts: torch.Tensor | None
    mixing: Mixing | None
    finish: "Finish"

    def on_device(self, device: torch.device) -> torch.Tensor:
        """The images there, as the network takes them."""
        images = self.images.to(device, non_blocking=True)
        if self.amounts is None:
            return self.finish.normalised(images.float())
        amounts = Amounts(*self.amounts.to(device, non_blocking=True).unbind(1))
        return self.finish.augmented(images, amounts, self.mixing)


class Labels(NamedTuple):
    """Classes of mixed images on their way, where they arrive as shares float [n, classes]."""

    #: int64 [n].
    target: torch.Tensor
    #: How much of each image is its own, float [n].
    own: torch.Tensor
    classes: int

    def on_device(self, device: torch.device) -> torch.Tensor:
        """What each image shows of each class, there."""
        target = self.target.to(device, non_blocking=True)
        own = self.own.to(device, non_blocking=True)[:, None]
        shown = (target[:, None] == torch.arange(self.classes, device=device)).float()
        return shown * own + shown.roll(-1, 0) * (1 - own)


class Finish:
    """Makes of bytes what a network takes.

    Args:
        mean, std: of each channel, of 0..1.
        augmentation: in training; None: none.
        classes: how many there are, if images are mixed.
    """

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None,
        classes: int = 0,
    ) -> None:
        if len(mean) != len(std) or not mean:
            raise ConfigError(f"mean has {len(mean)} values and std {len(std)}: one a channel")
        for value in mean:
            if not 0 <= value <= 1:
                hint = "of 0..1, where pixels of 0..255 are divided by 255"
                raise ConfigError(f"mean: expected values {hint}, found {list(mean)}")
        for value in std:
            if not _LEAST_STD <= value <= 1:
                what = f"expected values above 0, at least {_LEAST_STD}, up to 1"
                raise ConfigError(f"std: {what}, found {list(std)}")
        self.mean = list(mean)
        self.std = list(std)
        self.augmentation = augmentation
        self.classes = classes
        # What is on a device already: each time anew it would be waited for.
        self._there: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What workers get: nothing of a device."""
        return {**vars(self), "_there": {}}

    def evaluation_view(self) -> "Finish":
        """It without augmentation."""
        return Finish(self.mean, self.std, None)

    def __call__(self, samples: list[Any]) -> tuple[Pixels, Any]:
        """A batch of some samples (image, target): a `collate_fn`.

        Raises:
            DataError: they are no bytes, or not of one size.
        """
        images = []
        targets = []
        for sample in samples:
            if not isinstance(sample, list | tuple) or len(sample) != 2:
                raise DataError(f"expected samples (image, target), found a {_kind(sample)}")
            images.append(pixels_of(sample[0]))
            targets.append(sample[1])
        sizes = sorted({tuple(image.shape) for image in images})
        if len(sizes) > 1:
            found = " and ".join("x".join(map(str, size)) for size in sizes[:2])
            hint = "let the dataset's transform resize them"
            if len({size[0] for size in sizes}) > 1:
                hint = 'some are grey and some not: image.convert("RGB"), or "L", makes them alike'
            raise DataError(f"images of {found}: {hint}")
        return self.batch(torch.stack(images), default_collate(targets))

    def batch(self, images: torch.Tensor, target: Any) -> tuple[Pixels, Any]:
        """A batch of images uint8 [n, channels, height, width] and their targets."""
        if images.shape[1] != len(self.mean):
            what = f"images have {images.shape[1]} channels, and mean {len(self.mean)} values"
            raise DataError(f"{what}: give mean and std one a channel")
        if self.augmentation is None:
            return Pixels(images, None, None, self), target
        self._check_crop(images.shape[2:])
        drawn = uniform_rows(len(images), len(Amounts._fields))
        if not self.augmentation.mixes:
            return Pixels(images, drawn, None, self), target
        check_classes(target, self.classes)
        height, width = images.shape[2:]
        mixing, own = mixed(Amounts(*drawn.unbind(1)), self.augmentation, height, width)
        pixels = Pixels(images, drawn, mixing, self)
        return pixels, Labels(target, own, self.classes)

    def _check_crop(self, size: Sequence[int]) -> None:
        assert self.augmentation is not None
        if self.augmentation.crop >= max(min(size), 1):
            shown = "x".join(map(str, size))
            what = f"{self.augmentation.crop} pixels of images of {shown}"
            raise DataError(f"crop: {what}: give fewer than their shorter side has")

    def _scale(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """What bytes are multiplied by, and what is added: [channels, 1, 1], on a device."""
        if device not in self._there:
            std = torch.tensor(self.std)[:, None, None]
            mean = torch.tensor(self.mean)[:, None, None]
            self._there[device] = (1 / (255 * std)).to(device), (-mean / std).to(device)
        return self._there[device]

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        """Images float of 0..255, which are changed in place."""
        factor, offset = self._scale(images.device)
        return images.mul_(factor).add_(offset)

    def augmented(
        self, images: torch.Tensor, amounts: Amounts, mixing: Mixing | None
    ) -> torch.Tensor:
        """Images uint8, normalised and augmented."""
        asked = self.augmentation
        assert asked is not None
        height, width = images.shape[2:]
        if asked.crop or asked.flip:
            images = moved(images, amounts, asked)
        result = images.float()
        if asked.colour:
            result = coloured(result, amounts, asked.colour)
        result = self.normalised(result)
        if asked.erase:
            masks = erased(amounts, asked.erase, height, width).masks(height, width)
            result = result.masked_fill_(masks, 0.0)  # the mean
        if mixing is not None:
            there = mixing.on_device(images.device)
            others = result.roll(-1, 0)
            own = there.own[:, None, None, None]
            result = result * own + others * (1 - own)
            result = torch.where(there.boxes.masks(height, width), others, result)
        return result


def check_classes(target: Any, classes: int) -> None:
    """Refuse targets that are not one class for each image, as far as that can be seen here.

    Raises:
        DataError: saying what they are.
    """
    if not isinstance(target, torch.Tensor) or target.dtype != torch.int64 or target.ndim != 1:
        raise DataError(
            f"mixup and cutmix take a class int64 for each image, found a {_kind(target)}"
        )
    if target.device.type == "cpu":
        least, most = int(target.min()), int(target.max())
        if least < 0 or most >= classes:
            raise DataError(f"classes of {least} to {most}, where there are {classes}")


def pixels_of(image: Any) -> torch.Tensor:
    """An image as uint8 [channels, height, width].

    Args:
        image: of PIL, an array uint8 [height, width] or [height, width, channels], or a tensor
            uint8 [channels, height, width].

    Raises:
        DataError: it is something else.
    """
    if isinstance(image, torch.Tensor):
        if image.dtype == torch.uint8 and image.ndim == 3:
            return image
    elif hasattr(image, "mode"):  # of PIL
        if image.mode not in ("L", "RGB"):
            raise DataError(f'an image has mode {image.mode}: image.convert("RGB"), or "L"')
        image = np.asarray(image)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        hint = "leave out of its transform what makes floats: they travel as bytes"
        if "float" not in str(getattr(image, "dtype", "")):
            arrays = "an array uint8 [height, width, channels], a tensor uint8 [channels, …]"
            hint = f"one of PIL, {arrays}"
        raise DataError(f"expected an image of bytes, found a {_kind(image)}: {hint}")
    array = image.reshape(*image.shape[:2], -1).transpose(2, 0, 1)
    return torch.from_numpy(np.array(array))


def _kind(value: Any) -> str:
    """What something is, for a message."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return f"{type(value).__name__} {value.dtype} {list(value.shape)}"
    return type(value).__name__
