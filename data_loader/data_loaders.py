"""The data loaders: add yours here and name it in `data_loader` of the config."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from base import BaseDataLoader
from utils import DataError, DatasetMaker, project_path, uniform_rows

#: Mean and standard deviation of MNIST's pixels, of 0..1.
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


class DigitsDataLoader(BaseDataLoader):
    """The 5,000 bundled digits (`data/mnist5k.npz`, a balanced part of MNIST).

    4,000 are for training, 1,000 for testing.

    Args:
        data_dir: the folder of the file, relative to the project's root.
        batch_size, shuffle, validation_split, num_workers, options: as in `BaseDataLoader`.
        training: the training samples, or the test samples.
        shift: in training, move each image by up to this many pixels in both directions.
        rotate: in training, turn each image by up to this many degrees to either side.
        device_resident: keep the images in the memory of the GPU, and make the batches there.
    """

    def __init__(
        self,
        data_dir: str = "data",
        batch_size: int = 64,
        shuffle: bool = True,
        validation_split: float = 0.0,
        num_workers: int = 0,
        training: bool = True,
        shift: float = 0.0,
        rotate: float = 0.0,
        device_resident: bool = False,
        **options: Any,
    ) -> None:
        images, labels = self.read(project_path(data_dir), training)
        accelerator = None
        if device_resident:
            accelerator = torch.accelerator.current_accelerator(check_available=True)
        device = torch.device("cpu") if accelerator is None else accelerator
        dataset = InMemoryImages(images, labels, MNIST_MEAN, MNIST_STD, device=device)
        if training:
            dataset.shift = shift
            dataset.rotate = rotate
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)

    def read(self, folder: Path, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 [n, 28, 28] and labels [n].

        Raises:
            DataError: the file is not there.
        """
        file = folder / "mnist5k.npz"
        if not file.exists():
            raise DataError(
                f"{file} is missing: it came with the project; or set data_loader.args.data_dir"
            )
        with np.load(file, allow_pickle=False) as arrays:
            images = arrays["images"]
            labels = arrays["labels"]
        # The file is sorted by class, 500 of each: the first 400 are for training.
        by_class = np.arange(len(labels)).reshape(10, 500)
        chosen = by_class[:, :400] if training else by_class[:, 400:]
        rows = chosen.reshape(-1)
        return torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])


class DatasetLoader(BaseDataLoader):
    """A dataset that the config describes, such as one of torchvision's.

    Args:
        dataset: makes it, to train on and to evaluate.
        training: the training samples, or the test samples.
        options: as in `BaseDataLoader`.
    """

    def __init__(self, dataset: DatasetMaker, training: bool = True, **options: Any) -> None:
        self.maker = dataset
        super().__init__(dataset.made(training), **options)

    def evaluation_data(self) -> Any:
        """The dataset with the arguments that it has for evaluation."""
        return self.maker.evaluated(self.dataset)


class InMemoryImages(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Grey images and their labels, normalised once.

    Args:
        images: uint8 [n, height, width].
        labels: integers [n].
        mean, std: of the pixels, of 0..1.
        shift: move each image by up to this many pixels in both directions.
        rotate: turn each image by up to this many degrees to either side.
        device: where the images are, and where batches are cut and augmented.
    """

    #: No global generators: they need no seeds.
    draws_from = ()

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        mean: float,
        std: float,
        shift: float = 0.0,
        rotate: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        #: Float [n, 1, height, width], and int64 [n].
        self.images = images.unsqueeze(1).float().div_(255).sub_(mean).div_(std).to(device)
        self.labels = labels.long().to(device)
        self.shift = shift
        self.rotate = rotate
        self.mean = mean
        self.std = std
        self.background = -mean / std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.__getitems__(torch.tensor([index]))
        return images[0], labels[0]

    def __getitems__(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples int64 [n] as a batch: images float [n, 1, height, width] and labels int64 [n]."""
        indices = indices.to(self.labels.device, non_blocking=True)
        # It copies rows: a third of the time of images[indices].
        images = self.images.index_select(0, indices)
        if self.shift or self.rotate:
            images = self._augment(images)
        return images, self.labels.index_select(0, indices)

    def _augment(self, images: torch.Tensor) -> torch.Tensor:
        """Turn and shift each image by amounts that depend on the sample's place alone."""
        n, _, height, width = images.shape
        amounts = uniform_rows(n, 3).to(images.device, non_blocking=True) * 2 - 1
        angle = amounts[:, 0] * math.radians(self.rotate)
        # Coordinates run from -1 to 1, so a pixel is 2 / size wide.
        right = amounts[:, 1] * (2 * self.shift / width)
        down = amounts[:, 2] * (2 * self.shift / height)
        cos = angle.cos()
        sin = angle.sin()
        turn = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(n, 2, 3)
        grid = F.affine_grid(turn, [n, 1, height, width], align_corners=False)
        # grid_sample fills with 0, so 0 is made the background for the moment.
        turned = F.grid_sample(images - self.background, grid, align_corners=False)
        return turned.add_(self.background)

    def evaluation_view(self) -> "InMemoryImages":
        """The same samples without augmentation, sharing the memory."""
        view = copy.copy(self)
        view.shift = 0.0
        view.rotate = 0.0
        return view
