"""Any classifier of torchvision by its name, with weights of one's own, torchvision's or none."""

import logging

import torch
import torchvision

from base import BaseModel
from utils import ROOT, CheckpointError, ConfigError


class Backbone(BaseModel):
    """A network of `torchvision.models` with a new last layer.

    Args:
        name: such as "resnet18" or "vit_b_16"; `torchvision.models.list_models(torchvision.models)` has them all.
        num_classes: how many classes.
        weights: a file, relative to the project's root: the `state_dict` of the network, or a checkpoint of this
            template with it; or "default": torchvision's, which are downloaded, and without a network left out with a
            warning; or None. The last layer stays fresh.

    Raises:
        ConfigError: the weights are of another network.
        CheckpointError: the file cannot be read.
    """

    def __init__(self, name: str, num_classes: int, weights: str | None = None) -> None:
        super().__init__()
        self.net = torchvision.models.get_model(name, num_classes=num_classes)
        if weights is not None:
            self._load(name, read_weights(name, weights))

    def _load(self, name: str, weights: dict[str, torch.Tensor]) -> None:
        """Take all weights but those of the last layer, whose shapes follow the number of classes."""
        with torch.device("meta"):
            two, three = (torchvision.models.get_model(name, num_classes=n).state_dict() for n in (2, 3))
        own, head = self.net.state_dict(), {key for key in two if two[key].shape != three[key].shape}
        weights = {key.removeprefix("net."): value for key, value in weights.items()}
        other = [key for key in own.keys() | weights.keys() if key not in head and not _fits(own, weights, key)]
        if weights and other:
            raise ConfigError(f"the weights are of another network than {name}: {', '.join(sorted(other)[:3])}")
        self.net.load_state_dict({**own, **{key: value for key, value in weights.items() if key not in head}})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, height, width] to logits float [n, num_classes]."""
        output = self.net(x.expand(-1, 3, -1, -1))
        return (
            output if isinstance(output, torch.Tensor) else output.logits
        )  # of Inception, which has others in training


def _fits(own: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], key: str) -> bool:
    return key in own and key in weights and own[key].shape == weights[key].shape


def read_weights(name: str, weights: str) -> dict[str, torch.Tensor]:
    """Weights by name: torchvision's, or of a file."""
    if weights != "default":
        try:
            content = torch.load(ROOT / weights, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a foreign file holds
            raise CheckpointError(f"{ROOT / weights} cannot be read: {type(error).__name__}: {error}") from error
        return content.get("state_dict", content)
    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict()
    except OSError as error:  # no network
        logging.getLogger("model").warning(f"{name} starts with random weights: {error}")
        return {}
