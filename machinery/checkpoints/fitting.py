"""Whether saved states fit what a trainer holds: each difference as a line for an error message."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from machinery.errors import ConfigError

NEW_RUN = "start a new run with -c and -r"


def mismatches(now: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """Names that are missing, unexpected or of another shape, as lines; at most 10 of each."""
    missing = [name for name in now if name not in saved]
    unexpected = [name for name in saved if name not in now]
    shapes = []
    for name, value in now.items():
        if name in saved and isinstance(value, torch.Tensor) and not _alike(saved[name], value):
            shapes.append(f"{name} {_shape(saved[name])} -> {_shape(value)}")
    lines = []
    if missing:
        lines.append(f"missing: {_ten(missing)}")
    if unexpected:
        lines.append(f"unexpected: {_ten(unexpected)}")
    if shapes:
        lines.append(f"wrong shape: {_ten(shapes)}")
    return lines


def _ten(names: list[str]) -> str:
    """The first ten names."""
    if len(names) > 10:
        return ", ".join(names[:10]) + ", …"
    return ", ".join(names)


def _shape(value: Any) -> list[int]:
    """The shape of a tensor; that of anything else is empty."""
    if isinstance(value, torch.Tensor):
        return list(value.shape)
    return []


def _alike(saved: Any, now: torch.Tensor) -> bool:
    """Whether a saved value can take the place of a tensor."""
    if not isinstance(saved, torch.Tensor):
        return False
    if saved.shape != now.shape or saved.layout != now.layout:
        return False
    return saved.is_complex() == now.is_complex()


def differing_weights(now: Mapping[str, Any], saved: Mapping[str, Any]) -> list[str]:
    """The names of weights that only one side has, or that have other shapes."""
    found = []
    for name in {**now, **saved}:
        if name not in now or name not in saved:
            found.append(name)
        elif getattr(now[name], "shape", None) != getattr(saved[name], "shape", None):
            found.append(name)
    return found


def weights_problems(
    network: nn.Module, saved: Mapping[str, Any], ordered: bool = True
) -> list[str]:
    """How saved weights differ from a network's.

    Args:
        ordered: they have to be in the same order, or an optimizer's state would go to others.
    """
    now = network.state_dict()
    problems = mismatches(now, saved)
    if problems or not ordered:
        return problems
    moved = [name for name, other in zip(now, saved, strict=True) if name != other]
    if moved:
        return [f"in another order: {', '.join(moved[:10])}"]
    return []


def part_problems(
    name: str, part: Any, saved_class: str | None, saved: Mapping[str, Any]
) -> list[str]:
    """How the saved state of one part differs from what the part can take.

    Raises:
        ConfigError: a schedule was made for another length.
    """
    kind = type(part).__name__
    if saved_class != kind:
        return [f"{name}: {saved_class} -> {kind}"]
    if isinstance(part, nn.Module):
        return [f"{name}: {line}" for line in weights_problems(part, saved)]
    if isinstance(part, torch.optim.Optimizer):
        return _group_problems(name, part.param_groups, saved["param_groups"])
    if hasattr(part, "total_steps") and part.total_steps != saved.get("total_steps"):
        raise ConfigError(
            f"{name}: a {kind} made for {saved.get('total_steps')} steps cannot become one of "
            f"{part.total_steps} under way: keep the epochs, or {NEW_RUN}"
        )
    return []


Groups = list[dict[str, Any]]


def _group_problems(name: str, now: Groups, saved: Groups) -> list[str]:
    """How the groups of an optimizer differ: by the names of their parameters, or how many."""
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
