"""Networks for images of 32 x 32, written out: torchvision may be missing where they are needed."""

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    """Two convolutions beside the way through (He et al. 2016, arXiv:1512.03385).

    Args:
        before, after: channels.
        stride: of the first convolution.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)
        self.way: nn.Module = nn.Identity()
        if stride > 1 or before != after:
            self.way = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [n, before, height, width] to [n, after, height / stride, width / stride]."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.way(x))


class ResNet18(nn.Module):
    """A ResNet-18 for small images.

    Args:
        width: channels of the first of its four stages.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        blocks = []
        before = width
        for stage in range(4):
            after = width * 2**stage
            blocks.append(Residual(before, after, 1 if stage == 0 else 2))
            blocks.append(Residual(after, after, 1))
            before = after
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(before, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 3, 32, 32] to scores [n, 10]."""
        x = F.relu(self.norm(self.stem(x)))
        return self.head(self.blocks(x).mean((2, 3)))


class Group(nn.Module):
    """Two convolutions, the first of them pooled."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Float [n, before, size, size] to [n, after, size / 2, size / 2]."""
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class FastNet(nn.Module):
    """The shape of airbench's network, which trains CIFAR-10 in seconds (arXiv:2404.00498).

    Args:
        width: channels of its first group; the others have four times as many.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 2)
        sizes = ((24, width), (width, 4 * width), (4 * width, 4 * width))
        self.groups = nn.Sequential(*[Group(before, after) for before, after in sizes])
        self.head = nn.Linear(4 * width, 10, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 3, 32, 32] to scores [n, 10]."""
        x = self.groups(F.gelu(self.stem(x)))
        return self.head(x.amax((2, 3))) / 9
