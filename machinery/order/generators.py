"""Generators that a dataset holds itself: seeded by place, as the global ones are.

Left alone they would go on in each worker from the same state, and give the same augmentation in
each pass and in each worker.
"""

import pickle
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch

from machinery.order.seeding import mix

_KINDS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
#: How far below the dataset they are looked for, and at how many objects.
_DEPTH = 6
_OBJECTS = 10_000
#: Of a container so many items are looked at: transforms, not samples.
_ITEMS = 100


def own_generators(dataset: Any) -> list[Any]:
    """The generators among the attributes of a dataset, and of what it holds, such as transforms.

    They are looked for as a pass begins.
    """
    return [value for value in reachable(dataset) if isinstance(value, _KINDS)]


def state_of(generator: Any) -> bytes:
    """Where a generator stands: somewhere else, once it has drawn; one of the system is nowhere."""
    if isinstance(generator, torch.Generator):
        return generator.get_state().numpy().tobytes()
    if isinstance(generator, random.SystemRandom):
        return b""
    return pickle.dumps(generator)


def reachable(dataset: Any) -> Iterator[Any]:
    """A dataset and what it holds, each once."""
    seen: set[int] = set()
    waiting = [(dataset, 0)]
    while waiting and len(seen) < _OBJECTS:
        value, depth = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if depth < _DEPTH and not isinstance(value, _KINDS):
            waiting += [(each, depth + 1) for each in inside(value)]


def inside(value: Any) -> Iterable[Any]:
    """What an object holds; nothing of a class, a module or an array.

    Of containers plain ones alone: another may be data that is read as it is asked for, or a file
    that each worker has to open itself.
    """
    if isinstance(value, type | ModuleType | torch.Tensor | np.ndarray):
        return ()
    if type(value) is dict:
        return list(value.values())[:_ITEMS]
    if type(value) in (list, tuple):
        return list(value[:_ITEMS])
    if isinstance(value, Mapping | Sequence):
        return ()
    try:
        return list(vars(value).values())
    except Exception:  # one without attributes, or whose proxy fails
        return ()


def seed_own(generators: Sequence[Any], *place: int | str) -> None:
    """Seed generators from a place, each with a seed of its own."""
    for number, generator in enumerate(generators):
        value = mix(*place, "own", number)
        if isinstance(generator, torch.Generator):
            generator.manual_seed(value)
        elif isinstance(generator, np.random.Generator):
            bits = generator.bit_generator
            bits.state = type(bits)(value).state  # type: ignore[call-arg]
        elif isinstance(generator, np.random.RandomState):
            generator.seed(value & 0xFFFFFFFF)
        else:
            generator.seed(value)
