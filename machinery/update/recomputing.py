"""Modules whose activations are computed again in the backward pass, to save their memory.

As torch.utils.checkpoint has it (arXiv:1604.06174), around `forward` of a module: its name, and
those of its weights, stay.
"""

import fnmatch
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from machinery.errors import ConfigError
from machinery.order.outstanding import own_generators, state_of, times_written

_WHERE = "trainer.recompute"
_NAMES = 20


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern matches the name of a module, each of its parts one of the name's.

    "blocks.*" matches blocks.0, and not blocks.0.norm.
    """
    patterns, parts = pattern.split("."), name.split(".")
    if len(patterns) != len(parts):
        return False
    return all(map(fnmatch.fnmatchcase, parts, patterns))


def recompute(model: nn.Module, patterns: Sequence[str]) -> None:
    """Let the modules with these names compute their activations again in the backward pass.

    Raises:
        ConfigError: a pattern matches no module, one that is in another that is matched, or one
            that only holds others.
    """
    chosen = _chosen(model, patterns)
    for name in chosen:
        for other in chosen:
            if other.startswith(f"{name}."):
                raise ConfigError(f"{_WHERE}: {other} is inside {name}: leave one of them out")
    for name, module in chosen.items():
        if getattr(module.forward, "__func__", None) is nn.Module.forward:
            what = f"{name} is a {type(module).__name__}, which is never called"
            raise ConfigError(f"{_WHERE}: {what}, only what is in it")
    for name, module in chosen.items():
        module.forward = _Recomputed(name, module, module.forward)


def _chosen(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that some patterns match, by their names."""
    modules = {name: module for name, module in model.named_modules() if name}
    chosen = {}
    for pattern in patterns:
        found = [name for name in modules if matches(pattern, name)]
        if not found:
            there = f"there are: {_some(modules)}"
            raise ConfigError(f"{_WHERE}: {pattern!r} matches no module; {there}")
        for name in found:
            chosen[name] = modules[name]
    return chosen


def _some(modules: dict[str, nn.Module]) -> str:
    """The names of modules, the first of them."""
    names = ", ".join([*modules][:_NAMES])
    if len(modules) > _NAMES:
        names += ", …"
    return names


def _bytes_of(tensor: torch.Tensor) -> bytes:
    """What a tensor holds, to the bit; nothing of one that is not in plain memory."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return b""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()


class _Recomputed:
    """The forward of a module, computed again where its gradients are computed.

    Args:
        name: of the module.
        module: that it is of.
        forward: its own.
    """

    def __init__(self, name: str, module: nn.Module, forward: Callable[..., Any]) -> None:
        self._name = name
        self._module = module
        self._forward = forward
        #: The modes in which it has been checked: BatchNorm writes its buffers in one of them.
        self._checked: set[bool] = set()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        training = self._module.training
        if training in self._checked:
            return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
        before = self._state()
        output = checkpoint(self._forward, *args, use_reentrant=False, **kwargs)
        self._check(before)
        self._checked.add(training)
        return output

    def _state(self) -> dict[str, Any]:
        """What a second pass would find changed by the first; torch's generators are put back."""
        state: dict[str, Any] = {}
        for name, buffer in self._module.named_buffers():
            # Its version does not tell what is written by way of .data, nor another tensor.
            written = (times_written(buffer), _bytes_of(buffer))
            state[f"writes its buffer {name}, as BatchNorm does"] = written
        # torch puts the global ones back before the second pass, and no others.
        own = own_generators([*self._module.modules()])
        state["draws from a generator of its own"] = [state_of(each) for each in own]
        state["draws from Python's generator"] = random.getstate()
        numpys: Any = np.random.get_state(legacy=False)["state"]
        state["draws from NumPy's generator"] = (numpys["key"].tobytes(), numpys["pos"])
        return state

    def _check(self, before: dict[str, Any]) -> None:
        """Refuse a forward whose second pass would not be the first."""
        for what, value in self._state().items():
            if value != before.get(what):
                why = "a second pass would do it again: leave it out"
                raise ConfigError(f"{_WHERE}: {self._name} {what}, and {why}")
