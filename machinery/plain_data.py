"""Plain data, as checkpoints hold it: tensors, numbers, strings, None, lists, tuples, dicts."""

import os
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from machinery.errors import CheckpointError

_SCALARS = (bool, int, float, str, bytes)


def plain(value: Any, name: str = "state") -> Any:
    """Copy nested containers as plain data; NumPy's numbers and arrays and paths are converted.

    Raises:
        CheckpointError: a value of any other type, named by its key path below `name`.
    """
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value)
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        return _plain_mapping(value, name)
    if isinstance(value, list | tuple):
        items = [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return tuple(items)
        return items
    return _converted(value, name)


def _plain_tensor(value: torch.Tensor) -> torch.Tensor:
    """A tensor of torch's own class, for the loader knows no other."""
    tensor = value.detach()
    if type(tensor) is torch.Tensor:  # sparse ones become nothing else
        return tensor
    return tensor.as_subclass(torch.Tensor)


def _plain_mapping(value: Mapping[Any, Any], name: str) -> dict[Any, Any]:
    copied = {}
    for key, item in value.items():
        copied[plain(key, f"{name} (a key)")] = plain(item, f"{name}.{key}")
    # torch's private name for the versions of a network's modules, which `load_state_dict` reads
    # off a network's state dict. torch keeps it as an attribute of that dict, which a dict of our
    # own would not carry.
    if hasattr(value, "_metadata"):
        copied = OrderedDict(copied)
        vars(copied)["_metadata"] = plain(dict(value._metadata))
    return copied


def _converted(value: Any, name: str) -> Any:
    """The plain value that stands for one of another class."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(value.copy())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for kind in (int, float, str):  # enums and other subclasses of plain types
        if isinstance(value, kind):
            return kind(value)
    found = f"{type(value).__module__}.{type(value).__qualname__}"
    raise CheckpointError(
        f"{name} is a {found}: a checkpoint holds tensors and plain data only (see state_dict)"
    )
