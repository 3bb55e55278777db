"""Grids of pictures with a word below each, for the tools that show data."""

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import torch
from matplotlib import pyplot as pyplot
from torch.utils._pytree import tree_flatten_with_path

from machinery.errors import ConfigError
from machinery.files import replacing
from tools.trained import tensors_in

mpl.use("Agg")  # pictures are files: no window is opened


class Named(NamedTuple):
    """A tensor of a batch, and its place there."""

    place: str
    values: torch.Tensor


def named_tensors(batch: Any) -> list[Named]:
    """The tensors of a batch."""
    found = []
    for path, value in tree_flatten_with_path(batch)[0]:
        if isinstance(value, torch.Tensor):
            place = "".join(str(key) for key in path)
            found.append(Named(place or "batch", value))
    return found


def images_in(batch: Any) -> torch.Tensor | None:
    """The first tensor of a batch that is pictures: float or bytes [n, 1 or 3, height, width]."""
    for tensor in tensors_in(batch):
        if tensor.ndim == 4 and tensor.shape[1] in (1, 3) and tensor.numel() > 0:
            return tensor
    return None


def labels_in(batch: Any) -> Named | None:
    """The first tensor of a batch that is classes, integers [n].

    One that is called so comes before others.
    """
    found = []
    for named in named_tensors(batch):
        if named.values.ndim == 1 and not named.values.is_floating_point():
            found.append(named)
    for named in found:
        if re.search(r"label|target|class|\by\b", named.place):
            return named
    if found:
        return found[0]
    return None


def picture(image: torch.Tensor) -> Any:
    """A picture [1 or 3, height, width] as matplotlib shows it, from black to white."""
    pixels = image.detach().cpu().float()
    pixels = pixels - pixels.min()
    pixels = pixels / pixels.max().clamp(min=1e-9)
    return pixels.movedim(0, -1).squeeze(-1).numpy()


def overlay(image: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A picture with the classes of its pixels in colours; the first class has none.

    Args:
        image: float [1 or 3, height, width].
        mask: int [height, width].

    Returns:
        float [3, height, width], from 0 to 1.
    """
    pixels = torch.from_numpy(picture(image))
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    grey = pixels.mean(dim=-1, keepdim=True).expand(*mask.shape, 3).clone()
    colours = torch.tensor(mpl.color_sequences["tab10"], dtype=torch.float32)
    for label in mask.unique().tolist():
        if label == 0:
            continue
        colour = colours[(label - 1) % len(colours)]
        grey = torch.where((mask == label)[..., None], 0.45 * grey + 0.55 * colour, grey)
    return grey.movedim(-1, 0)


def grid(rows: list[list[torch.Tensor]], words: list[str], file: Path, columns: int = 12) -> None:
    """Write a grid of pictures.

    Args:
        rows: lists of pictures; those at the same place of each list stand below each other.
        words: below each place.
        file: where to.
        columns: how many stand beside each other.

    Raises:
        StorageError: the file cannot be written.
    """
    columns = min(columns, len(words))
    lines = math.ceil(len(words) / columns) * len(rows)
    size = (1.05 * columns, 1.2 * lines)
    figure, axes = pyplot.subplots(
        lines, columns, figsize=size, layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for place, word in enumerate(words):
        line, column = divmod(place, columns)
        below = axes[line * len(rows) : (line + 1) * len(rows), column]
        for axis, row in zip(below, rows, strict=True):
            axis.imshow(picture(row[place]), cmap="gray")
        below[-1].set_title(word, fontsize=7, y=-0.28)
    save(figure, file)


def picture_file(given: Path) -> Path:
    """The file that a picture goes to; a PNG, if its name does not say.

    Raises:
        ConfigError: the name says what no picture is.
    """
    file = given
    if given.name and not given.suffix:
        file = given.with_name(f"{given.name}.png")
    if file.suffix.lower() not in (".png", ".pdf", ".svg", ".jpg"):
        raise ConfigError(f"{given}: expected a picture's name, with .png, .pdf, .svg or .jpg")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"{given}: there is no folder {file.absolute().parent}")
    return file


def save(figure: Any, file: Path) -> None:
    """Write a figure and let it go.

    Raises:
        StorageError: the file cannot be written.
    """
    kind = file.suffix[1:].lower() or "png"
    try:
        with replacing(file) as out:  # a link that stands there is not followed
            figure.savefig(out, dpi=110, format=kind)
    finally:
        pyplot.close(figure)
