"""Whether saved weights fit a network, and how they go into it."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from machinery.update.networks import device_of


def mismatches(
    now: Mapping[str, Any], saved: Mapping[str, Any], buffers: Collection[str] = ()
) -> list[str]:
    """Names that are missing, unexpected, or of another shape or kind, as lines; 10 of each.

    Args:
        buffers: names of those that may take another shape.
    """
    shapes = []
    kinds = []
    for name, value in now.items():
        if name not in saved or not isinstance(value, torch.Tensor) or is_lazy(value):
            continue  # a lazy one takes any
        other = saved[name]
        if _kind(other) != _kind(value) or _lacks_numbers(other, value):
            kinds.append(f"{name} {_described(other)} -> {_described(value)}")
        elif not _has_shape(value, other, name in buffers):
            shapes.append(f"{name} {list(other.shape)} -> {list(value.shape)}")
    lines = _named("missing", [name for name in now if name not in saved])
    lines += _named("unexpected", [name for name in saved if name not in now])
    return lines + _named("wrong shape", shapes) + _named("wrong kind", kinds)


def _named(what: str, names: list[str]) -> list[str]:
    """A line with the first ten names; none if there are none."""
    if not names:
        return []
    return [f"{what}: {_ten(names)}"]


def _ten(names: list[str]) -> str:
    """The first ten names."""
    if len(names) > 10:
        return ", ".join(names[:10]) + ", …"
    return ", ".join(names)


def _kind(value: Any) -> tuple[Any, ...]:
    """What a value has to have in common with one that takes its place."""
    if not isinstance(value, torch.Tensor):
        return (type(value),)
    return value.layout, value.is_complex(), value.is_floating_point()


def _lacks_numbers(saved: Any, value: torch.Tensor) -> bool:
    """Whether a saved value has a shape alone, and that which it replaces has numbers."""
    return isinstance(saved, torch.Tensor) and saved.is_meta and not value.is_meta


def _described(value: Any) -> str:
    """The kind of a value in words."""
    if not isinstance(value, torch.Tensor):
        return type(value).__name__
    dtype = str(value.dtype).removeprefix("torch.")
    if value.is_meta:
        return f"{dtype} without numbers (meta)"
    if value.layout == torch.strided:
        return dtype
    return f"{dtype} {str(value.layout).removeprefix('torch.')}"


def _has_shape(value: torch.Tensor, saved: torch.Tensor, may_grow: bool) -> bool:
    """Whether a value has the shape of a saved one, or may take it.

    A buffer may that grows, as a table does with the longest input: to what the file holds in full.
    """
    if saved.shape == value.shape:
        return True
    return may_grow and value.ndim == saved.ndim and _is_whole(saved)


def _is_whole(saved: Any) -> bool:
    """Whether a saved value is a tensor with all its numbers, and would not become larger."""
    if not isinstance(saved, torch.Tensor) or saved.layout != torch.strided:
        return False
    return saved.nbytes <= saved.untyped_storage().nbytes()


def differing_weights(
    now: Mapping[str, Any], saved: Mapping[str, Any], buffers: Collection[str] = ()
) -> list[str]:
    """The names of weights that only one side has, or that do not fit; as for `mismatches`."""
    found = []
    for name in {**now, **saved}:
        if name not in now or name not in saved:
            found.append(name)
        elif mismatches({name: now[name]}, {name: saved[name]}, buffers):
            found.append(name)
    return found


class Weights(NamedTuple):
    """What a network has, as far as others have to fit it."""

    values: Mapping[str, Any]
    #: The names of its buffers, also of those that are yet to be made.
    buffers: list[str]
    unmade: list[str]
    #: Whether it has a `load_state_dict` of its own, which may make saved weights fit.
    adapts: bool = False


def weights_of(network: nn.Module) -> Weights:
    """What a network has now; its values are the network's own, and cost nothing."""
    buffers = []
    unmade = []
    for module, name, full_name in _buffers(network):
        buffers.append(full_name)
        if getattr(module, name) is None:
            unmade.append(full_name)
    return Weights(network.state_dict(), buffers, unmade, _adapts(network))


def _adapts(network: nn.Module) -> bool:
    """Whether a network says itself how saved weights go into it."""
    return type(network).load_state_dict is not nn.Module.load_state_dict


def _buffers(network: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """The buffers of a network: where they are, and their names there and in all of it."""
    for prefix, module in network.named_modules():
        for name in list(module._buffers):  # those that are None are named nowhere else
            yield module, name, f"{prefix}.{name}".removeprefix(".")


def load_weights(network: nn.Module, saved: Mapping[str, Any], strict: bool = True) -> None:
    """Load saved weights that fit; a buffer of another shape, or with other places, takes it."""
    if _adapts(network):
        network.load_state_dict(saved)
        return
    for module, name, full_name in _buffers(network):
        buffer = getattr(module, name)
        value = saved.get(full_name)
        if value is None or is_lazy(buffer):  # which takes its shape by itself
            continue
        if buffer is None:
            setattr(module, name, value.to(device_of(network), copy=True))
        elif value.shape != buffer.shape or buffer.layout != torch.strided:
            setattr(module, name, value.to(buffer.device, buffer.dtype, copy=True))
    network.load_state_dict(saved, strict=strict)


def weights_problems(now: Weights, saved: Mapping[str, Any], ordered: bool = True) -> list[str]:
    """How saved weights differ from a network's.

    Args:
        ordered: they have to be in the same order, or an optimizer's state would go to others.
    """
    if now.adapts:
        return []
    known = {}
    for name, value in saved.items():
        if name not in now.unmade or not _is_whole(value):
            known[name] = value
    problems = mismatches(now.values, known, now.buffers)
    if problems or not ordered:
        return problems
    moved = [name for name, other in zip(now.values, known, strict=True) if name != other]
    if moved:
        return [f"in another order: {', '.join(moved[:10])}"]
    return []
