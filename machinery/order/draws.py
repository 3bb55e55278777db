"""What a dataset draws from: all global generators, or those that its `draws_from` names.

To seed all of them is most of what a sample costs that is small and in memory.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import TensorDataset

from machinery.errors import DataError
from machinery.order import seeding
from machinery.order.generators import own_generators, seed_own
from machinery.order.seeding import MODULES

#: What is not drawn from stands there while it is watched.
_PLACE = "watched"
_SEED = seeding.mix(_PLACE)


def _next_of_torch(generator: torch.Generator | None = None) -> float:
    """The next number, whatever the default device and dtype are."""
    number = torch.rand((), generator=generator, device="cpu", dtype=torch.float32)
    return number.item()


#: What the next number has to be if nothing was drawn, and what draws it.
_EXPECTED = {
    "torch": _next_of_torch(torch.Generator().manual_seed(_SEED)),
    "numpy": np.random.RandomState(_SEED & 0xFFFFFFFF).random_sample(),
    "random": random.Random(_SEED).random(),
}
_NEXT: dict[str, Callable[[], float]] = {
    "torch": _next_of_torch,
    "numpy": np.random.random_sample,
    "random": random.random,
}


class UnnamedDraws(DataError):
    """A dataset draws from a generator that is not seeded for it."""


class Draws:
    """Seeds what a dataset draws from, and watches the rest.

    Args:
        dataset: names the modules whose global generators it draws from, in `draws_from`; one that
            says nothing may draw from all.

    Raises:
        DataError: it names something else.
    """

    def __init__(self, dataset: Any) -> None:
        self._kind = type(dataset).__name__
        #: The modules whose global generators it draws from.
        self.modules = _named(dataset)
        self._others = [module for module in MODULES if module not in self.modules]
        self._own = own_generators(dataset)

    def seed(self, *place: int | str) -> None:
        """Seed what the dataset draws from, generators of its own included."""
        if self.modules:
            seeding.seed_modules(self.modules, *place)
        if self._own:
            seed_own(self._own, *place)

    def seed_others(self, *place: int | str) -> None:
        """Seed the global generators that the dataset does not draw from."""
        if self._others:
            seeding.seed_modules(self._others, *place)

    def seed_all(self, *place: int | str) -> None:
        """Seed all of them, for what others draw."""
        self.seed(*place)
        self.seed_others(*place)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within it, the dataset is read.

        Raises:
            UnnamedDraws: it has drawn, on the CPU, from a generator that it does not name.
        """
        self.seed_others(_PLACE)
        yield
        drawn = [module for module in self._others if _NEXT[module]() != _EXPECTED[module]]
        if drawn:
            raise self._unnamed(drawn)

    def _unnamed(self, drawn: list[str]) -> UnnamedDraws:
        """The error, with what the dataset has to say."""
        found = " and ".join(drawn)
        what = f"{self._kind} draws from {found}, which its draws_from does not name"
        wanted = tuple(module for module in MODULES if module in (*self.modules, *drawn))
        return UnnamedDraws(f"{what}: draws_from = {wanted!r}")


def _named(dataset: Any) -> tuple[str, ...]:
    """The modules that a dataset names."""
    if type(dataset) is TensorDataset:
        return ()
    asked = getattr(dataset, "draws_from", None)
    if asked is None:
        if getattr(dataset, "draws_rows_only", False):  # what `draws_from = ()` was called
            return ()
        return MODULES
    named: tuple[Any, ...] = ()
    if isinstance(asked, Iterable):
        named = tuple(asked)
    if not isinstance(asked, Iterable) or not all(name in MODULES for name in named):
        kind = type(dataset).__name__
        raise DataError(
            f"{kind}.draws_from: expected a tuple of some of {', '.join(MODULES)}, found {asked!r}"
        )
    return named
