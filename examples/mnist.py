"""The whole of MNIST: import it in data_loader/data_loaders.py, and name it in the config."""

from pathlib import Path
from typing import Any

import torch

from data_loader.data_loaders import DigitsDataLoader
from utils import DataError


class MnistDataLoader(DigitsDataLoader):
    """MNIST (60,000 training and 10,000 test digits), as torchvision has it.

    Args:
        data_dir, batch_size: where it is, and how many make up a batch.
        download: fetch it at the first use.
        options: of `DigitsDataLoader`.
    """

    def __init__(
        self,
        data_dir: str = "data",
        batch_size: int = 64,
        *,
        download: bool = False,
        **options: Any,
    ) -> None:
        self.download = download
        super().__init__(data_dir, batch_size, **options)

    def read(self, folder: Path, training: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 [n, 28, 28] and labels int64 [n].

        Raises:
            DataError: the files are neither there nor to be had.
        """
        # Imported here: torchvision doubles the start-up, and only this loader wants it.
        from torchvision.datasets import MNIST

        try:
            data = MNIST(str(folder), train=training, download=self.download)
        except (RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            hint = "the bundled digits need no network: python train.py -c config.json"
            if not self.download:
                hint = "data_loader.args.download=true fetches it"
            raise DataError(f"MNIST is not in {folder}: {reason}\n  {hint}") from error
        return data.data, data.targets
