"""Optimizers whose step is one kernel: torch's own, wherever it can have them."""

import logging
from typing import TYPE_CHECKING, Any

from machinery.config.arguments import accepted

if TYPE_CHECKING:
    import torch

#: Arguments that say how a step is computed: who gives one chooses for himself.
_WAYS = ("fused", "foreach", "differentiable", "capturable")
#: Devices for which torch's documentation names fused optimizers, and that are no experiment.
_DEVICES = ("cpu", "cuda", "xpu")


def fused_argument(
    kind: Any, given: set[str], model: "torch.nn.Module", weights: Any
) -> dict[str, Any]:
    """{"fused": True} for an optimizer that torch can fuse and nobody says how to compute; or {}.

    It changes nothing but rounding, and is chosen by rule, so that one config gives the same bits
    each time. The groups of the optimizer's state hold it, with which a resumed run goes on.

    Args:
        kind: makes the optimizer.
        given: the names of the arguments that the config gives it, or one of its groups.
        model: to train.
        weights: that it is given.
    """
    if not getattr(kind, "__module__", "").startswith("torch.optim."):
        return {}
    if "fused" not in accepted(kind).types or not given.isdisjoint(_WAYS):
        return {}
    if any(getattr(module, "sparse", False) for module in model.modules()):
        return {}  # of embeddings, whose gradients no fused kernel takes
    for weight in weights:
        if not weight.is_floating_point() or weight.device.type not in _DEVICES:
            return {}
    return {"fused": True}


def tell_fused(kind: Any) -> None:
    """Tell of what was chosen."""
    off = "optimizer.args.fused: false computes one weight after the other"
    logging.getLogger("config").info(f"{kind.__name__} is fused ({off})")


def scale_as_fused(optimizer: Any) -> None:
    """Let an optimizer whose state was loaded take fp16's scale itself only if it is fused.

    Torch sets this in the constructor, and not by the state: that of a run of an older version is
    not fused.
    """
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        fused = [group.get("fused") for group in optimizer.param_groups]
        optimizer._step_supports_amp_scaling = all(fused)
