"""Any classifier of torchvision by its name, with weights of one's own, torchvision's or none."""

import logging

import torch
import torchvision

from base import BaseModel
from utils import CheckpointError, ConfigError, project_path


class Backbone(BaseModel):
    """A network of `torchvision.models` with a new last layer.

    Args:
        name: such as "resnet18" or "vit_b_16"; `torchvision.models.list_models(torchvision.models)`
            has them all.
        num_classes: how many classes.
        weights: a file, relative to the project's root: the `state_dict` of the network, or a
            checkpoint of this template with it; or "default": torchvision's, which are downloaded,
            and without a network left out with a warning; or None. The last layer stays fresh.

    Raises:
        ConfigError: the weights are of another network.
        CheckpointError: the file cannot be read.
    """

    def __init__(self, name: str, num_classes: int, weights: str | None = None) -> None:
        super().__init__()
        self.net = torchvision.models.get_model(name, num_classes=num_classes)
        if weights == "default":
            self._load(name, downloaded(name))
        elif weights is not None:
            self._load(name, read_weights(weights))

    def _load(self, name: str, weights: dict[str, torch.Tensor]) -> None:
        """Take all weights but those of the last layer."""
        if not weights:
            return
        own = self.net.state_dict()
        given = {key.removeprefix("net."): value for key, value in weights.items()}
        fresh = last_layer(name)
        wrong = []
        for key in (own.keys() | given.keys()) - fresh:
            if key not in own or key not in given or own[key].shape != given[key].shape:
                wrong.append(key)
        if wrong:
            some = ", ".join(sorted(wrong)[:3])
            raise ConfigError(f"the weights are of another network than {name}: {some}")
        for key in own.keys() - fresh:
            own[key] = given[key]
        self.net.load_state_dict(own)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images float [n, 1 or 3, height, width] to logits float [n, num_classes]."""
        output = self.net(x.expand(-1, 3, -1, -1))
        if isinstance(output, torch.Tensor):
            return output
        return output.logits  # of Inception, which has others in training


def last_layer(name: str) -> set[str]:
    """The names of the weights whose shapes follow the number of classes."""
    with torch.device("meta"):  # shapes without numbers
        two = torchvision.models.get_model(name, num_classes=2).state_dict()
        three = torchvision.models.get_model(name, num_classes=3).state_dict()
    return {key for key in two if two[key].shape != three[key].shape}


def downloaded(name: str) -> dict[str, torch.Tensor]:
    """Torchvision's weights by name; none without a network."""
    try:
        return torchvision.models.get_model_weights(name).DEFAULT.get_state_dict()
    except OSError as error:
        logging.getLogger("model").warning(f"{name} starts with random weights: {error}")
        return {}


def read_weights(file: str) -> dict[str, torch.Tensor]:
    """The weights of a file by name."""
    path = project_path(file)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file holds
        what = f"{path} cannot be read: {type(error).__name__}: {error}"
        raise CheckpointError(what) from error
    return content.get("state_dict", content)
