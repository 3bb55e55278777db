"""Metrics that are objects with `update`, `compute` and `reset`: what they have counted."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from machinery import distributed
from machinery.errors import CheckpointError
from machinery.plain_data import plain
from machinery.telling import note_place

#: How torchmetrics' names begin of metrics of one class for each sample.
_OF_CLASSES = "multiclass"
#: What a metric may count with.
_COUNTS = (int, float, list, dict, set, torch.Tensor)
#: What torchmetrics calls a metric that gives the values of another names.
_NAMES_CLASSES = "ClasswiseWrapper"


class OfAllProcesses:
    """Base of metrics that compute, and save, what all processes have counted."""


def asks_others(metric: Any) -> bool:
    """Whether a metric computes by itself what all processes have counted, as torchmetrics' do."""
    if isinstance(metric, OfAllProcesses) or hasattr(metric, "sync_context"):
        return True
    return _is_collection(metric)


def _is_collection(metric: Any) -> bool:
    """Whether a metric is nothing but several of torchmetrics' under their names."""
    if not isinstance(metric, nn.ModuleDict) or not metric:
        return False
    return all(hasattr(each, "sync_context") for each in metric.children())


def of_all(metric: Any, fresh: Any) -> Any:
    """A metric that computes what those of all processes have counted.

    Args:
        fresh: the metric as it was made.
    """
    if distributed.alone() or isinstance(metric, OfAllProcesses):
        return metric
    if asks_others(metric):
        return _asking_ours(metric, fresh)
    first, *others = distributed.gathered(metric)
    for other in others:
        first.merge_state(other)
    return first


def kept_aside(metric: Any, fresh: Any) -> list[str]:
    """What torchmetrics' state_dict leaves out, because no add_state says that it is a state.

    Args:
        fresh: the metric as it was made.
    """
    if not asks_others(metric) or isinstance(metric, OfAllProcesses):
        return []
    now = _with_state(metric)
    before = _with_state(fresh)
    if len(now) != len(before):
        return ["metrics"]
    found = []
    for part, begins in zip(now, before, strict=True):
        found += _kept_aside_in(part, begins)
    return found


def _kept_aside_in(metric: Any, fresh: Any) -> list[str]:
    """What one of torchmetrics' counts without saying so, those that it wraps apart."""
    if type(metric).state_dict is not _base_of(metric).state_dict:  # of its own making
        return []
    before = vars(fresh)
    found = []
    for name, value in vars(metric).items():
        if name.startswith("_") or name in metric.metric_state or not isinstance(value, _COUNTS):
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
        if isinstance(first, torch.Tensor):
            return torch.equal(first, second)
        return bool(first == second)
    except (TypeError, ValueError, RuntimeError):
        return False


def _asking_ours(metric: Any, fresh: Any) -> Any:
    """A metric of torchmetrics' that asks the other processes in a way that they all can answer.

    Its own way breaks where a process has counted nothing, or less often than others: there are
    fewer tensors to send, or of another type, and what it begins with is not always a neutral
    number.
    """
    lengths = [list(map(len, _lists(part))) for part in _with_state(metric)]
    everywhere = distributed.gathered(lengths)
    if any(other != lengths for other in everywhere):
        metric = copy.deepcopy(metric)
    parts = zip(_with_state(metric), _with_state(fresh), *everywhere, strict=True)
    for part, begins, *their_lengths in parts:
        if part.dist_sync_fn is None or isinstance(part.dist_sync_fn, _FromThoseThatCounted):
            part.dist_sync_fn = _FromThoseThatCounted(_has_counted(part, begins))
        for values, *their_length in zip(_lists(part), *their_lengths, strict=True):
            values += [_nothing(part.device)] * (max(their_length) - len(values))
    return metric


def _lists(metric: Any) -> list[list[Any]]:
    """The states of a metric that are lists."""
    return [value for value in metric.metric_state.values() if isinstance(value, list)]


def _with_state(metric: Any) -> list[Any]:
    """A metric, and those that it wraps, as far as they have states that can be synchronized."""
    if not isinstance(metric, nn.Module):
        return []
    parts = []
    for part in metric.modules():
        if type(part).__name__ == _NAMES_CLASSES:  # whose states are those of what it wraps
            continue
        if hasattr(part, "metric_state") and hasattr(part, "dist_sync_fn"):
            parts.append(part)
    return parts


def _has_counted(metric: Any, fresh: Any) -> bool:
    """Whether a metric's state is another than a fresh one's."""
    begins = fresh.metric_state
    for name, value in metric.metric_state.items():
        if isinstance(value, list):
            if value:
                return True
        elif not torch.equal(value.cpu(), begins[name].cpu()):
            return True
    return False


def _nothing(device: torch.device) -> torch.Tensor:
    """What stands for a value that a process has not: joined to others, it changes nothing."""
    return torch.zeros(0, dtype=torch.bool, device=device)


class _FromThoseThatCounted:
    """Gives a value of a state, of each process that has counted something; of all if none has.

    Args:
        counted: whether this one has.
    """

    def __init__(self, counted: bool) -> None:
        self._counted = counted

    def __call__(self, value: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
        found = distributed.gathered((self._counted, value.detach().cpu()))
        there = []
        for has_counted, other in found:
            if has_counted and not _is_nothing(other):
                there.append(other.to(value.device))
        if there:
            return there
        return [other.to(value.device) for _, other in found]


def _is_nothing(value: torch.Tensor) -> bool:
    return value.dtype == torch.bool and value.shape == (0,)


def as_taken(metric: Any, output: Any, target: Any) -> Any:
    """The target as a metric takes it: of shares of classes the largest, for torchmetrics'.

    These would take shares for numbers of classes, and give some number.
    """
    if not isinstance(output, torch.Tensor) or not isinstance(target, torch.Tensor):
        return target
    are_shares = target.is_floating_point() and target.ndim > 1 and target.shape == output.shape
    if are_shares and takes_classes(metric):
        return target.argmax(dim=1)
    return target


def takes_classes(metric: Any) -> bool:
    """Whether a metric of torchmetrics' is of one class for each sample, by its name or task."""
    parts = [metric]
    if isinstance(metric, nn.Module):
        parts = list(metric.modules())
    for part in parts:
        if getattr(part, "keywords", {}).get("task") == "multiclass":
            return True
        kinds = (getattr(part, "func", part), *type(part).__mro__)  # of a functools.partial
        if any(_is_of_classes(kind) for kind in kinds):
            return True
    return False


def _is_of_classes(kind: Any) -> bool:
    """Whether a function or a class is one of torchmetrics' for classes."""
    name = getattr(kind, "__name__", "").lower()
    return name.startswith(_OF_CLASSES) and str(kind.__module__).startswith("torchmetrics.")


def reset(name: str, metric: Any) -> None:
    """Let a metric forget what it has counted."""
    try:
        metric.reset()
    except (Exception, SystemExit) as error:
        note_place(error, f"in the metric {name}")
        raise


def show(name: str, metric: Any, output: Any, target: Any) -> None:
    """Let a metric count a batch."""
    try:
        metric.update(output, as_taken(metric, output, target))
    except (Exception, SystemExit) as error:
        note_place(error, f"in the metric {name}")
        raise


def computed(name: str, metric: Any, fresh: Any) -> Any:
    """What a metric makes of all that the processes have counted."""
    try:
        return of_all(metric, fresh).compute()
    except (Exception, SystemExit) as error:
        note_place(error, f"in the metric {name}")
        raise


def counted(metric: Any) -> Any:
    """What a metric has counted, by a `state_dict` of its own class, as plain data.

    None where a checkpoint would lose some of it.
    """
    for part in (metric, *_with_state(metric)):
        if hasattr(part, "persistent"):  # or torchmetrics leaves it out
            part.persistent(True)
    method = getattr(type(metric), "state_dict", None)
    if method is None or (method is nn.Module.state_dict and not _is_collection(metric)):
        return None
    if isinstance(metric, nn.Module) and _holds_more(metric):
        return None
    try:
        return plain(metric.state_dict())
    except CheckpointError:
        return None


def _holds_more(metric: nn.Module) -> bool:
    """Whether a metric wraps others whose counts, or its own of them, are in no state.

    Of torchmetrics' only collections, and the names that it gives to classes, hold nothing else.
    """
    for module in metric.modules():
        wraps = any(True for _ in module.children())
        if wraps and not _is_collection(module) and type(module).__name__ != _NAMES_CLASSES:
            return True
    return False


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
        _merge(metric, other)


def _merge(metric: Any, other: Any) -> None:
    """Add to a metric what another has counted."""
    if not asks_others(metric):
        metric.merge_state(other)
        return
    for part, theirs in zip(_with_state(metric), _with_state(other), strict=True):
        if part is metric or part.metric_state:
            part.merge_state(theirs)
