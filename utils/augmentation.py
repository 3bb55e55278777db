"""What becomes of images in training, each by what is drawn for its place (see `utils.images`)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from machinery.errors import ConfigError

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
    # Below a half, x = t ** (1 / power) / 2 has a density of t that is finite, and no spike.
    power = min(parameter, 1)
    t = np.linspace(0, 1, _POINTS)
    x = t ** (1 / power) / 2
    density = (1 - x) ** (power - 1) * (4 * x * (1 - x)) ** (parameter - power)
    steps = (density[1:] + density[:-1]) / 2
    known = np.concatenate([[0.0], np.cumsum(steps)])
    known /= 2 * known[-1]
    drawn = uniform.double().numpy()
    below = np.minimum(drawn, 1 - drawn)
    found = np.interp(below, known, t) ** (1 / power) / 2
    found = np.where(drawn < 0.5, found, 1 - found)
    return torch.from_numpy(found).float()
