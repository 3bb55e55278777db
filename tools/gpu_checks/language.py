"""Row 6: the GPT of `examples/char_lm`, larger: tokens a second, and the share of the GPU used."""

import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.utils import counters

from examples.char_lm.model import GPT
from machinery.order import seeding
from tools.benchmarks.loops import device, resident
from tools.gpu_checks.rows import Row
from tools.gpu_checks.sides import Tensors, network, ours, rate, sizes

#: Dense bf16 products a second, by what the name of a GPU contains: NVIDIA's data sheets.
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
_CONTEXT = 256


def token_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Cross entropy over all places, of scores [n, places, codes]."""
    return torch.nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())


def tokens(folder: Path) -> Iterator[Row]:
    """Tokens a second by each way to compile."""
    on_gpu = device().type != "cpu"
    context = _CONTEXT if on_gpu else 16
    size = 64 if on_gpu else 4
    shape = {"context": context, "width": 384, "layers": 6, "heads": 6}
    if not on_gpu:
        shape = {"context": context, "width": 24, "layers": 2, "heads": 2}
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(128, (sizes().samples // 4, context + 1), generator=generator)
    codes = codes.to(device())
    loader = resident(Tensors(codes[:, :-1], codes[:, 1:]), size)
    weights = sum(each.numel() for each in GPT(**shape).parameters())
    plain = math.nan
    ways: list[Any] = [False]
    if on_gpu:  # a compiler is slow on a CPU, and says nothing of a GPU
        ways += ["blocks", "reduce-overhead"]
    for way in ways:
        seeding.seed_everything(0, "compile")
        before = counters["stats"]["unique_graphs"]
        model = network(partial(GPT, **shape))
        switches: dict[str, Any] = {"precision": "bf16", "compile": way, "metrics": ()}
        step = ours(folder, model, loader, token_loss, **switches)
        found = rate(step, size * context)
        name = f"GPT of {weights / 1e6:.1f} M, bf16, compile {str(way).lower()}"
        if way is False:
            plain = found
            yield Row(name, found, "tokens/s")
        else:
            yield Row(name, found / plain, "times")
            graphs = counters["stats"]["unique_graphs"] - before
            yield Row("… graphs that were compiled", graphs, "", most=3)
        yield Row("… share of the GPU's products", used(found, weights), "")


def used(rate_of_tokens: float, weights: int) -> float:
    """The share of a GPU's products that training uses: six for each weight and token."""
    if device().type != "cuda":
        return math.nan
    name = torch.cuda.get_device_name()
    for part, peak in _PEAKS.items():
        if part in name:
            return 6 * weights * rate_of_tokens / peak
    return math.nan
