"""Metrics that are objects with `update`, `compute` and `reset`: what they have counted."""

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from machinery import distributed
from machinery.errors import CheckpointError
from machinery.plain_data import plain
from machinery.telling import note_place


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


def computed(name: str, metric: Any) -> Any:
    """What a metric makes of all that the processes have counted."""
    try:
        return of_all(metric).compute()
    except Exception as error:
        note_place(error, f"in the metric {name}")
        raise


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
