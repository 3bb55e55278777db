"""What FSDP2 cannot share out over processes, refused before it is begun."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from machinery.errors import ConfigError
from machinery.update.recomputing import matches

_WHERE = "trainer.strategy"
_SHARD = "trainer.shard"


def to_shard(model: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """The modules of a model that are shared out by themselves, the innermost first.

    Raises:
        ConfigError: a pattern matches none, or one that is never called; or the model computes
            gradients in its forward pass, where torch lets go of a module's weights too soon.
    """
    if patterns and getattr(model, "evaluates_with_gradients", False):
        what = "a model that evaluates_with_gradients is shared out as a whole"
        raise ConfigError(f"{_SHARD}: {what}: leave it out")
    named = [(name, module) for name, module in model.named_modules() if name]
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        matched = {name: module for name, module in named if matches(pattern, name)}
        if not matched:
            shown = ", ".join([name for name, _ in named[:20]])
            raise ConfigError(f"{_SHARD}: no module matches {pattern!r}: {shown}")
        found.update(matched)
    _check_called(found)
    names = sorted(found, key=lambda name: -name.count("."))
    return [found[name] for name in names]


def _check_called(chosen: Mapping[str, nn.Module]) -> None:
    """Refuse modules that only hold others."""
    for name, module in chosen.items():
        if getattr(module.forward, "__func__", None) is nn.Module.forward:
            what = f"{name} is a {type(module).__name__}, which is never called"
            raise ConfigError(f"{_SHARD}: {what}: {name}.* is what is in it")


def check_weights(model: nn.Module, apart: Sequence[nn.Module]) -> None:
    """Refuse weights that cannot be shared out.

    Args:
        model: whole.
        apart: its modules that are shared out by themselves, the innermost first.

    Raises:
        ConfigError: with the name of one.
    """
    names = {}
    for name, weight in model.named_parameters():
        names[id(weight)] = name
        why = _why_not(weight)
        if why:
            raise ConfigError(f"{_WHERE}: fsdp cannot share out {name}: {why}")
    done: set[int] = set()
    placed: set[int] = set()
    for module in [*apart, model]:
        weights = _weights_of(module, done)
        for number in weights.keys() & placed:
            what = f"{names[number]} is a weight of several modules"
            raise ConfigError(f"{_SHARD}: {what}: name none of them, or one that has them all")
        placed |= weights.keys()
        kinds = {weight.dtype for weight in weights.values() if weight.requires_grad}
        if len(kinds) > 1:
            shown = ", ".join(sorted(str(kind) for kind in kinds))
            what = f"weights of {shown} in one: name the modules of each in trainer.shard"
            raise ConfigError(f"{_WHERE}: fsdp: {type(module).__name__} has {what}")


def _weights_of(module: nn.Module, done: set[int]) -> dict[int, nn.Parameter]:
    """The weights that are gathered with a module: not those of what is done before."""
    found = {}
    for each in module.modules():
        if id(each) in done:
            continue
        done.add(id(each))
        for weight in each.parameters(recurse=False):
            found[id(weight)] = weight
    return found


def _why_not(weight: torch.Tensor) -> str:
    """Why a weight cannot be shared out; "" if it can."""
    if weight.ndim == 0:
        return "it is a single number, make it one of shape [1]"
    if weight.numel() == 0:
        return "it has no numbers"
    if not weight.is_contiguous():
        return "it is a view, or channels last in memory (trainer.channels_last), no plain tensor"
    return ""
