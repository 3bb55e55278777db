"""Images held in memory as one tensor, fetched and augmented a whole batch at a time."""

import copy
import math

import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from utils.seeding import uniform_rows


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

    #: The global generators need no seed for each batch.
    draws_rows_only = True

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
        self.shift, self.rotate = shift, rotate
        self.background = -mean / std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = self.__getitems__(torch.tensor([index]))
        return images[0], labels[0]

    def __getitems__(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples int64 [n] as a batch: images float [n, 1, height, width] and labels int64 [n]."""
        indices = indices.to(self.labels.device)
        images = self.images.index_select(0, indices)  # copies rows: a third of the time of images[indices]
        if self.shift or self.rotate:
            images = self._augment(images)
        return images, self.labels.index_select(0, indices)

    def _augment(self, images: torch.Tensor) -> torch.Tensor:
        """Turn and shift each image by amounts that depend on the sample's place alone."""
        n, _, height, width = images.shape
        amounts = uniform_rows(n, 3).to(images.device) * 2 - 1
        angle = amounts[:, 0] * math.radians(self.rotate)
        # Coordinates run from -1 to 1, so a pixel is 2 / size wide.
        right, down = amounts[:, 1] * (2 * self.shift / width), amounts[:, 2] * (2 * self.shift / height)
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([cos, -sin, right, sin, cos, down], dim=1).view(n, 2, 3)
        grid = F.affine_grid(turn, [n, 1, height, width], align_corners=False)
        # grid_sample fills with 0, so 0 is made the background for the moment.
        return F.grid_sample(images - self.background, grid, align_corners=False).add_(self.background)

    def evaluation_view(self) -> "InMemoryImages":
        """The same samples without augmentation, sharing the memory."""
        view = copy.copy(self)
        view.shift = view.rotate = 0.0
        return view
