"""What a run sets for its whole process; a later one that does not ask finds it as it was."""

import os
from typing import Any

import torch

#: What was there before a run has set it, by name, until it is put back.
_before: dict[str, Any] = {}


def use_threads(wanted: int | None) -> None:
    """Let torch compute with so many threads; None: with as many as no run has asked for."""
    if wanted is not None:
        _before.setdefault("threads", torch.get_num_threads())
        torch.set_num_threads(wanted)
    elif "threads" in _before:
        torch.set_num_threads(_before.pop("threads"))


def use_tf32(wanted: bool) -> None:
    """Let matrix products of float32 take TF32 where there is such hardware, or what they took."""
    if wanted:
        _before.setdefault("matmul", torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("high")
    elif "matmul" in _before:
        torch.set_float32_matmul_precision(_before.pop("matmul"))


def use_algorithms(deterministic: bool, benchmark: bool) -> None:
    """Let torch take algorithms that give the same bits, or let cuDNN try which are fastest.

    Both set `cudnn.benchmark`: what one run has set is put back before another sets it.
    """
    if deterministic:
        use_benchmark(False)
        use_deterministic(True)
    else:
        use_deterministic(False)
        use_benchmark(benchmark)


def use_benchmark(wanted: bool) -> None:
    """Let cuDNN try which algorithms are fastest, or not, as it was."""
    if wanted:
        _before.setdefault("tried", torch.backends.cudnn.benchmark)
        torch.backends.cudnn.benchmark = True
    elif "tried" in _before:
        torch.backends.cudnn.benchmark = _before.pop("tried")


def use_deterministic(wanted: bool) -> None:
    """Let torch take algorithms that give the same bits each time, or those that it took before."""
    if wanted:
        # cuBLAS reads it once, when it starts: so nobody puts it back.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        _before.setdefault("deterministic", torch.are_deterministic_algorithms_enabled())
        _before.setdefault("benchmark", torch.backends.cudnn.benchmark)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    elif "deterministic" in _before:
        torch.use_deterministic_algorithms(_before.pop("deterministic"))
        torch.backends.cudnn.benchmark = _before.pop("benchmark")
