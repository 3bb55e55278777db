"""Parameter groups of an optimizer: which parameters, by patterns of their names, get what."""

import inspect
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from machinery.config.arguments import accepted, type_problem
from machinery.config.components import Modules, find
from machinery.config.factory import Factory, construct, matching
from machinery.config.fusing import Fusing
from machinery.config.schema import ParameterGroup
from machinery.config.values import nearest
from machinery.errors import ConfigError

if TYPE_CHECKING:
    import torch

    Named = list[tuple[str, torch.nn.Parameter]]


class Grouped(NamedTuple):
    """The parameters of a config's groups."""

    #: Groups of the optimizer itself; what none of the config's matches is the first.
    own: list[dict[str, Any]]
    #: Optimizers of other groups, which are made already.
    others: "list[torch.optim.Optimizer]"
    #: The arguments that groups of the optimizer itself have.
    given: set[str]


def grouped(
    config: Factory,
    groups: Sequence[ParameterGroup],
    named: "Named",
    optimizer: Any,
    modules: Modules,
    fusing: Fusing,
) -> Grouped:
    """The parameter groups of a config, those with an optimizer of their own apart.

    Args:
        config: the config.
        groups: of it; a parameter is in the first that matches its name.
        named: the parameters to train, with their names.
        optimizer: the class of the optimizer, whose arguments a group may have for itself.
        modules: where the names of other optimizers are looked up.
        fusing: says whether these are fused.

    Raises:
        ConfigError: a pattern matches nothing, or an optimizer has no such argument.
    """
    _check_takes_groups(config, optimizer)
    rest = dict(named)
    made = Grouped([], [], set())
    for index, group in enumerate(groups):
        where = f"{config.where('optimizer', 'groups', index)}: optimizer.groups.{index}"
        kind = optimizer
        if group.type is not None:
            kind = find(modules, group.type, config.source, ("optimizer", "groups", index))
        options = group.model_extra or {}
        _check_options(options, kind, where)
        taken = _taken(group, named, rest, where)
        if group.type is None:
            _try(config, kind, taken, options, where)
            made.own.append({**options, "params": taken})
            made.given.update(options)
        else:
            options = {**options, **fusing.argument(kind, options, taken)}
            made.others.append(_made(kind, taken, options, where))
        if config.starting:
            _tell(index, group, [name for name, _ in taken], kind)
    if rest:
        made.own.insert(0, {"params": list(rest.items())})
    _check_grouped(config, made, optimizer)
    return made


def _check_takes_groups(config: Factory, optimizer: Any) -> None:
    """Refuse groups for what makes them itself."""
    if not inspect.isclass(optimizer):
        where = f"{config.where('optimizer', 'groups')}: optimizer.groups"
        what = f"{optimizer.__name__} is a function, which makes its groups itself"
        raise ConfigError(f"{where}: {what}: leave them out")


def _check_grouped(config: Factory, made: Grouped, optimizer: Any) -> None:
    """Refuse an optimizer without parameters, and one that cannot be one of several."""
    if not made.own:
        where = f"{config.where('optimizer', 'type')}: optimizer.type"
        what = f"the groups leave {optimizer.__name__} no parameter"
        raise ConfigError(f"{where}: {what}: leave the type of one of them out")
    if made.others:
        _check_alone(optimizer, f"{config.where('optimizer')}: optimizer")


def _taken(
    group: ParameterGroup, named: "Named", rest: "dict[str, torch.nn.Parameter]", where: str
) -> "Named":
    """The parameters of a group, which are taken from the rest."""
    names = [name for name, _ in named]
    matched = _matched(group.params, names, where)
    if group.ndim is not None:
        sizes = {name: parameter.ndim for name, parameter in named}
        matched = [name for name in matched if sizes[name] == group.ndim]
        if not matched:
            raise ConfigError(f"{where}.ndim: no parameter that it matches has {group.ndim}")
    taken = [(name, rest.pop(name)) for name in matched if name in rest]
    if not taken:
        raise ConfigError(f"{where}: the groups before it have all that it matches")
    return taken


def _try(config: Factory, kind: Any, taken: "Named", options: dict[str, Any], where: str) -> None:
    """Let the optimizer refuse a group's values, which it looks at in its constructor alone."""
    known = accepted(kind).types
    arguments = dict(config["optimizer"].get("args", {}))
    for key, value in options.items():
        if key in known:
            arguments[key] = value
    construct(kind, (taken,), arguments, f"{where} ({kind.__name__})")


def _made(kind: Any, taken: "Named", options: dict[str, Any], where: str) -> Any:
    """The optimizer of a group."""
    _check_alone(kind, where)
    return construct(kind, (taken,), options, f"{where} ({kind.__name__})")


def _check_alone(kind: Any, where: str) -> None:
    """Refuse what cannot be one of several optimizers."""
    from machinery.config.several import keeps_its_state

    if not inspect.isclass(kind) or not keeps_its_state(kind):
        what = "has a state or a step of its own, and cannot be one of several optimizers"
        raise ConfigError(f"{where}: {kind.__name__} {what}")


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
        near = nearest(key, [*types, *ParameterGroup.model_fields])
        problem = None
        if key in types:
            problem = type_problem(optimizer.__name__, key, types[key], value)
        elif key == "args":
            problem = 'the arguments of a group stand beside its "params"'
        elif near is not None:
            problem = f"{optimizer.__name__} has no argument {key!r}: did you mean {near!r}?"
        elif is_torchs:
            problem = f"{optimizer.__name__} has no argument {key!r}"
        if problem is not None:
            raise ConfigError(f"{where}.{key}: {problem}")


def _warn_of_unknown(index: int, options: dict[str, Any], optimizer: type) -> None:
    """Say that an optimizer may not look at all that its group has."""
    for key in options.keys() - accepted(optimizer).types.keys():
        what = f"{key!r} is no argument of {optimizer.__name__}"
        logging.getLogger("config").warning(
            f"optimizer group {index}: {what}: it counts only if {optimizer.__name__} looks for it"
        )


def _tell(index: int, group: ParameterGroup, names: list[str], optimizer: type) -> None:
    """Tell what a group has got, and what may not be looked at."""
    options = group.model_extra or {}
    words = []
    if group.type is not None:
        words.append(group.type)
    words += [f"{key} {value}" for key, value in options.items()]
    shown = ", ".join(names[:3])
    if len(names) > 3:
        shown += ", …"
    what = f"optimizer group {index} ({', '.join(words)}): {len(names)} parameters: {shown}"
    logging.getLogger("config").info(what)
    _warn_of_unknown(index, options, optimizer)
