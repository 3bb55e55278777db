"""What a loss is the mean over: samples, or their weights, or those whose target is not ignored."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from machinery.errors import ConfigError
from machinery.order.outstanding import times_written

Sizing = Callable[[Any], float]
#: The class that torch's losses ignore, if nobody says another.
_IGNORED = -100
#: Classes of a trial without class weights, and its samples.
_CLASSES = 3
_SAMPLES = 8


class Divisor:
    """What the mean loss of a batch (data, target) is divided by.

    Cross entropy is the mean over the targets that are not ignored, each with the weight of its
    class (torch.nn.CrossEntropyLoss).

    Args:
        weight: of each class, [classes]; None: all alike.
        ignored: the class that counts nothing.
        otherwise: says it of a batch without a class for each sample.
    """

    def __init__(self, weight: torch.Tensor | None, ignored: int, otherwise: Sizing) -> None:
        self._given = weight
        self._read_weight()
        self._ignored = ignored
        self._otherwise = otherwise

    def _read_weight(self) -> None:
        self._written = 0
        self._weight = None
        if self._given is not None:
            self._written = times_written(self._given)
            self._weight = self._given.detach().cpu().double().numpy()

    def __call__(self, batch: Any) -> float:
        if self._given is not None and self._written != times_written(self._given):
            self._read_weight()
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            return self._otherwise(batch)
        target = batch[1]
        if not isinstance(target, torch.Tensor) or target.dtype != torch.int64:
            return self._otherwise(batch)
        if target.device.type != "cpu":
            if self._weight is None and self._ignored == _IGNORED:
                # Where batches are made on the device, nobody waits to see what may be ignored.
                return self._otherwise(batch)
            target = target.cpu()
        return self.of(target.numpy())

    def of(self, target: np.ndarray[Any, np.dtype[np.int64]]) -> float:
        """What the mean over targets of any shape is divided by."""
        counts = target != self._ignored
        if self._weight is None:
            return int(np.count_nonzero(counts))
        classes = target[counts]
        if classes.size and int(classes.max()) >= len(self._weight):
            what = f"the loss has weights of {len(self._weight)} classes"
            raise ConfigError(f"loss: {what}, and a target is class {int(classes.max())}")
        return float(self._weight[classes].sum())


class LossSize:
    """What a loss is the mean over, as it is now: a trainer may exchange it, or weigh it anew.

    Args:
        find: gives the loss; None: nobody knows it.
        samples_of: says how many samples a batch has.
    """

    def __init__(self, find: Callable[[], Any], samples_of: Sizing) -> None:
        self._find = find
        self._samples_of = samples_of
        # What it was found out for.
        self._criterion: Any = self
        self._weight: Any = None
        self._found = samples_of

    def now(self) -> Sizing:
        """What says it of a batch."""
        criterion = self._find()
        weight = getattr(criterion, "weight", None)
        if criterion is not self._criterion or weight is not self._weight:
            self._criterion = criterion
            self._weight = weight
            self._found = divisor_of(criterion, self._samples_of)
        return self._found


def divisor_of(criterion: Any, samples_of: Sizing) -> Sizing:
    """What a loss is the mean over, by a trial of it; the number of samples if nobody knows.

    Args:
        criterion: the loss, with attributes `weight` and `ignore_index` as torch's have, or a
            functools.partial with arguments of these names; None: nobody knows it.
        samples_of: says how many samples a batch has.
    """
    if criterion is None:
        return samples_of
    weight = _option(criterion, "weight")
    ignored = _option(criterion, "ignore_index")
    if not isinstance(ignored, int):
        ignored = _IGNORED
    if weight is not None and not (isinstance(weight, torch.Tensor) and weight.ndim == 1):
        return samples_of
    divisor = Divisor(weight, ignored, samples_of)
    targets = _trial_targets(weight)
    some_ignored = targets.clone()
    some_ignored[1::3] = ignored
    if _is_mean_by(divisor, criterion, some_ignored):
        return divisor
    if weight is not None and _is_mean_by(divisor, criterion, targets):
        return divisor
    return samples_of


def _option(criterion: Any, name: str) -> Any:
    """An option of a loss, of a class or a function."""
    if hasattr(criterion, "keywords"):
        return criterion.keywords.get(name)
    return getattr(criterion, name, None)


def _trial_targets(weight: torch.Tensor | None) -> torch.Tensor:
    """Classes of some samples, int64 [n]."""
    classes = _CLASSES
    if weight is not None:
        classes = len(weight)
    return torch.arange(_SAMPLES) % classes


@torch.no_grad()
def _is_mean_by(divisor: Divisor, criterion: Any, targets: torch.Tensor) -> bool:
    """Whether the loss of some samples is that of two parts of them, weighted by the divisor."""
    classes = _CLASSES
    dtype = torch.float32
    weight = _option(criterion, "weight")
    if weight is not None:
        classes = len(weight)
        dtype = weight.dtype
    numbers = torch.arange(_SAMPLES * classes, dtype=dtype)
    scores = numbers.reshape(_SAMPLES, classes).sin().log_softmax(1)
    half = _SAMPLES // 2
    total = 0.0
    try:
        criterion = copy.deepcopy(criterion)  # which may count its calls
        if isinstance(criterion, nn.Module):
            criterion = criterion.cpu()
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            whole = float(criterion(scores, targets))
            for part in (slice(half), slice(half, None)):
                total += float(criterion(scores[part], targets[part])) * divisor.of(
                    targets[part].numpy()
                )
    except Exception:  # no loss of classes, or one that cannot be copied
        return False
    return bool(np.isclose(whole * divisor.of(targets.numpy()), total, rtol=1e-4))
