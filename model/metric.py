"""The metrics: add yours here and name it in `metrics` of the config.

A metric takes the network's output and the target and returns one value for each sample [n]
(averages are then exact over samples, whatever the batches are), or the mean over the batch, or it
is an object with update, compute and reset. Where images are mixed, the target of a class is its
share, float [n, classes].
"""

import torch


def _main_class(target: torch.Tensor) -> torch.Tensor:
    """Classes int64 [n]; of shares float [n, classes] the largest."""
    if target.ndim == 2 and target.is_floating_point():
        return target.argmax(dim=1)
    return target


def accuracy(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """1 where the highest of the scores [n, classes] is the class int64 [n], else 0; float [n]."""
    return (output.argmax(dim=1) == _main_class(target)).float()


def top_k_acc(output: torch.Tensor, target: torch.Tensor, k: int = 3) -> torch.Tensor:
    """1 where the class int64 [n] is among the `k` highest scores [n, classes]; float [n]."""
    return (output.topk(k, dim=1).indices == _main_class(target)[:, None]).any(dim=1).float()
