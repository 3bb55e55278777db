"""Plain data, as checkpoints hold it: tensors, numbers, strings, None, lists, tuples, dicts."""

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from machinery.errors import CheckpointError

_SCALARS = (bool, int, float, str, bytes)
OfTensor = Callable[[torch.Tensor], torch.Tensor]


def plain(value: Any, name: str = "state", of_tensor: OfTensor | None = None) -> Any:
    """Copy nested containers as plain data; NumPy's numbers and arrays and paths are converted.

    Args:
        of_tensor: gives what stands in the place of a tensor; by default it itself.

    Raises:
        CheckpointError: a value of any other type, named by its key path below `name`.
    """
    if isinstance(value, torch.Tensor):
        tensor = _plain_tensor(value)
        if of_tensor is None:
            return tensor
        return of_tensor(tensor)
    if value is None or type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        return _plain_mapping(value, name, of_tensor)
    if isinstance(value, list | tuple):
        items = [plain(item, f"{name}[{i}]", of_tensor) for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return tuple(items)
        return items
    return _converted(value, name)


def _plain_tensor(value: torch.Tensor) -> torch.Tensor:
    """A tensor of torch's own class, for the loader knows no other."""
    if type(value) is torch.Tensor and value.is_meta and not value.requires_grad:
        return value  # which may stand for one that is elsewhere
    tensor = value.detach()
    if type(tensor) is torch.Tensor:  # sparse ones become nothing else
        return tensor
    if hasattr(tensor, "full_tensor"):  # shared out over processes: whoever writes it knows
        return tensor
    return tensor.as_subclass(torch.Tensor)


def memory_of(tensor: torch.Tensor) -> Any:
    """What two tensors have in common that are one, as tied weights are; None if nobody can say."""
    if hasattr(tensor, "full_tensor") or tensor.layout != torch.strided or tensor.numel() == 0:
        return None
    if tensor.is_meta:
        return None
    # The conjugate of a tensor lies in the same memory as that.
    meant = (tensor.is_conj(), tensor.is_neg())
    return (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), meant)


def _plain_mapping(
    value: Mapping[Any, Any], name: str, of_tensor: OfTensor | None
) -> dict[Any, Any]:
    copied = {}
    for key, item in value.items():
        copied[plain(key, f"{name} (a key)")] = plain(item, f"{name}.{key}", of_tensor)
    versions = versions_of(value)
    if versions is not None:
        return with_versions(OrderedDict(copied), plain(versions))
    return copied


def versions_of(state: Mapping[Any, Any]) -> dict[Any, Any] | None:
    """The versions of a network's modules, which `load_state_dict` reads off its state dict.

    torch keeps them as an attribute of that dict, which a dict of our own would not carry; the name
    is torch's private one. None: it is no state dict of a network.
    """
    if not hasattr(state, "_metadata"):
        return None
    return dict(state._metadata)


def with_versions(state: OrderedDict[Any, Any], versions: Any) -> OrderedDict[Any, Any]:
    """A state dict of a network with the versions of its modules."""
    vars(state)["_metadata"] = versions
    return state


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
