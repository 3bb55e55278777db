"""Row 6: the GPT of `examples/char_lm`, larger: tokens a second, and the share of the GPU used."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch._dynamo.utils import counters

from examples.char_lm.model import GPT
from tools.benchmarks.loops import device, resident
from tools.gpu_checks.rows import Row
from tools.gpu_checks.sides import Tensors, network, ours, rate, sizes

#: Dense bf16 products a second, by what the name of a GPU contains: NVIDIA's data sheets.
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}


def token_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy over all places, of scores [n, places, codes]."""
    return torch.nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


class _Shape(NamedTuple):
    """Of the network, and of a batch."""

    context: int
    width: int
    layers: int
    heads: int
    size: int

    def network(self) -> GPT:
        """The network."""
        return GPT(self.context, self.width, self.layers, self.heads)


#: On a GPU, and on a CPU.
_ON_GPU, _ON_CPU = _Shape(256, 384, 6, 6, 64), _Shape(16, 24, 2, 2, 4)


def tokens(folder: Path) -> Iterator[Row]:
    """Tokens a second by each way to compile."""
    shape = _ON_CPU
    ways: list[Any] = [False]
    if device().type != "cpu":  # a compiler is slow on a CPU, and says nothing of a GPU
        shape = _ON_GPU
        ways += ["blocks", "reduce-overhead"]
    loader = _texts(shape)
    weights = sum(each.numel() for each in shape.network().parameters())
    plain = math.nan
    for way in ways:
        before = counters["stats"]["unique_graphs"]
        switches: dict[str, Any] = {"precision": "bf16", "compile": way, "metrics": ()}
        step = ours(folder, network(shape.network), loader, token_loss, **switches)
        found = rate(step, shape.size * shape.context)
        name = f"GPT of {weights / 1e6:.1f} M, bf16, compile {str(way).lower()}"
        if way is False:
            plain = found
            yield Row(name, found, "tokens/s")
        else:
            yield Row(name, found / plain, "times")
            graphs = counters["stats"]["unique_graphs"] - before
            yield Row("… graphs that were compiled", graphs, "", most=3)
        yield Row("… share of the GPU's products", used(found, weights), "")


def _texts(shape: _Shape) -> Any:
    """A loader of windows of noise."""
    generator = torch.Generator().manual_seed(0)
    size = (sizes().samples // 4, shape.context + 1)
    codes = torch.randint(128, size, generator=generator).to(device())
    return resident(Tensors(codes[:, :-1], codes[:, 1:]), shape.size)


def used(rate_of_tokens: float, weights: int) -> float:
    """The share of a GPU's products that training uses: six for each weight and token."""
    if device().type != "cuda":
        return math.nan
    name = torch.cuda.get_device_name()
    for part, peak in _PEAKS.items():
        if part in name:
            return 6 * weights * rate_of_tokens / peak
    return math.nan
