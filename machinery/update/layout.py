"""How the weights of a network lie in memory."""

from typing import Any, cast

import torch
from torch import nn

from machinery.errors import ConfigError


def channels_last(model: nn.Module) -> nn.Module:
    """A network with the channels of its convolutions last in memory.

    Raises:
        ConfigError: it has weights that torch cannot have so.
    """
    for name, weight in model.named_parameters():
        if not nn.parameter.is_lazy(weight) and weight.ndim == 5:
            what = f"{name} has 5 dimensions, and it is for 2-D convolutions"
            raise ConfigError(f"trainer.channels_last: {what}: set trainer.channels_last=false")
    moved: Any = model
    return cast(nn.Module, moved.to(memory_format=torch.channels_last))
