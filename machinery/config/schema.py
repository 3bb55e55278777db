"""The keys of a config, with their types, bounds, defaults and a sentence each.

The table in docs/config.md and `config.schema.json` come from here, and so does every check of types and unknown keys.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Discriminator, Field, Tag, ValidationError

from machinery.config.settings import Section, TrainerSettings
from machinery.config.source import (
    LOADERS,
    KeyPath,
    Source,
    dotted,
    kind,
    nearest,
    override,
    to_plain,
)
from machinery.errors import ConfigError

#: Without control characters.
Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$")]


class Component(Section):
    """A part that is built by name."""

    type: Name | None = None
    """Name of a class or function in the project's module for it, or of another: "examples.gan.model.Generator"."""
    args: dict[str, Any] = Field({})
    """Its arguments; checked against its signature."""


class NamedComponent(Component):
    """A loss or metric with arguments."""

    name: Name | None = None
    """Name in logs and tables; the type by default."""


class Arch(Component):
    """The network."""

    freeze: list[str] = Field([])
    """Patterns of parameters that are not trained, such as "conv1.*"."""
    skip: list[str] = Field([])
    """When fine-tuning: patterns of weights that stay fresh, such as "fc2.*"."""


class LRScheduler(Component):
    """The learning-rate scheduler."""

    interval: Literal["epoch", "step"] = "epoch"
    """Step it every "epoch" or every optimizer "step"."""


_KIND = Discriminator(
    lambda value: "component" if isinstance(value, dict | NamedComponent) else "name"
)
Named = Annotated[Annotated[str, Tag("name")] | Annotated[NamedComponent, Tag("component")], _KIND]


class Config(Section):
    """A whole config."""

    name: str = Field(pattern=r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,99}$")
    """Name of the experiment, and of the folder of its runs: without slashes, and no dot at its start."""
    n_gpu: int = Field(1, ge=0)
    """Number of GPUs; 0 trains on the CPU."""
    seed: int = Field(123, ge=0)
    """Seed of everything random."""
    arch: Arch | None = None
    """The network, from model/model.py."""
    data_loader: Component | None = None
    """The training data, from data_loader/data_loaders.py."""
    valid_data_loader: Component | None = None
    """The validation data; null: split off by the training loader's validation_split."""
    test_data_loader: Component | None = None
    """The test data; null: the training loader's class with training=False."""
    optimizer: Component | None = None
    """The optimizer, from torch.optim."""
    loss: Named | None = None
    """The loss, from model/loss.py: a name, or a component with args; null: the trainer has its own."""
    metrics: list[Named] = Field([])
    """The metrics, from model/metric.py: names, or components with args and a name."""
    lr_scheduler: LRScheduler | None = None
    """The learning-rate scheduler, from torch.optim.lr_scheduler; null: none."""
    trainer: TrainerSettings
    """How to train."""


#: Sections whose keys are known; below `args` the signature decides.
_SECTIONS: dict[str, type[BaseModel]] = {
    "arch": Arch,
    **dict.fromkeys((*LOADERS, "optimizer"), Component),
}
_SECTIONS |= {"lr_scheduler": LRScheduler, "trainer": TrainerSettings, "loss": NamedComponent}


def known(section: KeyPath) -> list[str]:
    """The keys that the schema has in a section; `()` is the whole config."""
    if not section:
        return list(Config.model_fields)
    model = _SECTIONS.get(str(section[0])) if len(section) == 1 else None
    return list(model.model_fields) if model else []


#: Keys that are known by another name, or to others.
_ACCEPTED = (("$schema",), ("trainer", "tensorboardX"))


class Checked(NamedTuple):
    """A checked config."""

    #: The values as they were given, which know their places.
    source: Source
    #: The same, typed and with the defaults filled in.
    settings: Config
    #: The same as they were given, for whoever reads and changes them.
    values: dict[str, Any]


def check(source: Source, modification: Mapping[Any, Any] | None = None) -> Checked:
    """Set the keys of `modification`, and check types, bounds and unknown keys.

    Raises:
        ConfigError: with a line for each problem.
    """
    for target, value in (modification or {}).items():
        if value is not None:
            path = tuple(target.split(";")) if isinstance(target, str) else tuple(target)
            override(source, path, value, f"command line ({dotted(path)})", known)
    problems = [
        f"{source.where(path)}: {dotted(path)} is unknown: did you mean {near!r}?"
        for path, near, beside in own_keys(source)
        if near and not beside
    ]
    try:
        settings = Config.model_validate(source.values)
    except ValidationError as error:
        problems += [_worded(source, dict(item)) for item in error.errors()]
    if problems:
        raise ConfigError("\n  ".join(dict.fromkeys(problems)))
    return Checked(source, settings, to_plain(source.values))


def own_keys(source: Source) -> Iterator[tuple[KeyPath, str | None, bool]]:
    """The keys that the schema doesn't know, each with the known one it is like, and whether that is there, too."""
    sections: dict[KeyPath, type[BaseModel]] = {
        (): Config,
        **{(name,): model for name, model in _SECTIONS.items()},
    }
    metrics = source.values.get("metrics")
    sections |= {
        ("metrics", i): NamedComponent
        for i in range(len(metrics) if isinstance(metrics, list) else 0)
    }
    for path, model in sections.items():
        values: Any = source.values
        for part in path:
            values = values.get(part) if isinstance(values, dict) else values[part]
        for key in values if isinstance(values, dict) else ():
            if key not in model.model_fields and (*path, key) not in _ACCEPTED:
                near = nearest(key, model.model_fields)
                beside = near in values
                if not path and any(
                    re.fullmatch(rf"{name}(_.+|\d+)|.+_{name}", key) for name in Config.model_fields
                ):
                    near = None  # optimizer_D, arch2 and my_loss are parts of the user's own
                elif not path and key in TrainerSettings.model_fields:
                    near, beside = f"trainer.{key}", False
                elif path == ("trainer",) and key == "seed":
                    near, beside = "seed", False
                yield (*path, key), near, beside


def _worded(source: Source, error: dict[str, Any]) -> str:
    """One of pydantic's errors as: place: path: what is expected, what was found."""
    path = tuple(
        part
        for part in error["loc"]
        if part not in ("name", "component") or error["loc"][0] == part
    )
    if error["type"] == "missing":
        return f'{source.where(path[:-1])}: {dotted(path)} is missing; a config that has it may be its "base"'
    wanted = str(error["msg"]).replace("Input should be", "expected").replace("'", '"')
    field = (Config if len(path) == 1 else _SECTIONS.get(str(path[0]), Config)).model_fields.get(
        dotted(path[-1:])
    )
    if error["type"] == "string_pattern_mismatch" and field is not None:
        wanted = f"expected {str(field.description).rstrip('.')}"
    elif error["type"].startswith("model_"):
        wanted = "expected an object in braces"
    return f"{source.where(path)}: {dotted(path)}: {wanted}, found {kind(error['input'])}"
