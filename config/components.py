"""Finds the class or function that a component names, and binds its arguments before anything is built."""

import collections.abc
import functools
import inspect
import json
import re
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from config.names import nearest
from config.source import KeyPath, Source, dotted, kind
from utils.errors import ConfigError, UserError
from utils.files import ROOT

#: What each section of the config must be, as its kind in words and the base class as "module:name".
KINDS = {
    "arch": ("model", "torch.nn:Module"),
    "data_loader": ("data loader", "torch.utils.data:DataLoader"),
    "valid_data_loader": ("data loader", "torch.utils.data:DataLoader"),
    "test_data_loader": ("data loader", "torch.utils.data:DataLoader"),
    "optimizer": ("optimizer", "torch.optim:Optimizer"),
    "lr_scheduler": ("scheduler", "torch.optim.lr_scheduler:LRScheduler"),
}


#: What the program gives each component when it builds it.
GIVEN = {"optimizer": ("params",), "lr_scheduler": ("optimizer",)}
#: Sections whose functions are called with more arguments than the config gives.
CALLED_LATER = ("loss", "metrics")
#: The keys of components themselves.
KEYS = ("type", "args", "name", "freeze", "skip", "param_groups", "interval")
#: Schedulers made of schedulers.
NESTED = ("SequentialLR", "ChainedScheduler")


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


def find(module: ModuleType, section: str, type_name: str, source: Source, path: KeyPath) -> Any:
    """The class or function called `type_name`.

    Raises:
        ConfigError: there is none, with those there are and the nearest.
    """
    found = candidates(module, section)
    if type_name in found:
        return found[type_name]
    what = KINDS[section][0] if section in KINDS else {"metrics": "metric"}.get(section, section)
    near = nearest(type_name, list(found))
    hint = f": did you mean {near!r}?" if near else ""
    names = ", ".join(sorted(found)) or "none"
    raise ConfigError(
        f"{source.where(path)}: {dotted(path)}: {module.__name__} has no {what} {type_name!r}{hint}"
        f"\n  there are: {names}"
    )


def problems(
    component: Mapping[str, Any],
    path: KeyPath,
    module: ModuleType,
    given: tuple[Any, ...],
    given_names: Iterable[str],
    source: Source,
    called_later: bool = False,
) -> tuple[Any, list[str]]:
    """Look a component up and bind its arguments, and those of the components inside it.

    Args:
        given, given_names: what the program gives, by place and by name.
        called_later: more arguments come with the call (a loss, a metric).

    Returns:
        the class or function, and a line for each problem.
    """
    # A component of the user's own (optimizer_D) is of the kind that its name says.
    section = next((key for key in KINDS if str(path[0]).startswith(key)), str(path[0]))
    try:
        target = find(module, section, component["type"], source, path)
        inside = nested(component, path)
    except ConfigError as error:
        return None, [str(error)]
    found = []
    for key in [key for key in component if key not in KEYS and key in accepted(target)[0]]:
        here = (*path, key)
        found.append(f"{source.where(here)}: {dotted(here)} is unknown: did you mean {dotted((*path, 'args', key))}?")
    for key, inner in inside:
        for i, item in enumerate(inner):
            found += problems(item, (*path, "args", key, i), module, given, given_names, source)[1]
    keys = [key for key, _ in inside]
    args = {key: value for key, value in component.get("args", {}).items() if key not in keys}
    found += bind(target, args, given, [*given_names, *keys], source, (*path, "args"), called_later)
    groups = component.get("param_groups", []) if section == "optimizer" else []
    for i, group in enumerate(groups):
        options = {key: value for key, value in group.items() if key != "match"}
        found += bind(target, options, given, given_names, source, (*path, "param_groups", i), partial=True)
    return target, found


def nested(component: Mapping[str, Any], path: KeyPath) -> list[tuple[str, list[Any]]]:
    """The arguments that are lists of components themselves: the schedulers of SequentialLR and ChainedScheduler.

    Raises:
        ConfigError: they are something else.
    """
    if component["type"] not in NESTED or "schedulers" not in component.get("args", {}):
        return []
    inner = component["args"]["schedulers"]
    if not isinstance(inner, list) or not all(
        isinstance(item, dict) and isinstance(item.get("type"), str) for item in inner
    ):
        here = dotted((*path, "args", "schedulers"))
        raise ConfigError(f'{here}: expected a list of components {{"type": NAME, "args": {{…}}}}, found {kind(inner)}')
    if component["type"] == "SequentialLR" and any(item["type"] in NESTED for item in inner):
        here = dotted((*path, "args", "schedulers"))
        raise ConfigError(f"{here}: torch's SequentialLR cannot hold another {' or '.join(NESTED)}")
    return [("schedulers", inner)]


def bind(
    target: Callable[..., Any],
    args: Mapping[str, Any],
    given: tuple[Any, ...],
    given_names: Iterable[str],
    source: Source,
    path: KeyPath,
    partial: bool = False,
) -> list[str]:
    """Bind a component's arguments to its signature, without calling it.

    Args:
        target: the class or function.
        args: the config's arguments.
        path: where they are in the config.
        given: positional arguments that the program gives.
        given_names: keyword arguments that the program gives.
        partial: more arguments come with the call (a loss, a metric).

    Returns:
        a line for each unknown, doubled or missing argument.
    """
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature says no itself
        return []
    name = getattr(target, "__name__", str(target))
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    by_program = {p.name for p in positional[: len(given)]} | set(given_names)
    names, open_ended = accepted(target)
    annotations = _annotations(target)
    problems = []
    for key, value in args.items():
        here = (*path, key)
        place = f"{source.where(here)}: {dotted(here)}"
        if key in by_program:
            problems.append(f"{place}: the program gives {name} its {key}: leave it out")
        elif key not in names:
            near = nearest(key, names)
            if near or not open_ended:
                hint = f": did you mean {near!r}?" if near else ""
                hidden = by_program | {p.name for p in parameters if partial and p.default is p.empty}
                takes = ", ".join(n for n in names if n not in hidden) or "no arguments"
                problems.append(f"{place}: {name} has no argument {key!r}{hint} (it takes {takes})")
        elif key in annotations:
            problems += [f"{place}: {problem}" for problem in _type_problem(name, key, annotations[key], value)]
    for p in parameters if not partial else []:
        required = p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if required and p.name not in args and p.name not in by_program:
            problems.append(f"{source.where(path)}: {dotted(path)}: {name} needs {p.name!r}")
    return problems


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


def build(target: Callable[..., Any], given: tuple[Any, ...], kwargs: Mapping[str, Any], place: str) -> Any:
    """Call a constructor; what it raises becomes an error that names the component's `place` in the config.

    Raises:
        ConfigError: with the message, and the line of the project's own code that raised it.
    """
    try:
        return target(*given, **kwargs)
    except UserError as error:
        raise type(error)(f"{place}: {error}") from error
    except Exception as error:  # any exception of a constructor comes from what the config gave it
        raise ConfigError(f"{place}: {type(error).__name__}: {error}{own_frame(error)}") from error


def own_frame(error: BaseException) -> str:
    """The last line of the project's own code in a traceback, if the exception passed through any."""
    ours = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT)
        and Path(frame.filename).relative_to(ROOT).parts[0] not in ("config", "parse_config.py", "base", "utils")
        and "site-packages" not in frame.filename
    ]
    own = [f for f in ours if Path(f.filename).name not in ("train.py", "test.py")]
    return f"\n  at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""


def named(function: Callable[..., Any], args: Mapping[str, Any], name: str) -> Callable[..., Any]:
    """A loss or metric with its arguments set, under its name in the logs."""
    result: Any
    if inspect.isclass(function):
        result = function(**args)
    elif args or name != function.__name__:
        result = functools.partial(function, **args)
    else:
        return function
    result.__name__ = name
    return result
