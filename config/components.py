"""Finds the class or function that a component names, and binds its arguments before anything is built."""

import collections.abc
import inspect
import json
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from config.names import nearest
from config.source import KeyPath, Source, dotted, kind
from utils.errors import ConfigError

#: What each section of the config must be, as its kind in words and the base class as "module:name".
KINDS = {
    "arch": ("model", "torch.nn:Module"),
    "data_loader": ("data loader", "torch.utils.data:DataLoader"),
    "valid_data_loader": ("data loader", "torch.utils.data:DataLoader"),
    "test_data_loader": ("data loader", "torch.utils.data:DataLoader"),
    "optimizer": ("optimizer", "torch.optim:Optimizer"),
    "lr_scheduler": ("scheduler", "torch.optim.lr_scheduler:LRScheduler"),
}
#: How many arguments the program gives a component first: the parameters, the optimizer.
GIVEN = {"optimizer": 1, "lr_scheduler": 1}
#: Sections whose functions are called with more arguments than the config gives.
CALLED_LATER = ("loss", "metrics")
#: The keys of components themselves.
KEYS = ("type", "args", "name", "freeze", "skip", "param_groups", "interval")
#: Schedulers made of schedulers.
NESTED = ("SequentialLR", "ChainedScheduler")

Modules = tuple[ModuleType, ...]


class Given(NamedTuple):
    """What the program gives a component: so many arguments by position, and these by name."""

    positional: int = 0
    names: tuple[str, ...] = ()
    #: More come with the call, as for a loss or a metric.
    later: bool = False


class Binder:
    """Looks components up and binds their arguments to signatures, each of them once.

    Args:
        source: the config, which knows the places of its values.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._bound: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "_bound": {}}  # modules cannot be copied

    def bind(
        self, component: Mapping[str, Any], path: KeyPath, modules: Modules, given: Given
    ) -> tuple[Any, list[str]]:
        """The class or function that a component names, and a line for each problem of it and of those inside it."""
        key = (path, modules, given, json.dumps(component, default=str))
        if key in self._bound:
            return self._bound[key], []
        # A component of the user's own (optimizer_D) is of the kind that its name says.
        section = next((name for name in KINDS if str(path[0]).startswith(name)), str(path[0]))
        try:
            target = find(modules, section, component["type"], self.source, path)
            inside = nested(component, path)
        except ConfigError as error:
            return None, [str(error)]
        found = []
        for name in [name for name in component if name not in KEYS and name in accepted(target)[0]]:
            meant = dotted((*path, "args", name))
            found.append(f"{self._where((*path, name))} is unknown: did you mean {meant}?")
        for name, inner in inside.items():
            for i, item in enumerate(inner):
                found += self.bind(item, (*path, "args", name, i), modules, given)[1]
        args = {name: value for name, value in component.get("args", {}).items() if name not in inside}
        outer = given._replace(names=(*given.names, *inside))
        found += self._arguments(target, args, (*path, "args"), outer)
        for i, group in enumerate(component.get("param_groups", []) if section == "optimizer" else []):
            options = {name: value for name, value in group.items() if name != "match"}
            found += self._arguments(target, options, (*path, "param_groups", i), given._replace(later=True))
        if not found:
            self._bound[key] = target
        return target, found

    def _where(self, path: KeyPath) -> str:
        return f"{self.source.where(path)}: {dotted(path)}"

    def _arguments(self, target: Any, args: Mapping[str, Any], path: KeyPath, given: Given) -> list[str]:
        """A line for each argument that is unknown, doubled, missing or of the wrong type."""
        try:
            parameters = list(inspect.signature(target).parameters.values())
        except (TypeError, ValueError):  # a builtin without a signature says no itself
            return []
        name = getattr(target, "__name__", str(target))
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        by_program = {p.name for p in positional[: given.positional]} | set(given.names)
        needed = [
            p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        names, open_ended = accepted(target)
        annotations = _annotations(target)
        problems = []
        for key, value in args.items():
            where = self._where((*path, key))
            if key in by_program:
                problems.append(f"{where}: the program gives {name} its {key}: leave it out")
            elif key not in names:
                near = nearest(key, names)
                if near or not open_ended:
                    hint = f": did you mean {near!r}?" if near else ""
                    hidden = by_program | set(needed if given.later else ())
                    takes = ", ".join(n for n in names if n not in hidden) or "no arguments"
                    problems.append(f"{where}: {name} has no argument {key!r}{hint} (it takes {takes})")
            elif key in annotations:
                problems += [f"{where}: {problem}" for problem in _type_problem(name, key, annotations[key], value)]
        for key in [] if given.later else needed:
            if key not in args and key not in by_program:
                problems.append(f"{self._where(path)}: {name} needs {key!r}")
        return problems


def candidates(module: ModuleType, section: str) -> dict[str, Any]:
    """The public classes and functions of a module that a component of this section may name."""
    package = module.__name__.rpartition(".")[0] or module.__name__
    exported = getattr(module, "__all__", ())
    required = _required_class(section)
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_") or not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        home = str(value.__module__)
        if name not in exported and home != module.__name__ and not home.startswith(package + "."):
            continue
        if inspect.isclass(value) and (inspect.isabstract(value) or value is required):
            continue
        if required is not None and not (issubclass(value, required) if inspect.isclass(value) else _makes(value)):
            continue
        found[name] = value
    return found


def _required_class(section: str) -> type | None:
    if section not in KINDS:
        return None
    module, name = KINDS[section][1].split(":")
    __import__(module)
    required = getattr(sys.modules[module], name)
    assert isinstance(required, type)
    return required


def _makes(function: Callable[..., Any]) -> bool:
    """Whether a function may make a component: torch's own optimizer functions don't."""
    return not function.__module__.startswith("torch.optim")


def find(modules: Modules, section: str, type_name: str, source: Source, path: KeyPath) -> Any:
    """The class or function called `type_name`, from the first module that has it.

    Raises:
        ConfigError: there is none, with those there are and the nearest.
    """
    found: dict[str, Any] = {}
    for module in reversed(modules):
        found |= candidates(module, section)
    if type_name in found:
        return found[type_name]
    what = KINDS[section][0] if section in KINDS else {"metrics": "metric"}.get(section, section)
    near = nearest(type_name, found)
    hint = f": did you mean {near!r}?" if near else ""
    names = ", ".join(sorted(found)) or "none"
    there = " and ".join(module.__name__ for module in modules) + (" have" if modules[1:] else " has")
    raise ConfigError(
        f"{source.where(path)}: {dotted(path)}: {there} no {what} {type_name!r}{hint}\n  there are: {names}"
    )


def nested(component: Mapping[str, Any], path: KeyPath) -> dict[str, list[Any]]:
    """The arguments that are lists of components themselves: the schedulers of SequentialLR and ChainedScheduler.

    Raises:
        ConfigError: they are something else.
    """
    if component["type"] not in NESTED or "schedulers" not in component.get("args", {}):
        return {}
    inner = component["args"]["schedulers"]
    if not isinstance(inner, list) or not all(
        isinstance(item, dict) and isinstance(item.get("type"), str) for item in inner
    ):
        here = dotted((*path, "args", "schedulers"))
        raise ConfigError(f'{here}: expected a list of components {{"type": NAME, "args": {{…}}}}, found {kind(inner)}')
    if component["type"] == "SequentialLR" and any(item["type"] in NESTED for item in inner):
        here = dotted((*path, "args", "schedulers"))
        raise ConfigError(f"{here}: torch's SequentialLR cannot hold another {' or '.join(NESTED)}")
    return {"schedulers": inner}


def accepted(target: Callable[..., Any]) -> tuple[list[str], bool]:
    """The names of all arguments that a class or function takes, and whether it takes any others too.

    A class that passes `**options` on to its base takes the base's as well.
    """
    names: dict[str, None] = {}
    open_ended = True
    for maker, parameters in _makers(target):
        own = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        names.update(dict.fromkeys(name for name in own if name != "self" or maker is target))
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return list(names), open_ended


def _makers(target: Callable[..., Any]) -> Iterator[tuple[Any, list[inspect.Parameter]]]:
    """The functions that take the arguments, with their parameters: bases too, while `**options` are passed on."""
    classes = target.__mro__ if inspect.isclass(target) else ()
    for maker in [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)] or [target]:
        parameters = list(inspect.signature(maker).parameters.values())
        yield maker, parameters
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return


def _annotations(target: Callable[..., Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for maker, _ in _makers(target):
        try:
            # Some of torch's names are imported for type checkers alone.
            found = {**get_type_hints(maker, localns={**vars(typing), **vars(collections.abc)}), **found}
        except Exception:  # annotations that cannot be evaluated here say nothing
            continue
    return found


def _type_problem(name: str, key: str, annotation: Any, value: Any) -> list[str]:
    """What is wrong with the type of an argument, by its annotation; lists serve as tuples."""
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # an annotation that pydantic does not know
        return []
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        wanted = annotation.__name__ if inspect.isclass(annotation) else str(annotation)
        wanted = re.sub(r"\b(typing|collections\.abc|torch)\.", "", wanted)
        hint = ": a function cannot come from a config" if "Callable" in wanted else ""
        return [f"{name} takes {key} as {wanted}, found {kind(value)}{hint}"]
    except ValueError:  # a value that JSON cannot hold, from a program
        return []
    return []
