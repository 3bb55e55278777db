"""A network as a table of its layers: what each returns for a batch, and how many parameters it has."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from machinery.errors import described
from machinery.update.runtime import unwrap


def watch(model: nn.Module) -> Callable[[], str]:
    """Note the shapes of what the layers of a network return; the function that is returned ends it, with the table."""
    shapes: dict[str, str] = {}

    def note(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        with contextlib.suppress(Exception):  # of a tensor without a shape
            shapes[name] = described(output).replace(" float32", "")

    # A compiled network would be compiled once more without the hooks; a scripted one takes none.
    modules = {} if hasattr(model, "_orig_mod") else dict(unwrap(model).named_modules())
    plain = {
        name: module
        for name, module in modules.items()
        if not isinstance(module, torch.jit.ScriptModule)
    }
    handles = [module.register_forward_hook(partial(note, name)) for name, module in plain.items()]

    def told() -> str:
        for handle in handles:
            handle.remove()
        return layer_table(unwrap(model), shapes)

    return told


def layer_table(model: nn.Module, shapes: dict[str, str], lines: int = 40) -> str:
    """The table; layers in layers are folded where there would be more than so many lines.

    Args:
        shapes: what layers return, by their names in `model.named_modules()`, "" for the whole.
    """
    layers = [
        (name, module, name.count(".") + 1 if name else 0) for name, module in model.named_modules()
    ]
    room = lines - 3
    depth = max(
        (depth for depth in range(1, 100) if sum(deep <= depth for *_, deep in layers) <= room),
        default=1,
    )
    shown = [layer for layer in layers if layer[2] <= depth]
    rows = [("layer", "type", "output", "parameters")]
    for name, module, deep in shown[:room]:
        kind = type(module).__name__[:25] + (
            " …" if deep == depth and any(module.children()) else ""
        )
        # Without those of a lazy layer that the batch has not reached.
        count = sum(
            each.numel()
            for each in module.parameters()
            if not isinstance(each, UninitializedParameter)
        )
        label = "  " * deep + (name.rpartition(".")[2] or "model")[:25]
        rows.append((label, kind, shapes.get(name, "")[:30], f"{count:,}"))
    a, b, c, d = (max(map(len, column)) for column in zip(*rows, strict=True))
    text = [
        f"{layer:<{a}}  {kind:<{b}}  {shape:<{c}}  {count:>{d}}"
        for layer, kind, shape, count in rows
    ]
    text += [f"… {len(shown) - room} layers more"] if shown[room:] else []
    frozen = sum(each.numel() for each in model.parameters() if not each.requires_grad)
    return "\n".join([*text, f"{frozen:,} of the parameters are frozen"] if frozen else text)
