"""Whether a loss is one that can be trained on, and the mean over the samples of its batch."""

import copy
import logging
import math
from typing import Any, NamedTuple

import torch
from torch import nn

from machinery.errors import ConfigError
from machinery.telling import described

#: How many samples the judgement takes at most.
_SAMPLES = 16


class _Judged(NamedTuple):
    """A loss of some samples."""

    samples: int
    #: Of all of them at once, computed twice.
    whole: float
    again: float
    #: The mean over pairs of them.
    of_pairs: float
    #: How far the two may be apart, relative to their size.
    tolerance: float


def no_mean_loss(loss: Any) -> ConfigError:
    """The error that says what stands in the place of a loss, the mean over a batch."""
    found = f"a {type(loss).__name__}"
    if isinstance(loss, torch.Tensor):
        found = described(loss)
        if not loss.requires_grad:
            found += " without a gradient"
    expected = "expected a tensor with a gradient and one value, the mean"
    return ConfigError(f"the loss is {found}: {expected}")


def warn_of_loss(criterion: Any, output: Any, target: Any) -> None:
    """Warn of a loss that is not the mean over the samples of a batch, as far as that can be told.

    A loss that compares the samples of a batch with each other has an attribute `in_batch`, which
    is true, and is not judged.
    """
    if _compares_samples(criterion):
        return
    try:
        judged = _judge(criterion, output, target)
        shapes = f"output {described(output)}, target {described(target)}"
    except Exception:  # not every loss takes a slice of a batch, or float64
        return
    if judged.whole != judged.again or _is_mean(judged):  # a random one cannot be judged
        return
    what = (
        f"the loss of {judged.samples} samples is {judged.whole:.8g}, "
        f"but {judged.of_pairs:.8g} as the mean over pairs of them ({shapes})"
    )
    hint = (
        "A sum? Shapes that are broadcast? "
        "If it is meant, give the loss an attribute in_batch = True"
    )
    logging.getLogger("trainer").warning(f"{what}: averages depend on the batch size. {hint}")


def _compares_samples(criterion: Any) -> bool:
    """Whether the loss says so itself."""
    if hasattr(criterion, "func"):  # of a functools.partial
        criterion = criterion.func
    return hasattr(criterion, "in_batch") and bool(criterion.in_batch)


@torch.no_grad()
def _judge(criterion: Any, output: Any, target: Any) -> _Judged:
    """Compute the loss in float64, of some samples at once and of pairs of them."""
    criterion = copy.deepcopy(criterion)  # which may count its calls
    if isinstance(criterion, nn.Module):
        criterion = criterion.double()
    output = _exact(output)
    target = _exact(target)
    if output.shape != target.shape and output.numel() == target.numel():
        # The target's numbers in it: even where all outputs are the same, a broadcast is seen.
        output = output + target.reshape(output.shape)
    samples = min(len(output) - len(output) % 2, _SAMPLES)
    whole = criterion(output[:samples], target[:samples])
    again = criterion(output[:samples], target[:samples])
    pairs = []
    for first in range(0, samples, 2):
        pair = criterion(output[first : first + 2], target[first : first + 2])
        pairs.append(float(pair))
    tolerance = 1e-4
    if whole.dtype == torch.float64:
        tolerance = 1e-9
    return _Judged(samples, float(whole), float(again), sum(pairs) / len(pairs), tolerance)


def _exact(values: torch.Tensor) -> torch.Tensor:
    if values.is_floating_point():
        return values.detach().double()
    return values


def _is_mean(judged: _Judged) -> bool:
    return math.isclose(
        judged.whole,
        judged.of_pairs,
        rel_tol=judged.tolerance,
        abs_tol=judged.tolerance**1.5,
    )
