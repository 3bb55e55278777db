"""How a model is compiled: whole, or each of its repeated blocks by itself."""

from typing import Any, cast

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from machinery.errors import ConfigError

#: Modes of torch.compile that replay a CUDA graph, whose results are always in the same memory.
_WITH_GRAPHS = ("reduce-overhead", "max-autotune")


def compiled(model: nn.Module, how: bool | str) -> nn.Module:
    """The model as `trainer.compile` asks for it.

    Shapes that become dynamic once there was another one would give other last bits than a resumed
    run has, where they are not yet: so each shape has code of its own.

    Args:
        how: False, True, a mode of `torch.compile`, or "blocks".

    Raises:
        ConfigError: there are no blocks.
    """
    if how is False:
        return model
    if how == "blocks":
        _compile_blocks(model)
        return model
    options: dict[str, Any] = {}
    if isinstance(how, str):
        options["mode"] = how
    ready = cast(nn.Module, torch.compile(model, dynamic=False, **options))
    if how in _WITH_GRAPHS:
        ready.register_forward_hook(_copied)
    return ready


def _copied(model: nn.Module, inputs: Any, output: Any) -> Any:
    """The output in memory of its own: the graph's is written anew by its next run.

    A metric, or an update of several batches, may keep it longer.
    """
    return tree_map_only(torch.Tensor, torch.clone, output)


def compiled_blocks(model: nn.Module) -> list[str]:
    """The names of modules that are compiled by themselves."""
    found = []
    for name, module in model.named_modules():
        if module._compiled_call_impl is not None:  # torch has no public name for it
            found.append(name)
    return found


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The modules of the lists of equals in a model."""
    blocks: list[nn.Module] = []
    for module in model.modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        children = list(module.children())
        if len(children) > 1 and len({type(child) for child in children}) == 1:
            blocks += children
    return blocks


def _compile_blocks(model: nn.Module) -> None:
    """Compile each module of a list of equals by itself: their code is made once for all."""
    blocks = repeated_blocks(model)
    if not blocks:
        what = "the model has no list of modules of one class"
        raise ConfigError(f'trainer.compile: {what}: "blocks" has nothing to compile, true has')
    for block in blocks:
        block.compile(dynamic=False)
