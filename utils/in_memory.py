"""Images in the memory of the machine, or of the GPU: as numbers, or as bytes."""

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from machinery.errors import DataError, UserError
from machinery.order.seeding import uniform_rows
from machinery.order.split import is_unreadable
from machinery.telling import told
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
        skips: samples that are None or cannot be read are left out of batches.

    Raises:
        DataError: a sample is something else, or cannot be read.
    """

    #: No global generators: they need no seeds.
    draws_from = ()

    def __init__(
        self, dataset: Any, finish: Finish, device: torch.device, skips: bool = False
    ) -> None:
        plain = finish.evaluation_view()
        self._dataset = dataset
        # What cannot be read, by its number, with the error; None: it is None.
        self._unreadable: dict[int, Exception | None] = {}
        samples = [self._read(dataset, i, skips) for i in range(len(dataset))]
        if self._unreadable:
            there = [sample for i, sample in enumerate(samples) if i not in self._unreadable]
            if not there:
                raise DataError("no sample can be read")
            for i in self._unreadable:
                samples[i] = there[0]  # to hold its place: nobody is given it
        pixels, target = plain(samples)
        if not isinstance(target, torch.Tensor):
            kind = type(target).__name__
            raise DataError(f"in memory a target is a number or a tensor, and not of a {kind}")
        self.images = pixels.images.to(device)
        if finish.augmentation is not None and finish.augmentation.mixes:
            check_classes(target, finish.classes)
        self.target = target.to(device)
        self.finish = finish
        self.classes = getattr(dataset, "classes", None)

    def __getattr__(self, name: str) -> Any:
        """What the dataset says of its samples, such as `targets`, by which they are chosen."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self.images)

    def _read(self, dataset: Any, i: int, skips: bool) -> Any:
        """A sample; None, and a note of it, if it can be left out."""
        try:
            sample = dataset[i]
        except UserError:
            raise
        except Exception as error:
            if not skips or not is_unreadable(error):
                raise DataError(f"sample {i}: {told(error)}") from error
            self._unreadable[i] = error.with_traceback(None)
            return None
        if sample is None and skips:
            self._unreadable[i] = None
        return sample

    def __getitem__(self, index: int) -> Any:
        if index not in self._unreadable:
            return self.images[index], self.target[index]
        error = self._unreadable[index]
        if error is None:
            return None
        raise error.with_traceback(None)

    def __getitems__(self, indices: torch.Tensor) -> tuple[Pixels, Any] | None:
        """Samples int64 [n] as a batch; None if one of them is to be left out."""
        if self._unreadable and not self._unreadable.keys().isdisjoint(indices.tolist()):
            return None
        indices = indices.to(self.images.device, non_blocking=True)
        target = self.target.index_select(0, indices)
        return self.finish.batch(self.images.index_select(0, indices), target)

    def evaluation_view(self) -> "BytesInMemory":
        """The same images without augmentation, in the same memory."""
        view = BytesInMemory.__new__(BytesInMemory)
        vars(view).update(vars(self), finish=self.finish.evaluation_view())
        return view
