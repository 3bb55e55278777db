"""Pictures in folders, one for each class; those of shapes are drawn."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from base import BaseDataLoader
from utils import ConfigError, DataError, project_path

#: Mean and standard deviation that torchvision's weights expect.
MEAN = [0.485, 0.456, 0.406]
STD = [0.229, 0.224, 0.225]


class FolderLoader(BaseDataLoader):
    """Pictures in `train`, `val` and `test` of a folder, each with a folder for every class.

    Args:
        data_dir: the folder, relative to the project's root; `drawn_shapes` is drawn if it is not
            there.
        classes: the names of the classes, sorted, as the network's outputs are; a checkpoint keeps
            them.
        size: height and width, in pixels, that pictures are brought to.
        training: the training pictures, with augmentation, or the test pictures.
        batch_size, shuffle, num_workers, options: as in `BaseDataLoader`.

    Raises:
        DataError: the folders are not those of the classes.
    """

    def __init__(
        self,
        data_dir: str,
        classes: list[str],
        size: int = 64,
        training: bool = True,
        batch_size: int = 16,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        if validation_split:
            raise ConfigError("validation_split: leave it out, the folder val is for it")
        self.folder = project_path(data_dir)
        self.classes = classes
        if not self.folder.exists() and self.folder.name == "drawn_shapes":
            logging.getLogger("data_loader").info(f"drawing pictures of shapes: {self.folder}")
            draw_shapes(self.folder)
        missing = [name for name in ("train", "val", "test") if not (self.folder / name).is_dir()]
        if missing:  # before a training, at whose end they would be missed
            raise DataError(f"{self.folder} has no folder {', '.join(missing)}")
        self.resize = v2.Resize((size, size), antialias=True)
        if training:
            crop = v2.RandomResizedCrop(size, (0.7, 1.0), antialias=True)
            dataset = self._read("train", crop, v2.RandomHorizontalFlip())
        else:
            dataset = self._read("test", self.resize)
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)

    def _read(self, part: str, *transforms: v2.Transform) -> ImageFolder:
        """The pictures of a part, each of them transformed and normalised."""
        to_numbers = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        steps = v2.Compose([v2.ToImage(), *transforms, *to_numbers])
        pictures = ImageFolder(self.folder / part, steps)
        if pictures.classes != self.classes:
            there = f"{self.folder / part} has {pictures.classes}"
            raise DataError(f"{there}, but the config says {self.classes}: sorted?")
        return pictures

    def split_validation(self) -> BaseDataLoader:
        """The pictures in `val`, without augmentation."""
        pictures = self._read("val", self.resize)
        changed = {"dataset": pictures, "shuffle": False, "drop_last": False}
        options = {**self.init_kwargs, **changed}
        return BaseDataLoader(validation_split=0.0, name="val", **options)


def draw_shapes(folder: Path) -> None:
    """Draw 60 bars, discs and rings each for training, 20 for validation and 20 for testing."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("val", 20), ("test", 20)):
        for kind in ("bar", "disc", "ring"):
            pictures = folder / part / kind
            pictures.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                draw_shape(kind, rng).save(pictures / f"{i:03}.png")


def draw_shape(kind: str, rng: np.random.Generator) -> Image.Image:
    """A bar, a disc or a ring of some size and colour, somewhere on a noisy paper."""
    paper = Image.fromarray(rng.integers(0, 90, (48, 48, 3), dtype=np.uint8))
    x = int(rng.integers(14, 34))
    y = int(rng.integers(14, 34))
    r = int(rng.integers(7, 13))
    box = [x - r, y - r, x + r, y + r]
    colour = tuple(rng.integers(90, 256, 3).tolist())
    pen = ImageDraw.Draw(paper)
    if kind == "bar":
        pen.line(box, fill=colour, width=5)
    elif kind == "disc":
        pen.ellipse(box, fill=colour, outline=colour, width=3)
    else:
        pen.ellipse(box, outline=colour, width=3)
    return paper
