"""A loader of images that travel as bytes (see `utils.images`)."""

from collections.abc import Sequence
from typing import Any

import torch

from base import BaseDataLoader
from utils import ConfigError, DatasetMaker
from utils.augmentation import Augmentation
from utils.images import Finish
from utils.in_memory import BytesInMemory, check_options, place_of


class ImageLoader(BaseDataLoader):
    """Images that travel as bytes: on the device they are normalised, and in training augmented.

    Args:
        dataset: of samples (image, target): images of PIL, or uint8, of one size.
        mean, std: of each channel, of 0..1.
        training: the training samples, or the test samples.
        in_memory: read all images once, and keep them.
        device_resident: keep them in the memory of the GPU, if there is one.
        crop, flip, colour, erase, mixup, cutmix: what becomes of an image in training, as in
            `utils.augmentation.Augmentation`.
        classes: how many there are, for mixup and cutmix; by default as many as the dataset says.
        options: as in `BaseDataLoader`.

    Raises:
        ConfigError: they contradict each other.
    """

    def __init__(
        self,
        dataset: DatasetMaker,
        mean: Sequence[float],
        std: Sequence[float],
        training: bool = True,
        in_memory: bool = False,
        device_resident: bool = False,
        crop: int = 0,
        flip: float = 0.0,
        colour: float = 0.0,
        erase: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        classes: int | None = None,
        **options: Any,
    ) -> None:
        self.maker = dataset
        self._device: torch.device | None = None
        if in_memory or device_resident:
            self._device = place_of(device_resident, options.get("num_workers", 0))
        self._source = dataset.made(training)
        check_options(self._source, options, kept=self._device is not None)
        asked = Augmentation(crop, flip, colour, erase, mixup, cutmix)
        if classes is None:
            classes = len(getattr(self._source, "classes", None) or ())
        elif not 0 < classes < 2**31:
            raise ConfigError(f"classes: expected an integer of at least 1, found {classes}")
        if asked.mixes and training and classes == 0:
            what = "the dataset does not say how many classes it has"
            raise ConfigError(f"mixup and cutmix: {what}: give classes")
        self._finish = Finish(mean, std, asked if training else None, classes)
        kept = self._kept(self._source, self._finish)
        super().__init__(kept, collate_fn=self._finish, **options)

    def _kept(self, dataset: Any, finish: Finish) -> Any:
        """A dataset, in memory if that is asked for."""
        if self._device is None:
            return dataset
        return BytesInMemory(dataset, finish, self._device)

    def evaluation_data(self) -> Any:
        """The images without augmentation; in memory they are the same."""
        view = self.maker.evaluated(self._source)
        if view is self._source and isinstance(self.dataset, BytesInMemory):
            return self.dataset.evaluation_view()
        return self._kept(view, self._finish.evaluation_view())
