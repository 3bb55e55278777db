"""What a state is made of, and whether two states are the same: plain data, as checkpoints hold
it."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch


def structure(state: Any) -> str:
    """A hash of the keys, types and shapes of a state, without its values."""
    sha256 = hashlib.sha256()
    for path, kind in _kinds(state, ""):
        sha256.update(f"{path}: {kind}\n".encode())
    return sha256.hexdigest()


def _kinds(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """All that is in a state: where it is, and what it is."""
    kind = type(value).__name__
    if isinstance(value, torch.Tensor):
        kind = f"{value.dtype} {list(value.shape)} {value.layout}"
    elif isinstance(value, Mapping):
        kind = "dict"
    yield path, kind
    for key, item in items_of(value):
        yield from _kinds(item, f"{path}.{key!r}")


def items_of(value: Any) -> list[tuple[Any, Any]]:
    """What is in a container, by key or number."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    return []


def size(state: Any) -> int:
    """About how many bytes the tensors of a state have."""
    if isinstance(state, torch.Tensor):
        return sum(piece.nbytes for piece in pieces(state))
    return sum(size(item) for _, item in items_of(state))


def pieces(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The dense tensors that a tensor is made of: itself, unless it is sparse."""
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        return [tensor.indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return [tensor]


def difference(one: Any, other: Any, path: str = "") -> str:
    """Where the first of the differences of two states is; empty if there is none."""
    where = path.removeprefix(".") or "all of it"
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return "" if _equal(one, other) else where
    inside, there = dict(items_of(one)), dict(items_of(other))
    if type(one) is not type(other) or inside.keys() != there.keys():
        return where
    if not isinstance(one, Mapping | list | tuple):
        same = one == other or one != one  # a NaN is not equal to itself
        return "" if same else where
    for key, item in inside.items():
        found = difference(item, there[key], f"{path}.{key}")
        if found:
            return found
    return ""


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same bits, wherever they are."""
    if (one.dtype, one.shape, one.layout) != (other.dtype, other.shape, other.layout):
        return False
    for mine, its in zip(pieces(one), pieces(other), strict=True):
        if mine.shape != its.shape or not torch.equal(bytes_of(mine), bytes_of(its)):
            return False
    return True


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The bytes of a dense tensor, on the CPU."""
    tensor = tensor.detach().cpu()
    if tensor.is_quantized:
        tensor = tensor.int_repr()
    numbers = tensor.resolve_conj().resolve_neg().contiguous().flatten()
    if numbers.numel() == 1:  # which is contiguous whatever its stride
        numbers = numbers.clone(memory_format=torch.contiguous_format)
    return numbers.view(torch.uint8)
