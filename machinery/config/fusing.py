"""Optimizers whose step is one kernel: torch's own, wherever it can have them."""

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from machinery.config.arguments import accepted

if TYPE_CHECKING:
    import torch

#: Arguments that say how a step is computed: who gives one chooses for himself.
_WAYS = ("fused", "foreach", "differentiable", "capturable")
#: Of SGD: with it, a momentum cannot begin with zeros, as a fused one of a late parameter does.
_NOT_FROM_ZERO = "dampening"
#: Devices for which torch's documentation names fused optimizers, and that are no experiment.
_DEVICES = ("cpu", "cuda", "xpu")


class Fusing:
    """Says which optimizers of a model are fused: those that torch can, if nobody says otherwise.

    It changes nothing but rounding, and is chosen by rule, so that one config gives the same bits
    each time. The groups of the optimizer's state hold it, with which a resumed run goes on.

    Args:
        model: to train.
        loss: of the training, which may be a network, too.
        tells: of what is chosen.
    """

    def __init__(self, model: "torch.nn.Module", loss: Any, tells: bool) -> None:
        self._tells = tells
        modules = list(model.modules())
        if hasattr(loss, "modules"):
            modules += loss.modules()
        # Of embeddings, whose gradients no fused kernel takes.
        self._sparse = any(getattr(each, "sparse", False) is True for each in modules)

    def argument(self, kind: Any, given: Iterable[str], named: "list[Any]") -> dict[str, bool]:
        """{"fused": True}, or {}.

        Args:
            kind: makes the optimizer.
            given: the arguments that the config gives it.
            named: its parameters, with their names.
        """
        if self._sparse or not getattr(kind, "__module__", "").startswith("torch.optim."):
            return {}
        own_way = not set(given).isdisjoint((*_WAYS, _NOT_FROM_ZERO))
        if "fused" not in accepted(kind).types or own_way:
            return {}
        if not all(_can_be_fused(weight) for _, weight in named):
            return {}
        if self._tells:
            off = "optimizer.args.fused: false computes one weight after the other"
            logging.getLogger("config").info(f"{kind.__name__} is fused ({off})")
        return {"fused": True}


def _can_be_fused(weight: "torch.Tensor") -> bool:
    """Whether a kernel can step on a weight: numbers without gaps, on a device that has one."""
    import torch

    if not weight.is_floating_point() or weight.device.type not in _DEVICES:
        return False
    if weight.layout != torch.strided:
        return False
    return weight.stride() == torch.empty_like(weight, device="meta").stride()
