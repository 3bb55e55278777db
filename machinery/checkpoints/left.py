"""What several processes have left in a checkpoint's folder, and each reads as it needs it.

Of a tensor that is shared out over them each reads its part: none has all of it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from machinery.checkpoints import shards
from machinery.checkpoints.file import Content
from machinery.update.runtime import is_sharded, like_shared, local, weights_in_order

_WEIGHTS = "state_dict"
_PARTS = (_WEIGHTS, "optimizer", "states")


def read_weights(path: Path, content: Content, model: nn.Module) -> Content:
    """What a checkpoint holds, with the numbers of its weights.

    Args:
        path: of its folder.
        content: of it; where nothing is left, nothing is read.
        model: that will take them.

    Raises:
        CheckpointError: they cannot be read.
    """
    likes: dict[int, torch.Tensor] = {}
    if not _are_left(content, [_WEIGHTS]):
        return content
    _note_weights(likes, content["state_dict"], model)
    return _read(path, content, likes, [_WEIGHTS])


def read(path: Path, content: Content, networks: Mapping[str, nn.Module], parts: Any) -> Content:
    """What a checkpoint holds, with the numbers of all its tensors.

    Args:
        path, content: as for `read_weights`.
        networks: that will take the weights, by name; the first is the model.
        parts: of the trainer, with its optimizers, by name.

    Raises:
        CheckpointError: they cannot be read.
    """
    likes: dict[int, torch.Tensor] = {}
    if not _are_left(content, _PARTS):
        return content
    for name, network in networks.items():
        _note_weights(likes, content["states"].get(name, content["state_dict"]), network)
    for name, part in parts.items():
        if isinstance(part, Optimizer):
            _note_state(likes, content["states"].get(name, content["optimizer"]), part)
    return _read(path, content, likes, _PARTS)


def _read(
    path: Path, content: Content, likes: Mapping[int, torch.Tensor], parts: Sequence[str]
) -> Content:
    """Read some parts of a checkpoint; of each tensor as much as one of another that it is like."""

    def place(tensor: torch.Tensor) -> torch.Tensor:
        like = likes.get(id(tensor))
        if like is None:
            return torch.empty(tensor.shape, dtype=tensor.dtype)
        part = torch.empty_like(local(like), dtype=tensor.dtype, requires_grad=False)
        return like_shared(like, part)

    found = shards.read_left(path, _held(content, parts), place)
    return cast(Content, {**content, **found})


def _are_left(content: Content, parts: Sequence[str]) -> bool:
    """Whether tensors of some parts of a checkpoint are still in its folder."""
    return any(_is_left(leaf) for leaf in tree_leaves(_held(content, parts)))


def _held(content: Content, parts: Sequence[str]) -> dict[str, Any]:
    """Some parts of a checkpoint."""
    values = cast(dict[str, Any], content)
    return {part: values[part] for part in parts}


def _is_left(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_meta


def _note_weights(likes: dict[int, torch.Tensor], saved: Any, network: nn.Module) -> None:
    """Note whose parts are to be read of a network's weights."""
    for name, own in network.state_dict().items():
        _note(likes, saved.get(name), own)


def _note(likes: dict[int, torch.Tensor], saved: Any, own: Any) -> None:
    """Note whose part is to be read of a saved tensor, if that is shared out."""
    if isinstance(saved, torch.Tensor) and is_sharded(own) and own.shape == saved.shape:
        likes[id(saved)] = own


def _note_state(likes: dict[int, torch.Tensor], saved: Any, optimizer: Optimizer) -> None:
    """Note it of what an optimizer knows of each number of its weights."""
    numbers = []
    for group in saved.get("param_groups", []):
        numbers += group["params"]
    states = saved.get("state", {})
    for number, weight in zip(numbers, weights_in_order(optimizer), strict=False):
        for value in states.get(number, {}).values():
            _note(likes, value, weight)
