"""What processes that have parts of the weights have to do alike, and are told of if they do not.

Each takes part whenever a module's weights are gathered, and its gradients are added up, in the
same order as the others. Where one leaves a module out, it would get parts of other weights.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from machinery import distributed
from machinery.errors import ConfigError

_ALIKE = "trainer.strategy: fsdp wants each process to do the same"


class Order:
    """The modules that a process computes, and the weights that it reaches.

    Until the first step they are compared before each module, so that nobody waits for what does
    not come; from there on before each step.

    Args:
        model: that is shared out.
        apart: its modules that are shared out by themselves.
    """

    def __init__(self, model: nn.Module, apart: Sequence[nn.Module]) -> None:
        self._model = model
        self._names = {id(module): name for name, module in model.named_modules()}
        self._computed: list[str] = []
        # Whether the model is being computed, and whether a step has been made.
        self._within = False
        self._stepped = False
        model.register_forward_pre_hook(self._begin, prepend=True)
        for module in apart:
            module.register_forward_pre_hook(self._note, prepend=True)
        for module in [model, *apart]:
            module.register_forward_hook(self._look)
        model.register_forward_hook(self._end)

    def _begin(self, *_: Any) -> None:
        self._within = True
        self._meet("the model")

    def _end(self, *_: Any) -> None:
        self._meet("its end")
        self._within = False

    def _note(self, module: nn.Module, _: Any) -> None:
        """Note a module, unless it is computed again in a backward pass, or is being compiled."""
        if not torch.compiler.is_compiling() and self._within:
            self._meet(self._names[id(module)])

    def _meet(self, name: str) -> None:
        """Note what is next; for the first step, look whether it is that of all processes."""
        self._computed.append(name)
        if self._stepped:
            return
        found = distributed.gathered(name)
        if len(set(found)) > 1:
            shown = ", ".join(dict.fromkeys(found))
            raise ConfigError(f"{_ALIKE}: they come to other modules: {shown}")

    def _look(self, module: nn.Module, _: Any, output: Any) -> None:
        """Refuse an output in which fsdp finds no tensors, and so nothing to compute back from."""
        if torch.compiler.is_compiling() or self._stepped or not torch.is_grad_enabled():
            return
        if not any(isinstance(each, torch.Tensor) for each in tree_leaves(output)):
            name = self._names[id(module)] or "the model"
            what = f"{name} gives a {type(output).__name__}, in which it finds no tensors"
            raise ConfigError(f"trainer.strategy: fsdp: {what}: return them in a tuple or a dict")

    def check(self) -> None:
        """Before a step: look whether all processes have computed the same.

        Raises:
            ConfigError: with the names of what they have not.
        """
        reached = []
        for name, weight in self._model.named_parameters():
            if weight.grad is not None:
                reached.append(name)
        self._stepped = True
        both = (self._computed, reached)
        self._computed = []
        numbers = distributed.gathered([zlib.crc32("\n".join(each).encode()) for each in both])
        if all(number == numbers[0] for number in numbers):
            return
        what = "modules"
        other = _in_some(distributed.gathered(both[0]))
        if not other:
            what = "weights"
            other = _in_some(distributed.gathered(reached))
        raise ConfigError(f"{_ALIKE}: they come to other {what}: {', '.join(other[:3])}")


def _in_some(found: Sequence[Sequence[str]]) -> list[str]:
    """What some processes have more often than others."""
    other = {}
    for each in found:
        for name in each:
            if len({names.count(name) for names in found}) > 1:
                other[name] = True
    return list(other)
