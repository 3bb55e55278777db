"""The data loaders: add yours here and name it in `data_loader` of the config."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from base import BaseDataLoader
from data_loader.images import InMemoryImages
from utils.errors import DataError
from utils.files import ROOT

#: Mean and standard deviation of MNIST's pixels, of 0..1.
MNIST_MEAN, MNIST_STD = 0.1307, 0.3081


class DigitsDataLoader(BaseDataLoader):
    """The 5,000 bundled digits (`data/mnist5k.npz`, a balanced part of MNIST): 4,000 for training, 1,000 for testing.

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
        images, labels = self.read(ROOT / data_dir, training)
        augmentation = {"shift": shift, "rotate": rotate} if training else {}
        device = torch.accelerator.current_accelerator(check_available=True) if device_resident else None
        dataset = InMemoryImages(images, labels, MNIST_MEAN, MNIST_STD, **augmentation, device=device or "cpu")
        super().__init__(dataset, batch_size, shuffle, validation_split, num_workers, **options)

    def read(self, folder: Path, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 [n, 28, 28] and labels [n].

        Raises:
            DataError: the file is not there.
        """
        file = folder / "mnist5k.npz"
        if not file.exists():
            raise DataError(f"{file} is missing: `git checkout data` restores it, or set data_loader.args.data_dir")
        with np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
        # The file is sorted by class, 500 of each: the first 400 are for training.
        by_class = np.arange(len(labels)).reshape(10, 500)
        rows = (by_class[:, :400] if training else by_class[:, 400:]).reshape(-1)
        return torch.from_numpy(images[rows]), torch.from_numpy(labels[rows])


class MnistDataLoader(DigitsDataLoader):
    """MNIST (60,000 training and 10,000 test digits), downloaded by torchvision to `data_dir` at the first use.

    The arguments are those of `DigitsDataLoader`.
    """

    def read(self, folder: Path, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 [n, 28, 28] and labels int64 [n].

        Raises:
            DataError: the files are neither there nor to be had.
        """
        # Imported here: torchvision doubles the start-up, and only this loader wants it.
        from torchvision.datasets import MNIST

        try:
            data = MNIST(str(folder), train=training, download=True)
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"MNIST is not in {folder} and could not be downloaded: {str(error).strip().splitlines()[0]}\n"
                "  the bundled digits need no network: python train.py -c config.json"
            ) from error
        return data.data, data.targets
