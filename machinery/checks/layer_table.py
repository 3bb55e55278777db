"""A network as a table of its layers: what each returns for a batch, and its parameters."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from machinery.checks.batchnorm import against_single, refuse_single, samples_before_single
from machinery.telling import described
from machinery.update.runtime import compiled_blocks, kind_of, unwrap


class Layer(NamedTuple):
    """A module of a network."""

    #: As in `model.named_modules()`; "" for the network itself.
    name: str
    module: nn.Module
    #: How many modules it is in.
    depth: int


class Row(NamedTuple):
    """A line of the table."""

    layer: str
    kind: str
    output: str
    parameters: str


_HEADER = Row("layer", "type", "output", "parameters")


def watch(model: nn.Module, loader: Any = None, steps: int = 0) -> Callable[[], str]:
    """Note what the layers of a network return for a batch.

    Args:
        loader: which gives the batch, and others in so many `steps`: what a layer gets says whether
            it can take a last batch of one sample.

    Returns:
        a function that ends it, and gives the table.
    """
    shapes: dict[str, str] = {}
    samples = samples_before_single(loader, steps)

    def note(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if samples > 1:
            refuse_single(module, inputs, samples, against_single(loader))
        try:
            shapes[name] = described(output).replace(" float32", "")
        except Exception:
            pass  # of a tensor without a shape

    handles = []
    for layer in _layers_to_watch(model):
        handles.append(layer.module.register_forward_hook(partial(note, layer.name)))

    def told() -> str:
        for handle in handles:
            handle.remove()
        return layer_table(unwrap(model), shapes)

    return told


def layer_table(model: nn.Module, shapes: Mapping[str, str], lines: int = 40) -> str:
    """The table; layers in layers are folded where there would be more than so many lines.

    Args:
        shapes: what layers return, by their names in `model.named_modules()`, "" for the whole.
    """
    space = lines - 3  # the header, how many are left out, how many are frozen
    layers = _layers_of(model)
    depth = _depth_that_fits(layers, space)
    unfolded = [layer for layer in layers if layer.depth <= depth]
    folds = len(unfolded) < len(layers)
    rows = [_HEADER]
    for layer in unfolded[:space]:
        mark = ""
        if folds and layer.depth == depth and any(layer.module.children()):
            mark = " …"
        rows.append(_row(layer, mark, shapes.get(layer.name, "")))
    text = _aligned(rows)
    if len(unfolded) > space:
        text.append(f"… {len(unfolded) - space} layers more")
    frozen = _count(each for each in model.parameters() if not each.requires_grad)
    if frozen:
        text.append(f"{frozen:,} of the parameters are frozen")
    return "\n".join(text)


def _layers_to_watch(model: nn.Module) -> list[Layer]:
    """The layers that take a hook.

    A scripted layer takes none, and with hooks what is compiled would be compiled once more, to
    other last bits.
    """
    inner = unwrap(model)
    parallel = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    compiled = inner is not model and not parallel
    if compiled:
        return []
    blocks = compiled_blocks(inner)
    layers = []
    for layer in _layers_of(inner):
        inside = any(f"{layer.name}.".startswith(f"{block}.") for block in blocks)
        if not inside and not isinstance(layer.module, torch.jit.ScriptModule):
            layers.append(layer)
    return layers


def _layers_of(model: nn.Module) -> list[Layer]:
    """All modules of a network, itself first, each before those inside it."""
    layers = []
    for name, module in model.named_modules():
        depth = 0
        if name:
            depth = name.count(".") + 1
        layers.append(Layer(name, module, depth))
    return layers


def _depth_that_fits(layers: Sequence[Layer], space: int) -> int:
    """How deep the table can go with so many lines; at least to the network's own layers."""
    deepest = max(layer.depth for layer in layers)
    for depth in range(deepest, 1, -1):
        if sum(layer.depth <= depth for layer in layers) <= space:
            return depth
    return 1


def _row(layer: Layer, mark: str, output: str) -> Row:
    label = layer.name.rpartition(".")[2]
    if not label:
        label = "model"
    return Row(
        layer="  " * layer.depth + _cut(label, 25),
        kind=_cut(kind_of(layer.module).__name__, 25) + mark,
        output=_cut(output, 30),
        parameters=f"{_count(layer.module.parameters()):,}",
    )


def _cut(text: str, length: int) -> str:
    """A text, or its beginning."""
    if len(text) <= length:
        return text
    return text[: length - 1] + "…"


def _count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers they are, without those of a lazy layer that the batch has not reached."""
    count = 0
    for parameter in parameters:
        if not isinstance(parameter, UninitializedParameter):
            count += parameter.numel()
    return count


def _aligned(rows: Sequence[Row]) -> list[str]:
    """The lines of the table; its columns are as wide as their widest cells."""
    layer = max(len(row.layer) for row in rows)
    kind = max(len(row.kind) for row in rows)
    output = max(len(row.output) for row in rows)
    parameters = max(len(row.parameters) for row in rows)
    lines = []
    for row in rows:
        lines.append(
            f"{row.layer:<{layer}}  {row.kind:<{kind}}  {row.output:<{output}}  "
            f"{row.parameters:>{parameters}}"
        )
    return lines
