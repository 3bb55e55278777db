"""Whether a loss can be trained on, fits the model, and is the mean over samples."""

import copy
import logging
import math
from typing import Any, NamedTuple

import torch
from torch import nn

from machinery.errors import ConfigError
from machinery.telling import described

#: How many samples the judgement takes at most.
_SAMPLES = 64
#: What changes nothing but the shape or the precision of a tensor, as autograd names it.
_OF_SHAPE = ("View", "UnsafeView", "Squeeze", "Unsqueeze", "Reshape", "Select", "Slice", "ToCopy")
#: So many of these are looked through.
_RESHAPES = 5


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


def warn_of_loss(criterion: Any, output: Any, target: Any, of_samples: bool = True) -> None:
    """Warn of a loss that does not fit what it is given, as far as that can be told.

    It takes something else than the model gives, or is not the mean over the samples of a batch.
    One that compares the samples of a batch with each other has an attribute `in_batch`, which is
    true, and is not judged for that.

    Args:
        of_samples: it is taken for the mean over samples.
    """
    logger = logging.getLogger("trainer")
    try:
        misfit = _misfit(criterion, output, target)
    except Exception:  # not every loss takes what others take
        misfit = ""
    if misfit:
        logger.warning(misfit)
    if _compares_samples(criterion) or not of_samples:
        return
    judged = _judge(criterion, output, target)
    if judged is None:
        return
    shapes = f"output {described(output)}, target {described(target)}"
    if judged.whole != judged.again or _is_mean(judged):  # a random one cannot be judged
        return
    what = (
        f"the loss of {judged.samples} samples is {judged.whole:.8g}, "
        f"but {judged.of_pairs:.8g} as the mean over pairs of them ({shapes})"
    )
    hint = (
        "A sum? Shapes that are broadcast? If it is the mean over something else (tokens, weights),"
        " let the trainer's loss_size_of(batch) say over how much, or give the loss "
        "its class weights as an attribute weight; "
        "if it compares samples with each other, give the loss an attribute in_batch = True"
    )
    logger.warning(f"{what}: averages depend on the batch size. {hint}")


@torch.no_grad()
def _misfit(criterion: Any, output: torch.Tensor, target: torch.Tensor) -> str:
    """What a classification loss is given in place of what it takes; "" if nobody can tell.

    What it takes is told by what it does: the negative log-likelihood falls by 1 if all scores rise
    by 1, cross entropy does not change, and at scores of 0 it is the logarithm of
    the number of classes.
    """
    copied = copy.deepcopy(criterion)  # which may count its calls
    values = output.detach()
    if _takes_logits(copied, values, target) and _ends_in_sigmoid(output):
        return "the loss takes logits, but the model ends in a sigmoid: leave the sigmoid out"
    if values.ndim < 2 or values.shape == target.shape:
        return ""
    at_zero = float(copied(torch.zeros_like(values), target))
    rise = float(copied(values + 1, target)) - float(copied(values, target))
    total = values.exp().sum(1)
    if _near(rise, -1.0) and not _are_ones(total):
        what = f"exp of a row sums to {float(total.flatten()[0]):.4g}, not to 1"
        hint = "let the model end in log_softmax, or take cross_entropy as the loss"
        return f"the loss takes log-probabilities, but the model gives none ({what}): {hint}"
    if _near(rise, 0.0) and _near(at_zero, math.log(values.shape[1])):
        if bool((values >= 0).all()) and _are_ones(values.sum(1)):
            what = "the rows are probabilities that sum to 1"
            return f"the loss takes scores, but {what}: leave the model's softmax out"
    return ""


def _takes_logits(criterion: Any, values: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether a loss is binary cross entropy of logits: by its values at 0, 1 and -1."""
    ones = torch.ones_like(values)
    if not _near(float(criterion(0 * ones, target)), math.log(2)):
        return False
    both = float(criterion(ones, target)) + float(criterion(-ones, target))
    return _near(both, 2 * math.log(1 + math.e) - 1)


def _are_ones(values: torch.Tensor) -> bool:
    return bool(torch.isclose(values, torch.ones_like(values), rtol=2e-2).all())


def _near(value: float, other: float) -> bool:
    return math.isclose(value, other, rel_tol=1e-2, abs_tol=1e-2)


def _ends_in_sigmoid(output: torch.Tensor) -> bool:
    """Whether a sigmoid has made an output, but for another shape or precision."""
    node = output.grad_fn
    for _ in range(_RESHAPES):
        if node is None or node.name().startswith("SigmoidBackward"):
            break
        if not node.name().startswith(_OF_SHAPE) or not node.next_functions:
            return False
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("SigmoidBackward")


def _compares_samples(criterion: Any) -> bool:
    """Whether the loss says so itself."""
    if hasattr(criterion, "func"):  # of a functools.partial
        criterion = criterion.func
    return hasattr(criterion, "in_batch") and bool(criterion.in_batch)


def _judge(criterion: Any, output: Any, target: Any) -> _Judged | None:
    """Compute the loss of some samples at once and of pairs of them; None where it cannot be.

    In float64 and of outputs that are moved, as far as the loss takes that: where all outputs are
    alike, as at the start, so are the losses of all samples, whatever they are weighted by.
    """
    for dtype in (torch.float64, torch.float32):
        for scale in (1.0, 0.0):
            try:
                moved = _moved(output.detach().to(dtype), scale)
                judged = _judge_in(dtype, criterion, moved, target)
            except Exception:  # not every loss takes a slice of a batch, or these numbers
                continue
            if math.isfinite(judged.whole) and math.isfinite(judged.of_pairs):
                return judged
    return None


def _moved(output: torch.Tensor, scale: float) -> torch.Tensor:
    """Outputs that differ from each other; what is in [0, 1], as probabilities are, stays there."""
    wave = torch.arange(output.numel(), dtype=output.dtype, device=output.device).sin()
    wave = scale * wave.reshape(output.shape)
    if bool(((output >= 0) & (output <= 1)).all()):
        return output * (1 - wave.abs() / 2)
    return output + wave


@torch.no_grad()
def _judge_in(dtype: torch.dtype, criterion: Any, output: torch.Tensor, target: Any) -> _Judged:
    """Compute the loss in a precision."""
    criterion = copy.deepcopy(criterion)  # which may count its calls
    if isinstance(criterion, nn.Module):
        criterion = criterion.to(dtype)
    if target.is_floating_point():
        target = target.detach().to(dtype)
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


def _is_mean(judged: _Judged) -> bool:
    return math.isclose(
        judged.whole,
        judged.of_pairs,
        rel_tol=judged.tolerance,
        abs_tol=judged.tolerance**1.5,
    )
