"""BatchNorm learns nothing from one value: a last batch of one sample is told with the first."""

from typing import Any

import torch
from torch import nn

from machinery import distributed
from machinery.errors import ConfigError

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def samples_before_single(loader: Any, steps: int) -> int:
    """How many samples the first batch of a pass has, if it surely ends with a batch of one.

    Args:
        loader: of the training data.
        steps: batches of the whole run, which may end before a pass does.

    Returns:
        0: it has no such batch, nobody knows, or several processes share it out.
    """
    if not distributed.alone() or not hasattr(loader, "share"):
        return 0
    first = loader.share(0, 1)
    if first is None or not first.exact or steps < len(loader):
        return 0
    if loader.share(len(loader) - 1, 1).whole != 1:
        return 0
    return first.whole


def counts_tokens(loader: Any) -> bool:
    """Whether batches are of so many tokens, and not samples."""
    return hasattr(loader, "choice") and loader.choice.batch_by == "tokens"


def against_single(loader: Any) -> str:
    """What helps against batches of one sample."""
    if hasattr(loader, "choice") and loader.choice.batch_by is not None:
        return "set another batch_size"
    return "set data_loader.args.drop_last, or another batch_size"


def refuse_single(module: nn.Module, inputs: tuple[Any, ...], samples: int, hint: str) -> None:
    """Refuse a layer for which a batch of one sample would be a single value a channel.

    Args:
        module, inputs: a layer, and what it has got for the first batch.
        samples: in that batch.
        hint: what helps.

    Raises:
        ConfigError: with what to change.
    """
    if not isinstance(module, _NORMS) or not module.training or not torch.is_grad_enabled():
        return
    (values,) = inputs
    if values.shape[0] == samples and values[0, 0].numel() == 1:
        what = "a pass ends with a batch of one sample, too few for BatchNorm"
        raise ConfigError(f"{what}: {hint}")
