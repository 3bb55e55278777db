"""What metrics compute, as numbers with names: one, some of a dict, or one for each class."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Subset

from machinery.errors import ConfigError
from machinery.telling import described

#: Names of more classes than that are of something else.
_MOST_CLASSES = 1_000_000


class Results:
    """The numbers of metrics by name, and their tables, such as confusion matrices.

    Args:
        numbers: those that there are already.
        classes: the names of the classes, as far as they are known.
    """

    def __init__(self, numbers: Mapping[str, float], classes: Sequence[str]) -> None:
        self.numbers = dict(numbers)
        #: Each float64 [rows, columns].
        self.tables: dict[str, torch.Tensor] = {}
        self._classes = classes

    def add(self, name: str, value: Any) -> None:
        """Add what a metric has computed: a number, a dict of such, or a value for each class.

        Numbers in a dict are called "NAME/KEY", those of classes "NAME/CLASS"; what has rows and
        columns is a table.

        Raises:
            ConfigError: it is none of this, or another number has that name.
        """
        if isinstance(value, Mapping):
            for key, each in value.items():
                self.add(f"{name}/{as_word(key)}", each)
            return
        values = _values(name, value)
        if values.ndim == 2:
            self.tables[name] = values
        elif values.ndim == 1 and len(values) != 1:
            keys = names_of_classes(self._classes, len(values))
            for key, each in zip(keys, values.tolist(), strict=True):
                self._add_number(f"{name}/{key}", each)
        else:
            self._add_number(name, values.item())

    def _add_number(self, name: str, number: float) -> None:
        if name in self.numbers:
            raise ConfigError(f'metrics: two numbers are called {name!r}: give one a "name"')
        self.numbers[name] = number


def _values(name: str, value: Any) -> torch.Tensor:
    """What a metric has computed as a tensor of at most two dimensions, float64 on the CPU."""
    try:
        if isinstance(value, torch.Tensor):
            values = value.detach().cpu().double()
        else:
            values = torch.as_tensor(value, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise _no_number(name, value) from None
    if values.ndim > 2 or values.numel() == 0:
        if values.numel() == 1:
            return values.reshape(())
        raise _no_number(name, value)
    return values


def _no_number(name: str, value: Any) -> ConfigError:
    """The error for what is no number."""
    found = described(value) or f"a {type(value).__name__}"
    return ConfigError(f"{name}: expected a number, found {found}")


def as_word(key: Any) -> str:
    """A key or the name of a class without spaces, as a setting names a number; cut if long."""
    return re.sub(r"[\s\x00-\x1f\x7f]+", "_", str(key))[:100]


def names_of_classes(classes: Sequence[str], count: int) -> list[str]:
    """The names of so many classes as words; their numbers, if so many are not known."""
    words = [as_word(name) for name in classes]
    if len(words) == count == len(set(words)):
        return words
    return [str(number) for number in range(count)]


def dataset_of(loader: Any) -> Any:
    """The dataset below `Subset`s; None where a loader has none."""
    dataset = getattr(loader, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def classes_of(loader: Any, count: int | None = None) -> list[str]:
    """The names of the classes, as the loader or its dataset knows them.

    Args:
        count: how many there are; their numbers, if so many names are not known.
    """
    classes = getattr(loader, "classes", None) or getattr(dataset_of(loader), "classes", None)
    names = []
    if isinstance(classes, dict):
        names = _by_number(classes)
    elif isinstance(classes, list | tuple):
        names = [str(name) for name in classes]
    if count is None or count == len(names):
        return names
    return [str(number) for number in range(count)]


def _by_number(classes: dict[Any, Any]) -> list[str]:
    """The names in a dict of names to numbers, or of numbers to names; numbers where one lacks.

    None, if it is anything else.
    """
    names: dict[int, str] = {}
    for key, value in classes.items():
        number, name = key, value
        if isinstance(key, str):
            number, name = value, key
        if not isinstance(number, int) or not 0 <= number < _MOST_CLASSES:
            return []
        names[number] = str(name)
    highest = max(names, default=-1)
    return [names.get(number, str(number)) for number in range(highest + 1)]
