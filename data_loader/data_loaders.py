"""The data loaders: add yours here and name it in `data_loader` of the config."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from base import BaseDataLoader
from data_loader.image_loader import ImageLoader as ImageLoader
from utils import DataError, DatasetMaker, project_path
from utils.in_memory import InMemoryImages, place_of

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
        device = place_of(device_resident, num_workers)
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
