"""Images that travel as bytes: on the device they are normalised, and in training augmented.

A quarter of the bytes goes over the bus, and a batch is augmented at once. What an image becomes
depends on the place of its sample alone, but for what mixing takes from its neighbour.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import default_collate

from machinery.errors import ConfigError, DataError
from machinery.order.seeding import uniform_rows

#: Grey of red, green and blue, by Rec. 601.
_GREY = (0.299, 0.587, 0.114)
#: An erased rectangle: its share of the image, and its height to its width (Zhong et al. 2017,
#: arXiv:1708.04896).
_ERASED = (0.02, 0.33)
_ASPECT = (0.3, 3.3)
#: Points at which the distribution of a mixing share is known.
_POINTS = 1025


class Amounts(NamedTuple):
    """What is drawn for each image, float [n] in [0, 1); all of it whatever is asked for.

    So one kind of augmentation takes nothing from another's draws.
    """

    down: torch.Tensor
    right: torch.Tensor
    flip: torch.Tensor
    brightness: torch.Tensor
    contrast: torch.Tensor
    saturation: torch.Tensor
    erase: torch.Tensor
    erased_share: torch.Tensor
    erased_aspect: torch.Tensor
    erased_top: torch.Tensor
    erased_left: torch.Tensor
    mix: torch.Tensor
    mix_share: torch.Tensor
    mix_top: torch.Tensor
    mix_left: torch.Tensor


class Boxes(NamedTuple):
    """A rectangle of each image, int64 [n]: its first row and column, and those after its last."""

    top: torch.Tensor
    left: torch.Tensor
    bottom: torch.Tensor
    right: torch.Tensor

    def masks(self, height: int, width: int) -> torch.Tensor:
        """Which pixels are within: bool [n, 1, height, width]."""
        rows = torch.arange(height, device=self.top.device)[None, :, None]
        columns = torch.arange(width, device=self.top.device)[None, None, :]
        in_rows = (rows >= self.top[:, None, None]) & (rows < self.bottom[:, None, None])
        in_columns = (columns >= self.left[:, None, None]) & (columns < self.right[:, None, None])
        return (in_rows & in_columns)[:, None]

    def share(self, height: int, width: int) -> torch.Tensor:
        """Of the image, float [n]."""
        area = (self.bottom - self.top) * (self.right - self.left)
        return area.float() / (height * width)


@dataclass(frozen=True)
class Augmentation:
    """What becomes of images in training.

    Args:
        crop: moved by up to this many pixels in both directions; edges are mirrored.
        flip: the share of images that is mirrored, left to right.
        colour: brightness, contrast and saturation are each changed by up to this share.
        erase: the share of images in which a rectangle is erased (Zhong et al. 2017,
            arXiv:1708.04896).
        mixup: blended with the next image of the batch, by a share drawn from a beta distribution
            with this parameter (Zhang et al. 2017, arXiv:1710.09412); 0: not.
        cutmix: a rectangle is the next image's, of a size drawn so (Yun et al. 2019,
            arXiv:1905.04899). With mixup each is done to half of the images.

    Raises:
        ConfigError: a value makes no sense.
    """

    crop: int = 0
    flip: float = 0.0
    colour: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "erase", "colour"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ConfigError(f"{name}: expected a share, 0 to 1, found {value}")
        for name in ("crop", "mixup", "cutmix"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigError(f"{name}: expected a number of at least 0, found {value}")

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with others."""
        return self.mixup > 0 or self.cutmix > 0


class Mixing(NamedTuple):
    """How much of each image is its own, and where it is not."""

    #: Of a blend, float [n]; 1 where a box is exchanged.
    own: torch.Tensor
    boxes: Boxes

    def on_device(self, device: torch.device) -> "Mixing":
        """There."""
        boxes = [each.to(device, non_blocking=True) for each in self.boxes]
        return Mixing(self.own.to(device, non_blocking=True), Boxes(*boxes))


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
        if min(std) <= 0:
            raise ConfigError(f"std: expected values above 0, found {list(std)}")
        for name, values in (("mean", mean), ("std", std)):
            if not 0 <= min(values) <= max(values) <= 1:
                hint = "those of bytes are divided by 255"
                raise ConfigError(f"{name}: expected values of 0 to 1, found {[*values]}: {hint}")
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
            raise DataError(f"images of {found}: let the dataset's transform resize them")
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
        if self.augmentation.crop >= min(size):
            shown = "x".join(map(str, size))
            raise DataError(f"crop: {self.augmentation.crop} pixels of images of {shown}")

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


def moved(images: torch.Tensor, amounts: Amounts, asked: Augmentation) -> torch.Tensor:
    """Images uint8, each moved by whole pixels, and some of them mirrored."""
    n, channels, height, width = images.shape
    rows = _mirrored(_offsets(amounts.down, asked.crop), height)
    columns = _mirrored(_offsets(amounts.right, asked.crop), width)
    flipped = (amounts.flip < asked.flip)[:, None]
    columns = torch.where(flipped, columns.flip(1), columns)
    source = rows[:, :, None] * width + columns[:, None, :]
    source = source.view(n, 1, height * width).expand(n, channels, height * width)
    return images.flatten(2).gather(2, source).view_as(images)


def _offsets(amounts: torch.Tensor, most: int) -> torch.Tensor:
    """Whole numbers of -most..most, int64 [n, 1]."""
    return (amounts * (2 * most + 1)).long()[:, None] - most


def _mirrored(offsets: torch.Tensor, size: int) -> torch.Tensor:
    """Which pixels of a line it has once it is moved, int64 [n, size]."""
    pixels = (offsets + torch.arange(size, device=offsets.device)).abs()
    last = size - 1
    return last - (last - pixels).abs()


def coloured(images: torch.Tensor, amounts: Amounts, most: float) -> torch.Tensor:
    """Images float of 0..255, each with other brightness, contrast and saturation."""
    brightness, contrast, saturation = [
        (1 + most * (2 * each - 1))[:, None, None, None]
        for each in (amounts.brightness, amounts.contrast, amounts.saturation)
    ]
    images = images * brightness
    grey = _grey(images)
    mean = grey.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * contrast
    if images.shape[1] == len(_GREY):
        grey = _grey(images)
        images = grey + (images - grey) * saturation
    return images.clamp_(0, 255)


def _grey(images: torch.Tensor) -> torch.Tensor:
    """How bright each pixel is, [n, 1, height, width]."""
    if images.shape[1] != len(_GREY):
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, 1)
    return _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue


def erased(amounts: Amounts, share: float, height: int, width: int) -> Boxes:
    """What is erased of each image: nothing of those that are spared."""
    least, most = _ERASED
    area = height * width * (least + amounts.erased_share * (most - least))
    narrow, wide = math.log(_ASPECT[0]), math.log(_ASPECT[1])
    aspect = (narrow + amounts.erased_aspect * (wide - narrow)).exp()
    tall = (area * aspect).sqrt().round().clamp(1, height)
    broad = (area / aspect).sqrt().round().clamp(1, width)
    tall = torch.where(amounts.erase < share, tall, 0.0)
    top = (amounts.erased_top * (height - tall + 1)).long()
    left = (amounts.erased_left * (width - broad + 1)).long()
    return Boxes(top, left, top + tall.long(), left + broad.long())


def mixed(
    amounts: Amounts, asked: Augmentation, height: int, width: int
) -> tuple[Mixing, torch.Tensor]:
    """How images are mixed, and how much of each is its own in all, float [n]."""
    cuts = amounts.mix < 0.5
    if asked.mixup == 0 or asked.cutmix == 0:
        cuts = torch.full_like(cuts, asked.cutmix > 0)
    side = (1 - beta(amounts.mix_share, asked.cutmix)).sqrt()
    tall = (side * height).long()
    broad = (side * width).long()
    top = (amounts.mix_top * height).long() - tall // 2
    left = (amounts.mix_left * width).long() - broad // 2
    boxes = Boxes(
        top.clamp(min=0),
        left.clamp(min=0),
        torch.where(cuts, (top + tall).clamp(max=height), 0),
        torch.where(cuts, (left + broad).clamp(max=width), 0),
    )
    blend = torch.where(cuts, 1.0, beta(amounts.mix_share, asked.mixup))
    own = torch.where(cuts, 1 - boxes.share(height, width), blend)
    return Mixing(blend, boxes), own


def beta(uniform: torch.Tensor, parameter: float) -> torch.Tensor:
    """Numbers of a symmetric beta distribution, by the inverse of its distribution function.

    Args:
        uniform: float in [0, 1).
        parameter: both of its parameters; 0: all numbers are 1.
    """
    if parameter == 0:
        return torch.ones_like(uniform)
    # Below a half, x = t ** (1 / parameter) / 2 has the density (1 - x) ** (parameter - 1) of t.
    t = np.linspace(0, 1, _POINTS)
    x = t ** (1 / parameter) / 2
    density = (1 - x) ** (parameter - 1)
    steps = (density[1:] + density[:-1]) / 2
    known = np.concatenate([[0.0], np.cumsum(steps)])
    known /= 2 * known[-1]
    drawn = uniform.double().numpy()
    below = np.minimum(drawn, 1 - drawn)
    found = np.interp(below, known, t) ** (1 / parameter) / 2
    found = np.where(drawn < 0.5, found, 1 - found)
    return torch.from_numpy(found).float()


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
