"""The base of every network."""

from abc import ABC, abstractmethod
from typing import Any

from torch import nn


class BaseModel(nn.Module, ABC):
    """A network that says how many parameters it has when printed; a subclass defines `forward`."""

    @abstractmethod
    def forward(self, *inputs: Any) -> Any:
        """Compute the output of a batch."""

    def __str__(self) -> str:
        trainable = 0
        for parameter in self.parameters():
            if parameter.requires_grad:
                trainable += parameter.numel()
        return f"{super().__str__()}\nTrainable parameters: {trainable:,}"
