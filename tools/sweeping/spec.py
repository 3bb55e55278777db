"""What a sweep tries: a small JSON file, checked before anything runs."""

import itertools
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import optuna
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from machinery.config.changes import override
from machinery.config.checking import check
from machinery.config.source import Source
from machinery.errors import ConfigError
from machinery.files import ROOT

#: Points of a grid, or values of a range in one, that are too many.
MOST = 100_000


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; integers if both are."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    low: Annotated[int | float, Field(ge=-1e15, le=1e15)]
    high: Annotated[int | float, Field(ge=-1e15, le=1e15)]
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _sensible(self) -> "Range":
        if self.low > self.high or (self.log and (self.low <= 0 or self.step is not None)):
            raise ValueError("expected low <= high, and with log low > 0 and no step")
        return self

    @property
    def whole(self) -> bool:
        """Whether they are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    def values(self) -> list[Any]:
        """All, if they can be counted."""
        if self.log or (self.step is None and not self.whole):
            raise ConfigError("a grid wants lists of values, or ranges with a step")
        if self.count > MOST:
            raise ConfigError(f"a grid of {self.count:,} values has no end")
        return [self.at(i) for i in range(self.count)]

    def at(self, i: int) -> Any:
        """The i-th of them, without the last bits that sums of a step such as 0.1 have too many."""
        value = self.low + i * (self.step or 1)
        return value if isinstance(value, int) else min(float(f"{value:.12g}"), float(self.high))

    @property
    def count(self) -> int:
        """How many there are, with a step or of integers."""
        return math.floor((self.high - self.low) / (self.step or 1) + 1e-9) + 1


class Spec(BaseModel):
    """A sweep."""

    model_config = ConfigDict(extra="forbid", strict=True)
    #: The config, relative to the sweep's file; what all points set besides.
    config: str
    set: dict[str, Any] = Field({})
    #: For each key of the config a list of values, or a range.
    space: dict[str, list[Any] | Range] = Field(min_length=1)
    method: Literal["grid", "random", "tpe"] = "grid"
    #: How many; those of a grid by default are all.
    points: int | None = Field(None, ge=1, le=100_000)
    #: Stop points that are worse than the median of the others at the same epoch, from this epoch on; null: none.
    prune_from: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    def distributions(self) -> dict[str, optuna.distributions.BaseDistribution]:
        """The space in Optuna's terms."""
        found: dict[str, optuna.distributions.BaseDistribution] = {}
        for key, each in self.space.items():
            if isinstance(each, list):
                found[key] = optuna.distributions.CategoricalDistribution([encoded(value) for value in each])
            elif each.whole:
                step = int(each.step or 1)
                found[key] = optuna.distributions.IntDistribution(int(each.low), int(each.high), each.log, step)
            else:
                found[key] = optuna.distributions.FloatDistribution(each.low, each.high, each.log, each.step)
        return found

    def listed(self) -> list[dict[str, Any]] | None:
        """The points of a grid, or those drawn at random, in Optuna's terms; None where each follows from others."""
        if self.method == "grid":
            axes = [each if isinstance(each, list) else each.values() for each in self.space.values()]
            if math.prod(map(len, axes)) > MOST:
                raise ConfigError(f"the grid has {math.prod(map(len, axes)):,} points: use random or tpe")
            points = [[encoded(value) for value in point] for point in itertools.product(*axes)]
            return [dict(zip(self.space, point, strict=True)) for point in points[: self.points]]
        if self.method == "random":
            found: dict[str, dict[str, Any]] = {}  # each once
            for i in range(20 * (self.points or 0)):
                draw = np.random.default_rng([self.seed, i])
                point = {key: _drawn(each, draw) for key, each in self.space.items()}
                found.setdefault(json.dumps(point), point)
            return [*found.values()][: self.points]
        return None


def encoded(value: Any) -> Any:
    """What Optuna takes as a choice; an object, a list, a truth value (1 would be the same as true) as JSON."""
    odd = isinstance(value, bool | dict | list) or (isinstance(value, str) and value.startswith("json:"))
    return f"json:{json.dumps(value)}" if odd else value


def decoded(value: Any) -> Any:
    """The value of a choice."""
    return json.loads(value[5:]) if isinstance(value, str) and value.startswith("json:") else value


def _drawn(each: Any, draw: np.random.Generator) -> Any:
    if isinstance(each, list):
        return encoded(each[int(draw.integers(len(each)))])
    if each.step or each.whole:
        if each.log:
            value = math.exp(draw.uniform(math.log(each.low - 0.5), math.log(each.high + 0.5)))
            return min(max(round(value), each.low), each.high)
        return each.at(int(draw.integers(each.count)))
    low, high = (math.log(each.low), math.log(each.high)) if each.log else (each.low, each.high)
    value = float(draw.uniform(low, high))
    return min(max(math.exp(value) if each.log else value, each.low), each.high)


def read_spec(file: Path) -> tuple[Spec, Path, str, str]:
    """A sweep's file, checked against the config.

    Returns:
        the sweep, its config's path, the config's name, and the number that it watches, as "min val_loss".

    Raises:
        ConfigError: with the problem.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is no file")
    try:
        source = Source.parse(file.read_text(encoding="utf-8"), str(file))
        spec = Spec.model_validate(source.values)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {getattr(error, 'strerror', error)}") from None
    except ValidationError as error:
        # Of a list or a range, what it is not is no matter.
        wanted = {True: "list", False: "Range"}
        items = [
            item
            for item in error.errors()
            if len(item["loc"]) < 3
            or wanted[isinstance(source.values["space"][item["loc"][1]], list)] in str(item["loc"][2])
        ]
        lines = [
            f"{'.'.join(map(str, (*item['loc'][:2], *item['loc'][3:])))}: {item['msg'].removeprefix('Value error, ')}"
            for item in items
        ]
        raise ConfigError("\n  ".join([f"{file}:", *lines])) from None
    if spec.method != "grid" and spec.points is None:
        raise ConfigError(f"{file}: points: say how many ({spec.method} could go on for ever)")
    if any(isinstance(each, list) and not each for each in spec.space.values()):
        raise ConfigError(f"{file}: space: a list is empty")
    path = file.parent / spec.config
    first: dict[str, Any] = {key: each[0] if isinstance(each, list) else each.low for key, each in spec.space.items()}
    both = spec.set.keys() & first.keys()
    if both:
        raise ConfigError(f"{file}: {', '.join(both)}: in set, and in space")
    for key, other in itertools.product(first, {**first, **spec.set}):
        if other.startswith(f"{key}."):
            raise ConfigError(f"{file}: space: {other} is a part of {key}: which of them would count?")
    source = Source.read(path)
    for key, value in {**spec.set, **first}.items():
        override(source, tuple(key.split(".")), value, f"{file} ({key})")
    settings = check(source).settings
    if settings.trainer.monitor == "off":
        raise ConfigError(f'{path}: trainer.monitor is "off": a sweep compares the number that it names')
    if settings.trainer.epochs is None:
        raise ConfigError(f"{path}: trainer.epochs is missing")
    if {"name", "trainer.save_dir", "trainer.monitor"} & first.keys() or "trainer.save_dir" in spec.set:
        raise ConfigError(
            f"{file}: name and trainer.monitor are the same for all points, and trainer.save_dir is given"
        )
    spec.listed()
    return spec, path.resolve(), settings.name, settings.trainer.monitor


#: Where sweeps go.
SWEEPS = ROOT / "saved" / "sweeps"
