"""Metrics that are objects with `update`, `compute` and `reset`: what they have counted."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from machinery import distributed
from machinery.errors import CheckpointError
from machinery.plain_data import plain

#: What a metric may count with.
_COUNTS = (int, float, list, dict, set, torch.Tensor)


class OfAllProcesses:
    """Base of metrics that compute, and save, what all processes have counted."""


def asks_others(metric: Any) -> bool:
    """Whether a metric computes by itself what all processes have counted, as torchmetrics' do."""
    return isinstance(metric, OfAllProcesses) or hasattr(metric, "sync_context")


def of_all(metric: Any) -> Any:
    """A metric with what those of all processes have counted."""
    if distributed.alone() or asks_others(metric):
        return metric
    first, *others = distributed.gathered(metric)
    for other in others:
        first.merge_state(other)
    return first


def kept_aside(metric: Any, fresh: Any) -> list[str]:
    """What torchmetrics' state_dict leaves out, because no add_state says that it is a state.

    Args:
        fresh: the metric as it was made.
    """
    if not hasattr(metric, "add_state"):
        return []
    if type(metric).state_dict is not _base_of(metric).state_dict:  # of its own making
        return []
    metric.persistent(True)
    states = metric.state_dict()
    before = vars(fresh)
    found = []
    for name, value in vars(metric).items():
        if name.startswith("_") or name in states or not isinstance(value, _COUNTS):
            continue
        if name not in before or not _alike(before[name], value):
            found.append(name)
    return found


def _base_of(metric: Any) -> Any:
    """The class of torchmetrics that has `add_state`."""
    for kind in type(metric).__mro__:
        if "add_state" in vars(kind):
            return kind
    return type(metric)


def _alike(first: Any, second: Any) -> bool:
    """Whether two values are the same; what cannot be compared is not."""
    try:
        return (
            bool(torch.equal(first, second)) if isinstance(first, torch.Tensor) else first == second
        )
    except (TypeError, ValueError, RuntimeError):
        return False


def counted(metric: Any) -> Any:
    """What a metric has counted, by a `state_dict` of its own class, as plain data.

    None where a checkpoint would lose some of it.
    """
    if hasattr(metric, "persistent"):  # or torchmetrics leaves it out
        metric.persistent(True)
    method = getattr(type(metric), "state_dict", None)
    if method is None or method is nn.Module.state_dict:
        return None
    if isinstance(metric, nn.Module) and any(True for _ in metric.children()):
        return None  # it wraps others, whose counts are in no state
    try:
        return plain(metric.state_dict())
    except CheckpointError:
        return None


def restore(metric: Any, fresh: Any, states: Sequence[Any]) -> None:
    """Let a metric go on from what one process has counted, or several together.

    Args:
        fresh: the metric as it was made.
        states: of the processes.
    """
    if isinstance(metric, OfAllProcesses):
        states = states[:1]  # which holds those of all
    for number, state in enumerate(states):
        state = copy.deepcopy(state)
        if number == 0:
            metric.load_state_dict(state)
            continue
        other = copy.deepcopy(fresh)
        other.load_state_dict(state)
        metric.merge_state(other)
