"""Grids of pictures with a word below each, for the tools that show data."""

import math
import re
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_flatten_with_path, tree_leaves

try:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as pyplot
except ImportError as error:
    raise SystemExit(f"error: {error}; pip install -r requirements-tools.txt") from None

from machinery.errors import ConfigError
from machinery.files import replacing


def images_in(batch: Any) -> torch.Tensor | None:
    """The first tensor of a batch that is pictures: float or bytes [n, 1 or 3, height, width]."""
    return next((each for each in _tensors(batch) if each.ndim == 4 and each.shape[1] in (1, 3) and each.numel()), None)


def labels_in(batch: Any) -> tuple[str, torch.Tensor] | None:
    """The first tensor of a batch that is classes, integers [n], and its place; one that is called so, if there is."""
    found = [
        ("".join(map(str, path)) or "batch", each)
        for path, each in tree_flatten_with_path(batch)[0]
        if isinstance(each, torch.Tensor) and each.ndim == 1 and not each.is_floating_point()
    ]
    named = [pair for pair in found if re.search(r"label|target|class|\by\b", pair[0])]
    return next(iter(named or found), None)


def _tensors(batch: Any) -> list[torch.Tensor]:
    return [each for each in tree_leaves(batch) if isinstance(each, torch.Tensor)]


def picture(image: torch.Tensor) -> Any:
    """A picture [1 or 3, height, width] as matplotlib shows it, from black to white."""
    pixels = image.detach().cpu().float()
    low, high = pixels.min(), pixels.max()
    return ((pixels - low) / (high - low).clamp(min=1e-9)).movedim(0, -1).squeeze(-1).numpy()


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
    n, deep = len(words), len(rows)
    columns = min(columns, n)
    lines = math.ceil(n / columns)
    figure, axes = pyplot.subplots(
        lines * deep, columns, figsize=(1.05 * columns, 1.2 * lines * deep), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for place in range(n):
        line, column = divmod(place, columns)
        for k, row in enumerate(rows):
            axis = axes[line * deep + k][column]
            axis.imshow(picture(row[place]), cmap="gray")
            if k == deep - 1:
                axis.set_title(words[place], fontsize=7, y=-0.28)
    save(figure, file)


def picture_file(given: Path) -> Path:
    """The file that a picture goes to; a PNG, if its name does not say.

    Raises:
        ConfigError: the name says what no picture is.
    """
    file = given if given.suffix else given.with_name(f"{given.name}.png")
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
    try:
        with replacing(file) as out:  # a link that stands there is not followed
            figure.savefig(out, dpi=110, format=file.suffix[1:].lower() or "png")
    finally:
        pyplot.close(figure)
