"""The keys of a config, with their types, bounds, defaults and a sentence each.

The table in docs/config.md and `config.schema.json` come from here, and so does every check of
types and unknown keys. The sentences are the strings below the fields, or descriptions where they
are long.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from machinery.config.settings import Section, TrainerSettings
from machinery.config.values import KeyPath, is_sets
from machinery.files import project_path

#: Without control characters.
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]


class Component(Section):
    """A part that is built by name."""

    type: Name | None = Field(
        None,
        description="Name of a class or function in the project's module for it, or of another: "
        '"examples.gan.model.Generator"; of an installed package: "torchvision.models.resnet18".',
    )
    args: dict[str, Any] = Field({})
    """Its arguments; checked against its signature."""


class NamedComponent(Component):
    """A loss or metric with arguments."""

    name: Name | None = None
    """Name in logs and tables; the type by default."""


class Arch(Component):
    """The network."""

    starting_args: dict[str, Any] = Field({})
    """Arguments that only give it starting weights; left out where these are a checkpoint's."""
    weights: str | None = Field(None, pattern=r"^[^\x00]+$")
    """File of the weights that it begins with, also another program's; relative to the root."""
    adapter: Component | None = None
    """What is put around it, with its weights in it: {"type": "peft.LoraConfig", "args": {…}}."""
    init: Literal["whole", "by_name"] = "whole"
    """How it gets random weights: built "whole", or module "by_name", in parts with "fsdp"."""
    freeze: list[str] = Field([])
    """Patterns of parameters that are not trained, such as "conv1.*"."""
    skip: list[str] = Field([])
    """When it begins with weights: patterns of those that stay fresh, such as "fc2.*"."""


class ParameterGroup(Section):
    """Some of the parameters, with arguments of the optimizer for them alone."""

    params: list[str] = Field(min_length=1)
    """Patterns of their names."""
    ndim: int | None = Field(None, ge=0)
    """Of these only those with so many dimensions, such as 2: matrices."""
    type: Name | None = None
    """An optimizer of their own, such as "Muon"; the other keys are its arguments."""


class Optimizer(Component):
    """The optimizer."""

    groups: list[ParameterGroup] = Field(
        [],
        description="Parameters with arguments of their own, by patterns of their names: "
        '{"params": ["*.bias"], "weight_decay": 0}; one that several match is in the first. '
        'They may have an optimizer of their own: {"params": ["*"], "ndim": 2, "type": "Muon"}.',
    )
    loss: bool = False
    """Train the parameters of the loss, too, under names such as "loss.centres"."""


class LRScheduler(Component):
    """The learning-rate scheduler."""

    interval: Literal["epoch", "step"] = "epoch"
    """Step it every "epoch" or every optimizer "step"."""


def _tag_of_loaders(value: Any) -> str:
    if is_sets("valid_data_loader", value):
        return "(sets)"
    return "component"


#: Letters, digits, "_" and "-": numbers are called by it.
SetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Loaders = Annotated[
    Annotated[Component, Tag("component")]
    | Annotated[dict[SetName, Component | None], Tag("(sets)")],
    Discriminator(_tag_of_loaders),
]


def _tag(value: Any) -> str:
    if isinstance(value, dict | NamedComponent):
        return "component"
    return "name"


Named = Annotated[
    Annotated[str, Tag("name")] | Annotated[NamedComponent, Tag("component")],
    Discriminator(_tag),
]


class Config(Section):
    """A whole config."""

    name: str = Field(
        pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,99}$",
        description="Name of the experiment, and of the folder of its runs: "
        "up to 100 letters, without slashes, and no dot at its start.",
    )
    n_gpu: int = Field(1, ge=0)
    """Number of GPUs; 0 trains on the CPU."""
    seed: int = Field(123, ge=0)
    """Seed of everything random."""
    arch: Arch | None = None
    """The network, from model/model.py."""
    data_loader: Component | None = None
    """The training data, from data_loader/data_loaders.py."""
    valid_data_loader: Loaders | None = Field(
        None,
        description="The validation data, or several sets by name; "
        "null: split off by the training loader's validation_split.",
    )
    test_data_loader: Loaders | None = Field(
        None,
        description="The test data, or several sets by name; "
        "null: the training loader's class with training=False.",
    )
    optimizer: Optimizer | None = None
    """The optimizer, from torch.optim."""
    loss: Named | None = Field(
        None,
        description="The loss, from model/loss.py: a name, or a component with args; "
        "null: the trainer has its own.",
    )
    metrics: list[Named] = Field([])
    """The metrics, from model/metric.py: names, or components with args and a name."""
    lr_scheduler: LRScheduler | None = None
    """The learning-rate scheduler, from torch.optim.lr_scheduler; null: none."""
    trainer: TrainerSettings
    """How to train."""

    @property
    def runs_folder(self) -> Path:
        """The folder of the experiment's runs, with their checkpoints."""
        return project_path(self.trainer.save_dir) / "models" / self.name


#: Sections whose keys are known; below `args` the signature decides.
SECTIONS: dict[str, type[BaseModel]] = {
    "arch": Arch,
    "data_loader": Component,
    "valid_data_loader": Component,
    "test_data_loader": Component,
    "optimizer": Optimizer,
    "lr_scheduler": LRScheduler,
    "trainer": TrainerSettings,
    "loss": NamedComponent,
}


def known(section: KeyPath) -> list[str]:
    """The keys that the schema has in a section; `()` is the whole config."""
    if not section:
        return list(Config.model_fields)
    name = str(section[0])
    if len(section) == 1 and name in SECTIONS:
        return list(SECTIONS[name].model_fields)
    return []
