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
from utils import ROOT, ConfigError, DataError

#: Mean and standard deviation that torchvision's weights expect.
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class FolderLoader(BaseDataLoader):
    """Pictures in `train`, `val` and `test` of a folder, each with a folder for every class.

    Args:
        data_dir: the folder, relative to the project's root; `drawn_shapes` is drawn if it is not there.
        classes: the names of the classes, sorted, as the network's outputs are; a checkpoint keeps them.
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
        self.folder, self.classes, self.size = ROOT / data_dir, classes, size
        if not self.folder.exists() and self.folder.name == "drawn_shapes":
            logging.getLogger("data_loader").info(f"drawing pictures of shapes: {self.folder}")
            draw_shapes(self.folder)
        missing = [name for name in ("train", "val", "test") if not (self.folder / name).is_dir()]
        if missing:  # before a training, at whose end they would be missed
            raise DataError(f"{self.folder} has no folder {', '.join(missing)}")
        augmentation = [v2.RandomResizedCrop(size, (0.7, 1.0), antialias=True), v2.RandomHorizontalFlip()]
        dataset = self._read("train", augmentation) if training else self._read("test")
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)
        self.validation = self._read("val") if training else None

    def _read(self, part: str, augmentation: list[Any] | None = None) -> ImageFolder:
        resized = augmentation or [v2.Resize((self.size, self.size), antialias=True)]
        steps = [v2.ToImage(), *resized, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        pictures = ImageFolder(self.folder / part, v2.Compose(steps))
        if pictures.classes != self.classes:
            raise DataError(f"{self.folder / part} has {pictures.classes}, but the config says {self.classes}: sorted?")
        return pictures

    def split_validation(self) -> BaseDataLoader:
        """The pictures in `val`, without augmentation."""
        kwargs = {**self.init_kwargs, "dataset": self.validation, "shuffle": False, "drop_last": False}
        return BaseDataLoader(validation_split=0.0, name="val", **kwargs)


def draw_shapes(folder: Path) -> None:
    """Draw small pictures of bars, discs and rings: 60 of each for training, 20 for validation, 20 for testing."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("val", 20), ("test", 20)):
        for kind in ("bar", "disc", "ring"):
            (folder / part / kind).mkdir(parents=True, exist_ok=True)
            for i in range(n):
                paper = Image.fromarray(rng.integers(0, 90, (48, 48, 3), dtype=np.uint8))
                x, y, r = rng.integers(14, 34), rng.integers(14, 34), rng.integers(7, 13)
                box, colour = [int(x - r), int(y - r), int(x + r), int(y + r)], tuple(rng.integers(90, 256, 3).tolist())
                pen = ImageDraw.Draw(paper)
                if kind == "bar":
                    pen.line(box, fill=colour, width=5)
                else:
                    pen.ellipse(box, fill=colour if kind == "disc" else None, outline=colour, width=3)
                paper.save(folder / part / kind / f"{i:03}.png")
