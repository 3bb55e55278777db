"""Parameter groups of an optimizer: which parameters, by patterns of their names, get what."""

import inspect
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from machinery.config.arguments import accepted, type_problem
from machinery.config.factory import Factory, matching
from machinery.config.schema import ParameterGroup
from machinery.config.values import nearest
from machinery.errors import ConfigError

if TYPE_CHECKING:
    import torch

    Named = list[tuple[str, torch.nn.Parameter]]


def grouped(
    config: Factory, groups: Sequence[ParameterGroup], named: "Named", optimizer: Any
) -> list[dict[str, Any]]:
    """The parameter groups of a config: first what none of its groups matches, then each of them.

    Args:
        config: the config.
        groups: of it; a parameter is in the first that matches its name.
        named: the parameters to train, with their names.
        optimizer: the class of the optimizer, whose arguments a group may have for itself.

    Raises:
        ConfigError: a pattern matches nothing, or the optimizer has no such argument.
    """
    if not inspect.isclass(optimizer):
        where = f"{config.where('optimizer', 'groups')}: optimizer.groups"
        what = f"{optimizer.__name__} is a function, which makes its groups itself"
        raise ConfigError(f"{where}: {what}: leave them out")
    rest = dict(named)
    made = []
    for index, group in enumerate(groups):
        where = f"{config.where('optimizer', 'groups', index)}: optimizer.groups.{index}"
        options = group.model_extra or {}
        _check_options(options, optimizer, where)
        names = _matched(group.params, [name for name, _ in named], where)
        taken = [(name, rest.pop(name)) for name in names if name in rest]
        if not taken:
            raise ConfigError(f"{where}: the groups before it have all that it matches")
        made.append({**options, "params": taken})
        _tell(config, index, options, [name for name, _ in taken])
    if rest:
        made.insert(0, {"params": list(rest.items())})
    return made


def _matched(patterns: Sequence[str], names: list[str], where: str) -> list[str]:
    """The names that one of some patterns matches, in their order."""
    found: set[str] = set()
    for pattern in patterns:
        found.update(matching(pattern, names, where))
    return [name for name in names if name in found]


def _check_options(options: dict[str, Any], optimizer: type, where: str) -> None:
    """Refuse what the optimizer does not take.

    Torch's own take for a group what their constructors take; others may know more.
    """
    types = accepted(optimizer).types
    is_torchs = optimizer.__module__.startswith("torch.")
    for key, value in options.items():
        near = nearest(key, [*types, "params"])
        problem = None
        if key in types:
            problem = type_problem(optimizer.__name__, key, types[key], value)
        elif near is not None:
            problem = f"{optimizer.__name__} has no argument {key!r}: did you mean {near!r}?"
        elif is_torchs:
            problem = f"{optimizer.__name__} has no argument {key!r}"
        if problem is not None:
            raise ConfigError(f"{where}.{key}: {problem}")


def _tell(config: Factory, index: int, options: dict[str, Any], names: list[str]) -> None:
    """Tell what a group has got, where a run begins."""
    if not config.starting:
        return
    given = ", ".join(f"{key} {value}" for key, value in options.items())
    shown = ", ".join(names[:3])
    if len(names) > 3:
        shown += ", …"
    what = f"optimizer group {index} ({given}): {len(names)} parameters: {shown}"
    logging.getLogger("config").info(what)
