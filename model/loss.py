"""The losses: add yours here and name it in `loss` of the config.

A loss takes the network's output and the target and returns the mean over the batch.
"""

import torch
import torch.nn.functional as F


def nll_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Negative log-likelihood of log-probabilities [n, classes] and classes int64 [n]."""
    return F.nll_loss(output, target)


def cross_entropy(
    output: torch.Tensor, target: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of logits [n, classes] and classes int64 [n].

    Args:
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016,
            arXiv:1512.00567).
    """
    return F.cross_entropy(output, target, label_smoothing=label_smoothing)
