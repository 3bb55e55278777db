"""All samples of a batch that several processes have shares of, for losses that compare them."""

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import torch

from machinery import distributed

#: What gloo does not send.
_SHORT = (torch.bfloat16, torch.float16)


#: Whether this process' share of the batch that is computed is a stand-in: no sample counts.
_stands_in = ContextVar("stands_in", default=False)


def note_share(samples: float) -> None:
    """Note how many samples of the batch that is computed are this process'."""
    _stands_in.set(samples == 0)


def whole_batch(rows: torch.Tensor) -> torch.Tensor:
    """What all processes have made of their shares of a batch, in the order of the samples.

    For a loss that compares the samples of a batch with each other: each process computes it over
    the whole batch, and the gradients are those of one process. An evaluation, where processes
    have different numbers of batches, and a process alone get their own rows back.

    Args:
        rows: of this process, one for each of its samples: float [n of the share, …].

    Returns:
        float [n, …].
    """
    if distributed.alone() or not torch.is_grad_enabled():
        return rows
    count = len(rows)
    if _stands_in.get():
        count = 0
    counts = distributed.gathered(count)
    gathered: torch.Tensor = _Gathered.apply(rows, counts)
    return gathered


class _Gathered(torch.autograd.Function):
    """Gathers rows; each gets the sum of the gradients that all processes have of it."""

    @staticmethod
    def forward(context: Any, rows: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
        """All rows: sample s of a batch is row s // W of process s % W."""
        most = max(counts)
        kept = torch.arange(most)[:, None] < torch.tensor(counts)
        context.kept = kept.flatten().to(rows.device)
        context.count = counts[distributed.rank()]
        context.rows = rows.shape
        padded = rows.new_zeros((most, *rows.shape[1:]), dtype=_sent(rows))
        padded[: context.count] = rows[: context.count]
        parts = [torch.empty_like(padded) for _ in counts]
        distributed.join().all_gather(parts, padded)
        found = torch.stack(parts, 1).flatten(0, 1)
        return found[context.kept].to(rows.dtype)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        """The gradient of this process' rows."""
        (gradient,) = gradients
        shape = (len(context.kept), *gradient.shape[1:])
        summed = gradient.new_zeros(shape, dtype=_sent(gradient))
        summed[context.kept] = gradient.to(summed.dtype)
        distributed.join().all_reduce(summed)
        mine = summed[distributed.rank() :: distributed.size()]
        result = gradient.new_zeros(context.rows)
        result[: context.count] = mine[: context.count].to(gradient.dtype)
        return result, None


def _sent(tensor: torch.Tensor) -> torch.dtype:
    """In which precision a tensor goes from process to process."""
    if tensor.dtype in _SHORT:
        return torch.float32
    return tensor.dtype
