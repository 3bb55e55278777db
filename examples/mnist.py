"""The whole of MNIST: import it in data_loader/data_loaders.py, and name it in the config."""

from pathlib import Path

import torch

from data_loader.data_loaders import DigitsDataLoader
from utils import DataError


class MnistDataLoader(DigitsDataLoader):
    """MNIST (60,000 training and 10,000 test digits), downloaded by torchvision at the first use.

    The arguments are those of `DigitsDataLoader`; it goes to `data_dir`.
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
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"MNIST is not in {folder} and could not be downloaded: {reason}\n"
                "  the bundled digits need no network: python train.py -c config.json"
            ) from error
        return data.data, data.targets
