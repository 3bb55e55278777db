"""Learning without labels: an image is to be near its other view, and far from all others.

Chen et al. 2020, arXiv:2002.05709.
"""

from typing import Any

import torch
import torch.nn.functional as F

from trainer import Trainer
from utils import whole_batch


def nt_xent(first: torch.Tensor, second: torch.Tensor, temperature: float = 0.2) -> torch.Tensor:
    """The mean cross-entropy of finding each view's partner among all others of the batch.

    Args:
        first, second: two views of the same images, float [n, width], of length 1.
        temperature: divides the cosines; lower looks at near ones alone.
    """
    n = len(first)
    views = torch.cat([first, second])
    alike = views @ views.T / temperature
    alike.fill_diagonal_(-torch.inf)
    partners = torch.arange(2 * n, device=views.device).roll(n)
    return F.cross_entropy(alike, partners)


# It compares the samples of a batch with each other, and is no mean over them.
nt_xent.in_batch = True  # type: ignore[attr-defined]


class ContrastiveTrainer(Trainer):
    """The labels are for the metric alone."""

    def _forward(self, batch: Any) -> tuple[Any, Any, Any]:
        first, second, labels = batch
        vectors = self.model(torch.cat([first, second]))
        mine, other = vectors.chunk(2)
        # Of several processes, each compares the images of all.
        loss = self.criterion(whole_batch(mine), whole_batch(other))
        return loss, mine.detach(), labels
