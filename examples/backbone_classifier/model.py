"""Any classifier of torchvision by its name, with weights of one's own, torchvision's or none."""

import logging

import torch
import torchvision
from torch import nn

from base import BaseModel
from utils import checkpoint
from utils.errors import ConfigError
from utils.files import ROOT


class Backbone(BaseModel):
    """A network of `torchvision.models` with a new last layer.

    Args:
        name: such as "resnet18" or "vit_b_16"; `torchvision.models.list_models(torchvision.models)` has them all.
        num_classes: how many classes.
        weights: a file with a `state_dict`, relative to the project's root; or "default": torchvision's, which are
            downloaded, and without a network left out with a warning; or None. The last layer keeps its fresh weights.

    Raises:
        ConfigError: the weights are of another network.
    """

    def __init__(self, name: str, num_classes: int, weights: str | None = None) -> None:
        super().__init__()
        self.net = torchvision.models.get_model(name, num_classes=num_classes)
        if weights is not None:
            self._load(self._read(name, weights))

    def _read(self, name: str, weights: str) -> dict[str, torch.Tensor]:
        if weights != "default":
            return checkpoint.load(ROOT / weights)["state_dict"]
        try:
            return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict()
        except OSError as error:  # no network
            logging.getLogger("model").warning(f"{name} starts with random weights: {error}")
            return {}

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        own = self.net.state_dict()
        head = [key for key, value in weights.items() if key in own and own[key].shape != value.shape]
        if weights.keys() - own.keys() or len(head) > 2:
            raise ConfigError(f"the weights are of another network: {[*(weights.keys() - own.keys()), *head][:3]}")
        self.net.load_state_dict({**own, **{key: value for key, value in weights.items() if key not in head}})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, height, width] to logits float [n, num_classes]."""
        return self.net(x.expand(-1, 3, -1, -1))

    @property
    def head(self) -> nn.Module:
        """The last layer."""
        return [module for module in self.net.modules() if not [*module.children()]][-1]
