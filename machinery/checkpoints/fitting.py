"""Whether saved states fit what a trainer holds: each difference as a line for an error message."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from machinery.checkpoints.parts import class_of
from machinery.checkpoints.structure import items_of
from machinery.checkpoints.weights import weights_of, weights_problems
from machinery.errors import ConfigError

NEW_RUN = "start a new run with -c and -r"
#: Where the averages keep the states of metrics that are objects of the user's.
_OF_METRICS = ("objects", "parts")


def part_problems(name: str, part: Any, saved_class: str | None, saved: Any) -> list[str]:
    """How the saved state of one part differs from what the part can take.

    Raises:
        ConfigError: a schedule was made for another length.
    """
    kind = class_of(part)
    if saved_class != kind:
        return [f"{name}: {saved_class} -> {kind}"]
    if isinstance(part, nn.Module):
        lines = weights_problems(weights_of(part), saved)
        if kind == "AveragedModel" and not lines:
            lines = _not_finite(part, saved)
        return [f"{name}: {line}" for line in lines]
    nonsense = _nonsense(part, saved)
    is_ours = type(part).__module__.startswith("machinery.")
    if not nonsense and is_ours and hasattr(part, "nonsense"):
        nonsense = part.nonsense(saved)
    if nonsense:
        return [f"{name}: {nonsense}"]
    if isinstance(part, torch.optim.Optimizer):
        return group_problems(name, part.param_groups, saved.get("param_groups"))
    if hasattr(part, "total_steps") and part.total_steps != saved.get("total_steps"):
        raise ConfigError(
            f"{name}: a schedule made for {saved.get('total_steps')} steps cannot become one of "
            f"{part.total_steps} under way: keep the epochs, or {NEW_RUN}"
        )
    return []


def _not_finite(average: nn.Module, saved: Mapping[str, Any]) -> list[str]:
    """A line for each weight of a saved average that is not finite; none is ever saved."""
    lines = []
    for name, own in average.named_parameters():
        if own.requires_grad and name in saved and not torch.isfinite(saved[name]).all():
            lines.append(f"{name} is not finite")
    return lines[:10]


def _nonsense(part: Any, saved: Any) -> str:
    """What in a saved state has no type that a part knows; empty if there is none.

    An object of the user's has types of its own.
    """
    fresh = part.state_dict()
    if isinstance(part, torch.optim.Optimizer):
        known = [key for key in ("state", "param_groups") if key in fresh]
        missing = [key for key in known if key not in saved]
        if missing:
            return f"its state has no {', '.join(missing)}"
        return _unlike(fresh, saved, "")
    if isinstance(part, LRScheduler) or type(part).__module__.startswith("machinery."):
        typed = {key: value for key, value in fresh.items() if key not in _OF_METRICS}
        return _unlike(typed, saved, "")
    return ""


def _unlike(fresh: Any, saved: Any, path: str) -> str:
    """The first value in a saved state of another type than in a fresh one; empty if none is."""
    if fresh is None or saved is None:
        return ""
    if _type(fresh) is not _type(saved):
        where = path.removeprefix(".") or "its state"
        return f"{where} is a {type(saved).__name__}, not a {type(fresh).__name__}"
    for key, item in items_of(fresh):
        there = dict(items_of(saved))
        if key in there:
            found = _unlike(item, there[key], f"{path}.{key}")
            if found:
                return found
    return ""


def _type(value: Any) -> type:
    """What a value is, where numbers are alike, and lists."""
    if isinstance(value, torch.Tensor | int | float):
        return float
    if isinstance(value, list | tuple):
        return list
    if isinstance(value, Mapping):
        return dict
    return type(value)


Groups = list[dict[str, Any]]


def group_problems(name: str, now: Groups, saved: Groups | None) -> list[str]:
    """How the groups of an optimizer differ: by the names of their parameters, or how many."""
    if saved is None:  # it has a state of its own shape
        return []
    by_name = _are_named(now) and _are_named(saved)
    before = _described_groups(saved, by_name)
    after = _described_groups(now, by_name)
    if before == after:
        return []
    return [f"{name}: parameters in its groups {before} -> {after}"]


def _are_named(groups: Groups) -> bool:
    return all("param_names" in group for group in groups)


def _described_groups(groups: Groups, by_name: bool) -> list[Any]:
    """For each group the names of its parameters, or how many there are."""
    if by_name:
        return [group["param_names"] for group in groups]
    return [len(group["params"]) for group in groups]
