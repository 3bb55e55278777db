"""Images in the memory of the machine, or of the GPU: as numbers, or as bytes."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, IterableDataset

from machinery.errors import ConfigError, DataError
from machinery.order.seeding import uniform_rows
from utils.images import Finish, Pixels, check_classes


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


class BytesInMemory(Dataset[Any]):
    """All images of a dataset, read once, and kept as bytes.

    Args:
        dataset: of samples (image, target), as `Finish` takes them.
        finish: makes batches of them.
        device: where they are, and where batches are cut.

    Raises:
        DataError: a sample is something else.
    """

    #: No global generators: they need no seeds.
    draws_from = ()

    def __init__(self, dataset: Any, finish: Finish, device: torch.device) -> None:
        #: What it was read from, which says more of the samples, such as their weights.
        self.samples_read_from = dataset
        pixels, target = finish.evaluation_view()(_read(dataset))
        if not isinstance(target, torch.Tensor):
            what = f"a {type(target).__name__} of each batch"
            raise DataError(f"in_memory keeps targets that are numbers, found {what}: leave it out")
        self.images = pixels.images.to(device)
        if finish.augmentation is not None and finish.augmentation.mixes:
            check_classes(target, finish.classes)
        self.target = target.to(device)
        self.finish = finish
        self.classes = getattr(dataset, "classes", None)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.target[index]

    def __getitems__(self, indices: torch.Tensor) -> tuple[Pixels, Any]:
        """Samples int64 [n] as a batch."""
        indices = indices.to(self.images.device, non_blocking=True)
        target = self.target.index_select(0, indices)
        return self.finish.batch(self.images.index_select(0, indices), target)

    def evaluation_view(self) -> "BytesInMemory":
        """The same images without augmentation, in the same memory."""
        view = BytesInMemory.__new__(BytesInMemory)
        vars(view).update(vars(self), finish=self.finish.evaluation_view())
        return view


def _read(dataset: Any) -> list[Any]:
    """All samples of a dataset.

    Raises:
        DataError: there are none.
    """
    samples = []
    for i in range(len(dataset)):
        try:
            samples.append(dataset[i])
        except (Exception, SystemExit) as error:
            error.add_note(f"in sample {i}")
            raise
    if not samples:
        raise DataError(f"the dataset is empty: {type(dataset).__name__} has no samples")
    return samples


def place_of(resident: bool, workers: int) -> torch.device:
    """Where a loader keeps its images.

    Args:
        resident: in the memory of the GPU, if there is one.
        workers: of the loader.

    Raises:
        ConfigError: workers cannot make batches there.
    """
    accelerator = None
    if resident:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
    if accelerator is None:
        return torch.device("cpu")
    if workers > 0:
        what = "batches are made in the memory of the GPU, where workers cannot be"
        raise ConfigError(f"device_resident: {what}: set num_workers to 0, or leave it out")
    return accelerator


def check_options(dataset: Any, options: dict[str, Any], kept: bool) -> None:
    """Refuse what an `ImageLoader` cannot do.

    Args:
        options: of the loader.
        kept: whether images are read once and for all.

    Raises:
        ConfigError: with what to leave out.
    """
    if "collate_fn" in options:
        raise ConfigError("collate_fn: ImageLoader makes its batches itself: leave it out")
    names = "in_memory and device_resident"
    if kept and isinstance(dataset, IterableDataset):
        raise ConfigError(f"{names} are not for iterable data: leave them out")
    if kept and options.get("skip_unreadable"):
        what = f"has no effect beside {names}, which read all images at the start"
        raise ConfigError(f"skip_unreadable {what}: leave one of them out")
