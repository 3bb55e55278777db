"""A small U-Net (Ronneberger et al. 2015, arXiv:1505.04597)."""

import torch
from torch import nn

from base import BaseModel


def twice(ins: int, outs: int) -> nn.Sequential:
    """Two convolutions, the first of which changes the number of channels."""
    first = [nn.Conv2d(ins, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU()]
    second = [nn.Conv2d(outs, outs, 3, padding=1, bias=False), nn.BatchNorm2d(outs), nn.ReLU()]
    return nn.Sequential(*first, *second)


class UNet(BaseModel):
    """Down two times and up again, with what was seen on the way down beside it.

    Args:
        num_classes: what a pixel can be.
        width: channels of the first layer.
        channels: of the pictures.
    """

    def __init__(self, num_classes: int, width: int = 12, channels: int = 1) -> None:
        super().__init__()
        double = 2 * width
        deepest = 4 * width
        self.down1 = twice(channels, width)
        self.down2 = twice(width, double)
        self.bottom = twice(double, deepest)
        self.up2 = nn.ConvTranspose2d(deepest, double, 2, 2)
        self.up1 = nn.ConvTranspose2d(double, width, 2, 2)
        self.join2 = twice(deepest, double)
        self.join1 = twice(double, width)
        self.head = nn.Conv2d(width, num_classes, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pictures float [n, channels, 4 h, 4 w] to logits float [n, num_classes, 4 h, 4 w]."""
        a = self.down1(x)
        b = self.down2(self.pool(a))
        c = self.bottom(self.pool(b))
        b = self.join2(torch.cat([b, self.up2(c)], dim=1))
        return self.head(self.join1(torch.cat([a, self.up1(b)], dim=1)))
