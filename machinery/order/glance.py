"""What a dataset holds, at a glance: workers that live on have a copy of it, which grows old."""

import zlib
from typing import Any

import numpy as np
import torch

from machinery.order.generators import inside, reachable
from machinery.order.outstanding import times_written

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
#: Of an array about so many items are looked at, evenly spread.
_ITEMS = 1 << 20


def glance(dataset: Any) -> list[Any]:
    """Two of a dataset differ if it has changed between: a value, an array, which objects it holds.

    What is deep inside, in a file, or a single item of a very large array is not seen.
    """
    seen = []
    for value in reachable(dataset):
        seen.append([_known_by(each) for each in (value, *inside(value))])
    return seen


def _known_by(value: Any) -> Any:
    """What stands for one value."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, torch.Tensor):
        return id(value), times_written(value)
    if type(value) is np.ndarray and not value.dtype.hasobject:  # a memory map would be read
        items = value.flat[:: max(value.size // _ITEMS, 1)]
        return value.shape, str(value.dtype), zlib.crc32(items.tobytes())
    if type(value) in (list, tuple, dict):
        return id(value), len(value)
    return id(value)
