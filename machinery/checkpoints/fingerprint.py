"""Whether the data is the same, told without reading it."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

#: How many places of an array or a list are looked at.
_LOOKS = 16


def fingerprint(dataset: Any) -> str | None:
    """A hash of a dataset's length, and of 16 places of the arrays and lists that it holds.

    None for a stream, and for whatever cannot be looked at.
    """
    try:
        found = _found(dataset)
    except Exception:  # of whatever a dataset has as attributes
        return None
    return hashlib.sha256(repr(found).encode()).hexdigest()[:16]


def _found(dataset: Any) -> list[Any]:
    """What stands for a dataset."""
    found: list[Any] = [type(dataset).__name__, len(dataset)]
    for value in vars(dataset).values():
        held = value if type(value) is tuple else (value,)
        for each in held:
            found += _of_attribute(each)
    return found


def _of_attribute(value: Any) -> list[Any]:
    """What stands for an attribute: nothing for one that holds no data."""
    if isinstance(value, Dataset):
        return [fingerprint(value)]
    if isinstance(value, torch.Tensor | np.ndarray):
        if value.ndim == 0:
            return []
    elif not isinstance(value, list):
        return []
    if len(value) == 0:
        return []
    looked_at = np.linspace(0, len(value) - 1, _LOOKS).astype(int)
    return [len(value), *(_fixed(value[i]) for i in looked_at)]


def _fixed(item: Any) -> str:
    """What stands for an item: of arrays the bytes, of other objects their class.

    Of texts the end counts, as folders may move.
    """
    if isinstance(item, torch.Tensor | np.ndarray | np.generic):
        return hashlib.sha256(torch.as_tensor(item).cpu().double().numpy().tobytes()).hexdigest()
    if type(item) in (str, int, float, tuple):
        return "/".join(str(item).split("/")[-2:])
    return type(item).__name__
