"""What a sweep tries: a small JSON file, checked before anything runs."""

import itertools
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from machinery.config.changes import override
from machinery.config.checking import check
from machinery.config.source import Source
from machinery.errors import ConfigError
from machinery.files import ROOT

#: Where sweeps go.
SWEEPS = ROOT / "saved" / "sweeps"
#: Points of a grid, or values of a range in one, that are too many.
MOST = 100_000
#: For each point that is wanted, how often one may be drawn that has been drawn before.
_DRAWS = 20
#: What begins a choice that is noted as JSON.
_JSON = "json:"
#: What a point cannot set: all have it in common.
_SHARED = {"name", "trainer.save_dir", "trainer.monitor"}


class Range(BaseModel):
    """Numbers from `low` to `high`, both included; integers if both are."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    low: Annotated[int | float, Field(ge=-1e15, le=1e15)]
    high: Annotated[int | float, Field(ge=-1e15, le=1e15)]
    log: bool = False
    step: int | float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _sensible(self) -> "Range":
        problem = "expected low <= high, and with log low > 0 and no step"
        if self.low > self.high:
            raise ValueError(problem)
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError(problem)
        return self

    @property
    def whole(self) -> bool:
        """Whether they are integers."""
        if isinstance(self.step, float):
            return False
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def countable(self) -> bool:
        """Whether there is a next one to each."""
        if self.log:
            return False
        return self.whole or self.step is not None

    @property
    def distance(self) -> int | float:
        """From one to the next, where they are countable."""
        if self.step is None:
            return 1
        return self.step

    @property
    def count(self) -> int:
        """How many there are, where they are countable."""
        return math.floor((self.high - self.low) / self.distance + 1e-9) + 1

    def values(self) -> list[Any]:
        """All of them.

        Raises:
            ConfigError: they cannot be counted, or are too many.
        """
        if not self.countable:
            raise ConfigError("a grid wants lists of values, or ranges with a step")
        if self.count > MOST:
            raise ConfigError(f"a grid of {self.count:,} values has no end")
        return [self.at(i) for i in range(self.count)]

    def at(self, i: int) -> Any:
        """The i-th of them, where they are countable."""
        value = self.low + i * self.distance
        if isinstance(value, int):
            return value
        # Sums of a step such as 0.1 have some last bits too many.
        rounded = float(f"{value:.12g}")
        return min(rounded, float(self.high))

    def drawn(self, draw: np.random.Generator) -> Any:
        """One of them at random; with `log`, all magnitudes are as likely."""
        if self.countable:
            return self.at(int(draw.integers(self.count)))
        if not self.log:
            return self._within(float(draw.uniform(self.low, self.high)))
        if self.whole:
            # Each integer stands for what is rounded to it.
            exponent = draw.uniform(math.log(self.low - 0.5), math.log(self.high + 0.5))
            return self._within(round(math.exp(exponent)))
        exponent = draw.uniform(math.log(self.low), math.log(self.high))
        return self._within(math.exp(exponent))

    def _within(self, value: float) -> float:
        """A number that the last bits may have carried beyond an end."""
        return min(max(value, self.low), self.high)

    def distribution(self) -> BaseDistribution:
        """They in Optuna's terms."""
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), self.log, int(self.distance))
        return FloatDistribution(self.low, self.high, self.log, self.step)


#: The values that a key of the config is to have.
Axis = list[Any] | Range


class Spec(BaseModel):
    """A sweep."""

    model_config = ConfigDict(extra="forbid", strict=True)
    #: The config, relative to the sweep's file; what all points set besides.
    config: str
    set: dict[str, Any] = Field({})
    #: For each key of the config a list of values, or a range.
    space: dict[str, Axis] = Field(min_length=1)
    method: Literal["grid", "random", "tpe"] = "grid"
    #: How many; those of a grid by default are all.
    points: int | None = Field(None, ge=1, le=100_000)
    #: Stop points that are worse than the median of the others at the same epoch, from this epoch
    #: on; null: none.
    prune_from: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    #: With how many seeds each point is trained: the config's own, and those that follow.
    repeat: int = Field(1, ge=1, le=1000)

    @property
    def wanted(self) -> int:
        """How many points are to be drawn."""
        return self.points or 0

    def distributions(self) -> dict[str, BaseDistribution]:
        """The space in Optuna's terms."""
        return {key: _distribution(axis) for key, axis in self.space.items()}

    def listed(self) -> list[dict[str, Any]]:
        """The points of a grid, or those drawn at random, in Optuna's terms.

        There are none where each follows from others.

        Raises:
            ConfigError: a grid has too many.
        """
        if self.method == "grid":
            return self._grid()
        if self.method == "random":
            return self._drawn()
        return []

    def _grid(self) -> list[dict[str, Any]]:
        axes = [_all_values(axis) for axis in self.space.values()]
        size = math.prod(len(axis) for axis in axes)
        if size > MOST:
            raise ConfigError(f"the grid has {size:,} points: use random or tpe")
        combinations = itertools.islice(itertools.product(*axes), self.points)
        return [dict(zip(self.space, values, strict=True)) for values in combinations]

    def _drawn(self) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}  # each once
        for i in range(_DRAWS * self.wanted):
            draw = np.random.default_rng([self.seed, i])
            point = {key: _one_value(axis, draw) for key, axis in self.space.items()}
            found.setdefault(json.dumps(point), point)
            if len(found) == self.wanted:
                break
        return list(found.values())


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, Range):
        return axis.distribution()
    return CategoricalDistribution([encoded(value) for value in axis])


def _all_values(axis: Axis) -> list[Any]:
    """In Optuna's terms."""
    if isinstance(axis, Range):
        return axis.values()
    return [encoded(value) for value in axis]


def _one_value(axis: Axis, draw: np.random.Generator) -> Any:
    """At random, in Optuna's terms."""
    if isinstance(axis, Range):
        return axis.drawn(draw)
    return encoded(axis[int(draw.integers(len(axis)))])


def _first_value(axis: Axis) -> Any:
    if isinstance(axis, Range):
        return axis.low
    return axis[0]


def encoded(value: Any) -> Any:
    """What Optuna takes as a choice.

    An object, a list and a truth value (1 would be the same as true) are JSON there.
    """
    if isinstance(value, bool | dict | list) or _is_encoded(value):
        return f"{_JSON}{json.dumps(value)}"
    return value


def decoded(value: Any) -> Any:
    """The value of a choice."""
    if _is_encoded(value):
        return json.loads(value.removeprefix(_JSON))
    return value


def _is_encoded(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_JSON)


class Plan(NamedTuple):
    """A sweep, and what it is of."""

    spec: Spec
    #: The values of its config.
    config: dict[str, Any]
    #: The name of the config, which all points have.
    run_name: str
    #: The number that it watches, as "min val_loss".
    monitor: str
    #: Of the first of several trainings of a point.
    first_seed: int = 0

    def settings_of(self, number: int) -> dict[str, Any]:
        """What the training of a point with one of several seeds sets besides."""
        if self.spec.repeat == 1:
            return {}
        return {"seed": self.first_seed + number}


def read_spec(file: Path, repeat: int | None = None) -> Plan:
    """A sweep's file, checked against the config.

    Args:
        repeat: with how many seeds each point is trained; None: as the file says.

    Raises:
        ConfigError: with the problem.
    """
    spec = _parse(file)
    if repeat is not None:
        spec = spec.model_copy(update={"repeat": repeat})
    if spec.repeat > 1 and "seed" in spec.space:
        raise ConfigError(f"{file}: seed: in space, and repeat gives each point several")
    _check_space(spec, file)
    path = file.parent / spec.config
    source = Source.read(path)
    config = {key: value for key, value in source.snapshot().items() if key != "$schema"}
    for key, value in {**spec.set, **_first_point(spec)}.items():
        override(source, tuple(key.split(".")), value, f"{file} ({key})")
    settings = check(source).settings
    if settings.trainer.monitor == "off":
        what = 'trainer.monitor is "off": a sweep compares the number that it names'
        raise ConfigError(f"{path}: {what}")
    if settings.trainer.epochs is None:
        raise ConfigError(f"{path}: trainer.epochs is missing")
    if _SHARED & spec.space.keys() or "trainer.save_dir" in spec.set:
        what = "name and trainer.monitor are the same for all points, and trainer.save_dir is given"
        raise ConfigError(f"{file}: {what}")
    spec.listed()  # a grid may have too many points
    return Plan(spec, config, settings.name, settings.trainer.monitor, settings.seed)


def _parse(file: Path) -> Spec:
    """Read a sweep's file."""
    if not file.is_file():
        raise ConfigError(f"{file} is no file")
    try:
        source = Source.parse(file.read_text(encoding="utf-8"), str(file))
        return Spec.model_validate(source.values)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except ValidationError as error:
        lines = [f"{file}:", *_problems(error, source.values)]
        raise ConfigError("\n  ".join(lines)) from None


def _problems(error: ValidationError, values: dict[str, Any]) -> list[str]:
    """What is wrong with the values of a sweep's file, a line each."""
    lines = []
    for item in error.errors():
        place = list(item["loc"])
        if len(place) > 2:
            # An axis is tried as a list and as a range: of one, what it is not is no matter.
            tried_as = str(place.pop(2))
            wanted = "Range"
            if isinstance(values["space"][place[1]], list):
                wanted = "list"
            if wanted not in tried_as:
                continue
        key = ".".join(str(name) for name in place)
        message = item["msg"].removeprefix("Value error, ")
        lines.append(f"{key}: {message}")
    return lines


def _check_space(spec: Spec, file: Path) -> None:
    """Refuse a space that makes no sense, whatever the config is."""
    if spec.method != "grid" and spec.points is None:
        raise ConfigError(f"{file}: points: say how many ({spec.method} could go on for ever)")
    if [] in spec.space.values():
        raise ConfigError(f"{file}: space: a list is empty")
    both = [key for key in spec.space if key in spec.set]
    if both:
        raise ConfigError(f"{file}: {', '.join(both)}: in set, and in space")
    for key in spec.space:
        for other in (*spec.space, *spec.set):
            if other.startswith(f"{key}."):
                what = f"{other} is a part of {key}: which of them would count?"
                raise ConfigError(f"{file}: space: {what}")


def _first_point(spec: Spec) -> dict[str, Any]:
    return {key: _first_value(axis) for key, axis in spec.space.items()}
