"""Plain data as JSON and back, the same: tuples, keys that are no strings, NaN, bytes.

An object whose one key begins with "$" stands for what JSON has not; tensors stand elsewhere, and
are named here.
"""

import base64
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch

from machinery.errors import CheckpointError
from machinery.plain_data import memory_of, versions_of, with_versions

_TUPLE = "$tuple"
_DICT = "$dict"
_FLOAT = "$float"
_BYTES = "$bytes"
_TENSOR = "$tensor"
_VERSIONS = "$versions"
#: Tells the reader what is missing, and a flat name what is inside of what.
_SEPARATOR = "/"


class Tensors:
    """The tensors that a document has named, each once, whatever the names it has there."""

    def __init__(self) -> None:
        self.by_name: dict[str, torch.Tensor] = {}
        self._known: dict[Any, str] = {}

    def add(self, tensor: torch.Tensor, path: str) -> str:
        """The name of a tensor that stands at a path of the document."""
        same = memory_of(tensor)
        if same is not None and same in self._known:
            return self._known[same]
        name = path
        while name in self.by_name:  # two paths may read alike
            name += "'"
        self.by_name[name] = tensor
        if same is not None:
            self._known[same] = name
        return name


def encoded(value: Any, tensors: Tensors, path: str = "") -> Any:
    """Plain data as what `json` writes.

    Args:
        value: plain data, see `machinery.plain_data`.
        tensors: gets the tensors that are in it.
        path: where the value stands.
    """
    if isinstance(value, torch.Tensor):
        return _encoded_tensor(value, tensors, path)
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if isinstance(value, list | tuple):
        items = [encoded(item, tensors, _at(path, i)) for i, item in enumerate(value)]
        if isinstance(value, tuple):
            return {_TUPLE: items}
        return items
    if isinstance(value, Mapping):
        return _encoded_mapping(value, tensors, path)
    return value


def _at(path: str, key: Any) -> str:
    if not path:
        return str(key)
    return f"{path}{_SEPARATOR}{key}"


def _encoded_tensor(tensor: torch.Tensor, tensors: Tensors, path: str) -> Any:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {_TENSOR: [tensors.add(tensor, path), dtype, list(tensor.shape)]}


def _encoded_mapping(value: Mapping[Any, Any], tensors: Tensors, path: str) -> Any:
    """A mapping as an object, or as pairs if keys are no strings, or would be taken for ours."""
    versions = versions_of(value)
    if versions is not None:
        bare = _encoded_mapping(dict(value), tensors, path)
        return {_VERSIONS: [encoded(versions, tensors), bare]}
    items = {}
    pairs = []
    for key, item in value.items():
        inner = encoded(item, tensors, _at(path, key))
        items[key] = inner
        pairs.append([encoded(key, tensors), inner])
    if all(type(key) is str and not key.startswith("$") for key in items):
        return items
    return {_DICT: pairs}


def decoded(document: Any, tensor: Callable[[str, str, list[int]], torch.Tensor]) -> Any:
    """What `encoded` was given.

    Args:
        document: what `json` has read.
        tensor: gives the tensor of a name, a type and a shape.

    Raises:
        CheckpointError: it is nothing that `encoded` gives.
    """
    if isinstance(document, list):
        return [decoded(item, tensor) for item in document]
    if not isinstance(document, dict):
        return document
    tag = next(iter(document), "")
    if not tag.startswith("$"):
        return {key: decoded(item, tensor) for key, item in document.items()}
    try:
        ((tag, inner),) = document.items()
        return _untagged(tag, inner, tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{tag} in it is no value of a checkpoint: {error}") from None


def _untagged(tag: str, inner: Any, tensor: Callable[[str, str, list[int]], torch.Tensor]) -> Any:
    """What an object with a key of ours stands for."""
    if tag == _TENSOR:
        name, dtype, shape = inner
        return tensor(name, dtype, shape)
    if tag == _FLOAT:
        return float(inner)
    if tag == _BYTES:
        return base64.b64decode(inner, validate=True)
    if tag == _TUPLE:
        return tuple(decoded(inner, tensor))
    if tag == _DICT:
        pairs = {}
        for key, item in inner:
            pairs[decoded(key, tensor)] = decoded(item, tensor)
        return pairs
    if tag == _VERSIONS:
        versions, bare = decoded(inner, tensor)
        return with_versions(OrderedDict(bare), versions)
    raise ValueError("there is no such kind")
