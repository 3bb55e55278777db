"""Finds the class or function that a component names, and binds its arguments before anything is built."""

import collections.abc
import contextlib
import importlib
import inspect
import json
import os
import re
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from machinery.config.source import LOADERS, KeyPath, Source, dotted, kind, nearest
from machinery.errors import ConfigError, told
from machinery.files import ROOT

#: What each section of the config must be, as its kind in words and the base class as "module:name".
KINDS = {
    "arch": ("model", "torch.nn:Module"),
    **dict.fromkeys(LOADERS, ("data loader", "torch.utils.data:DataLoader")),
    "optimizer": ("optimizer", "torch.optim:Optimizer"),
    "lr_scheduler": ("scheduler", "torch.optim.lr_scheduler:LRScheduler"),
    "trainer.type": ("trainer", "base.base_trainer:BaseTrainer"),
    "trainer.trackers": ("tracker", "logger.visualization:Writer"),
}
#: Where modules that a config names may be.
OWN = ("model", "data_loader", "trainer", "examples")
#: How many arguments the program gives a component first: the parameters, the optimizer.
GIVEN = {"optimizer": 1, "lr_scheduler": 1, "trainer.trackers": 1}
#: Sections whose functions are called with more arguments than the config gives.
CALLED_LATER = ("loss", "metrics")
#: The keys of components themselves.
KEYS = ("type", "args", "name", "freeze", "skip", "interval")

Modules = tuple[ModuleType, ...]


class Given(NamedTuple):
    """What the program gives a component: so many arguments by position, and these by name."""

    positional: int = 0
    names: tuple[str, ...] = ()
    #: More may come with a call.
    later: bool = False


def bind(
    source: Source, component: Mapping[str, Any], path: KeyPath, modules: Modules, given: Given
) -> Any:
    """What a component names: a class, a function, or another object that is called; its arguments fit the signature.

    Raises:
        ConfigError: with a line for each problem of it.
    """
    section = section_of(path)
    target = find(modules, section, component["type"], source, path)
    found = []
    for name in [name for name in component if name not in KEYS and name in accepted(target)[0]]:
        wrong, meant = (*path, name), dotted((*path, "args", name))
        found.append(f"{source.where(wrong)}: {dotted(wrong)} is unknown: did you mean {meant}?")
    given = given._replace(later=section in CALLED_LATER and not inspect.isclass(target))
    found += _problems(source, target, component.get("args", {}), (*path, "args"), given)
    if found:
        raise ConfigError("\n  ".join(found))
    return target


def _problems(
    source: Source, target: Any, args: Mapping[str, Any], path: KeyPath, given: Given
) -> list[str]:
    """A line for each argument that is unknown, doubled, missing or of the wrong type."""
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature says no itself
        return []
    name = getattr(target, "__name__", type(target).__name__)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_program = {p.name for p in positional[: given.positional]} | set(given.names)
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    names, open_ended = accepted(target)
    problems = []
    for key, value in args.items():
        where = f"{source.where((*path, key))}: {dotted((*path, key))}"
        if key in by_program:
            problems.append(f"{where}: the program gives {name} its {key}: leave it out")
        elif key not in names:
            near = nearest(key, names)
            if near or not open_ended:
                hint = f": did you mean {near!r}?" if near else ""
                hidden = by_program | {p.name for p in needed if given.later}
                takes = ", ".join(n for n in names if n not in hidden) or "no arguments"
                problems.append(f"{where}: {name} has no argument {key!r}{hint} (it takes {takes})")
        else:
            problems += [
                f"{where}: {problem}" for problem in _type_problem(name, key, names[key], value)
            ]
    for p in needed:
        if p.name not in (*args, *by_program) and (p.kind is p.KEYWORD_ONLY or not given.later):
            problems.append(f"{source.where(path)}: {dotted(path)}: {name} needs {p.name!r}")
    return problems


def section_of(path: KeyPath) -> str:
    """The section that says what a component must be; optimizer_D, of the user's own, is an optimizer by its name."""
    return next((name for name in KINDS if dotted(path).startswith(name)), str(path[0]))


def required_class(section: str) -> Any:
    """The class that the components of a section must be of; None where anything that can be called will do."""
    if section not in KINDS:
        return None
    module, name = KINDS[section][1].split(":")
    return getattr(importlib.import_module(module), name)


def candidates(module: ModuleType, section: str, own: bool = False) -> dict[str, Any]:
    """What a component of this section may name in a module: its public names of the right kind.

    Args:
        own: without imported ones.
    """
    required = required_class(section)
    # In torch's own modules, functions are helpers.
    functions = not module.__name__.startswith("torch.")

    def fits(value: Any) -> bool:
        if inspect.isclass(value):
            called = "__call__" in dir(value) and any(
                "__call__" in vars(cls) for cls in value.__mro__
            )
            right = (
                called or hasattr(value, "compute")
                if required is None
                else issubclass(value, required)
            )
            return right and value is not required and not inspect.isabstract(value)
        if inspect.isfunction(value):
            return functions and not section.startswith("trainer.")
        return (
            required is None
            and (callable(value) or hasattr(value, "compute"))
            and not inspect.isbuiltin(value)
        )

    named = {
        name: value
        for name, value in vars(module).items()
        if name[:1] != "_" and name != "main" and fits(value)
    }
    return {
        name: v
        for name, v in named.items()
        if not own or getattr(v, "__module__", "") == module.__name__
    }


def find(modules: Modules, section: str, type_name: str, source: Source, path: KeyPath) -> Any:
    """The class or function called `type_name`, from the first module that has it, or from that which it names.

    Raises:
        ConfigError: there is none, with those there are and the nearest.
    """
    package, _, type_name = type_name.rpartition(".")
    if package:
        modules = (_own_module(package, f"{source.where(path)}: {dotted(path)}"),)
    found = {
        name: v
        for module in modules[::-1]
        for name, v in candidates(module, section, bool(package)).items()
    }
    if type_name in found:
        return found[type_name]
    what = KINDS[section][0] if section in KINDS else {"metrics": "metric"}.get(section, section)
    packages = [module.__name__.split(".")[0] for module in modules]
    # Imported helpers are not for a list of what there is.
    own = [
        name
        for name, value in found.items()
        if str(getattr(value, "__module__", "")).split(".")[0] in packages
    ]
    near = nearest(type_name, [*own, *found])
    hint = f": did you mean {near!r}?" if near else ""
    if any(inspect.isabstract(getattr(module, type_name, None)) for module in modules):
        hint = ": it lacks a method of its base, such as forward"
    names = ", ".join(sorted(own)) or "none"
    there = " and ".join(module.__name__ for module in modules) + (
        " have" if modules[1:] else " has"
    )
    here = f"{source.where(path)}: {dotted(path)}"
    raise ConfigError(f"{here}: {there} no {what} {type_name!r}{hint}\n  there are: {names}")


def _own_module(name: str, where: str) -> ModuleType:
    """A module of the project's own: a config may come from anybody, and must not call whatever there is."""
    parts = name.split(".")
    if parts[0] not in OWN or not os.path.isfile(ROOT.joinpath(*parts).with_suffix(".py")):  # noqa: PTH113 - takes all
        raise ConfigError(f"{where}: there is no module {name} in {', '.join(OWN)}")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise ConfigError(f"{where}: {name} cannot be imported: {told(error)}") from error


def accepted(target: Callable[..., Any]) -> tuple[dict[str, Any], bool]:
    """The arguments that a class or function takes, with their annotations, and whether it takes any others too.

    A class that passes `**options` on to its base takes the base's as well.
    """
    found: dict[str, Any] = {}
    classes = target.__mro__ if inspect.isclass(target) else ()
    for maker in [vars(cls)["__init__"] for cls in classes if "__init__" in vars(cls)] or [target]:
        parameters, hints = list(inspect.signature(maker).parameters.values()), {}
        with contextlib.suppress(
            Exception
        ):  # annotations that cannot be evaluated here say nothing
            # Some of torch's names are imported for type checkers alone.
            hints = get_type_hints(maker, localns={**vars(typing), **vars(collections.abc)})
        own = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        own = [name for name in own if name not in found and (name != "self" or maker is target)]
        found.update((name, hints.get(name, Any)) for name in own)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return found, False
    return found, True


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
