"""What a fused step takes for granted, and torch does not see to."""

from typing import Any

import torch
from torch.optim import Optimizer

from machinery.errors import ConfigError


def lay_out_state(optimizer: Optimizer) -> None:
    """Let what is kept of weights lie in memory as they do: kernels take it as it lies there.

    A checkpoint may be of another `channels_last`.
    """
    for group in _fused_groups(optimizer):
        for weight in group["params"]:
            kept = optimizer.state.get(weight, {})
            for name, value in kept.items():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    kept[name] = _laid_out(value, weight)


def ready(optimizer: Optimizer) -> None:
    """Make an optimizer, and the gradients of its weights, ready for a step.

    The scale of fp16 stays out of it: in a kernel, a step that is not made would count as one for
    the average of the weights, and leave a first momentum undefined. A gradient that autograd has
    not put beside its weight may lie otherwise in memory.

    Raises:
        ConfigError: a gradient is sparse.
    """
    if "fused" in getattr(optimizer, "defaults", ()):  # torch has no public name for it
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    for group in _fused_groups(optimizer):
        for weight in group["params"]:
            if weight.grad is not None:
                if weight.grad.layout != torch.strided:
                    kind = f"a fused {type(optimizer).__name__}"
                    hint = "set optimizer.args.fused to false"
                    raise ConfigError(f"{kind} takes no sparse gradients: {hint}")
                weight.grad = _laid_out(weight.grad, weight)
                _begin_momentum(optimizer, group, weight)


def _fused_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if group.get("fused")]


def _begin_momentum(optimizer: Optimizer, group: dict[str, Any], weight: torch.Tensor) -> None:
    """Let SGD's momentum begin with 0, so that it is the gradient first: all have to be there.

    With dampening it would be less.
    """
    if not group.get("momentum") or group.get("dampening") != 0:
        return
    kept = optimizer.state[weight]
    if kept.get("momentum_buffer") is None:
        kept["momentum_buffer"] = torch.zeros_like(weight, memory_format=torch.preserve_format)


def _laid_out(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Values of the shape of a weight, in memory as it is."""
    if values.stride() == weight.stride():
        return values
    return torch.empty_like(weight, dtype=values.dtype).copy_(values)
