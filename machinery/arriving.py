"""Batches that become what they are for where they are computed with.

A batch, or an item of one, may have a method `on_device(device)`: it moves there, and gives what
the network takes. So images travel as bytes (see `utils.images`).
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch


def _arrives(value: Any) -> bool:
    """Whether a value has the method; another attribute of that name is its own business."""
    return callable(getattr(value, "on_device", None))


def is_under_way(batch: Any) -> bool:
    """Whether a batch, or anything in its tuples, lists and dicts, is still to arrive."""
    if _arrives(batch):
        return True
    items: Any = ()
    if isinstance(batch, list | tuple):
        items = batch
    elif isinstance(batch, Mapping):
        items = batch.values()
    return any(is_under_way(item) for item in items)


def on_host(batch: Any) -> Any:
    """A batch whose items have arrived in the memory of the host; any other as it is."""
    if not is_under_way(batch):
        return batch
    return to_device(batch, torch.device("cpu"))


@functools.cache
def _copies_ahead(kind: Any) -> bool:
    """Whether the `to` of a class of batches can copy without waiting."""
    try:
        return "non_blocking" in inspect.signature(kind.to).parameters
    except ValueError:  # it is none of Python's own
        return False


def _moved(tensor: torch.Tensor, device: torch.device, channels_last: bool) -> torch.Tensor:
    layout = torch.preserve_format
    if channels_last and tensor.ndim == 4:
        layout = torch.channels_last
    return tensor.to(device, non_blocking=True, memory_format=layout)


def to_device(batch: Any, device: torch.device, channels_last: bool = False) -> Any:
    """Move the tensors of a batch, through tuples, lists and dicts.

    Copies from pinned memory do not wait.
    """
    if _arrives(batch):  # it is made there of what travels
        batch = batch.on_device(device)
    if isinstance(batch, torch.Tensor):
        return _moved(batch, device, channels_last)
    if hasattr(batch, "to"):  # a batch of a class of its own, such as a tokenizer's
        if _copies_ahead(type(batch)):  # type: ignore[arg-type]
            return batch.to(device, non_blocking=True)
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device, channels_last) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        moved = [to_device(value, device, channels_last) for value in batch]
        if hasattr(batch, "_fields"):  # a named tuple
            return type(batch)(*moved)
        return type(batch)(moved)
    return batch
