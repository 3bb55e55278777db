"""How well the neighbours of an image tell its class."""

import math
from typing import Any

import torch


class KNN:
    """The share of images whose class is the most frequent one among the nearest others.

    Args:
        k: how many neighbours.
    """

    def __init__(self, k: int = 5) -> None:
        self.k = k
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self.vectors: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        """Add vectors float [n, width] of length 1, and classes int64 [n]."""
        self.vectors.append(output.detach().float().cpu())
        self.labels.append(target.cpu())

    def compute(self) -> float:
        """Of all images since the last reset; NaN of less than two."""
        n = sum(len(labels) for labels in self.labels)
        if n < 2:
            return math.nan
        vectors = torch.cat(self.vectors)
        labels = torch.cat(self.labels)
        k = min(self.k, n - 1)
        right = 0
        for start in range(0, n, 1000):  # a matrix of all pairs would be large
            some = vectors[start : start + 1000]
            alike = some @ vectors.T
            places = torch.arange(len(some))
            alike[places, start + places] = -torch.inf  # not itself
            near = labels[alike.topk(k, dim=1).indices]
            found = near.mode(dim=1).values
            right += int((found == labels[start : start + 1000]).sum())
        return right / n

    def merge_state(self, other: "KNN") -> None:
        """Add the images of another process."""
        self.vectors += other.vectors
        self.labels += other.labels

    def state_dict(self) -> dict[str, Any]:
        """The images so far, for a checkpoint inside an epoch."""
        return {"vectors": list(self.vectors), "labels": list(self.labels)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.vectors = list(state["vectors"])
        self.labels = list(state["labels"])
