"""Finds the class or function that a component names, and binds its arguments before anything is built."""

import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from config.schema import nearest
from config.source import KeyPath, Source, dotted
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
    what = KINDS[section][0] if section in KINDS else section.rstrip("s")
    near = nearest(type_name, list(found))
    hint = f": did you mean {near!r}?" if near else ""
    names = ", ".join(sorted(found)) or "none"
    raise ConfigError(
        f"{source.where(path)}: {dotted(path)}: {module.__name__} has no {what} {type_name!r}{hint}"
        f"\n  there are: {names}"
    )


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
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    problems = []
    for key in args:
        here = (*path, "args", key)
        if key in by_program:
            problems.append(f"{source.where(here)}: {dotted(here)}: the program gives {name} its {key}: leave it out")
        elif key not in names:
            near = nearest(key, names)
            if near or not open_ended:
                hint = f": did you mean {near!r}?" if near else ""
                takes = ", ".join(n for n in names if n not in by_program) or "no arguments"
                problems.append(
                    f"{source.where(here)}: {dotted(here)}: {name} has no argument {key!r}{hint} (it takes {takes})"
                )
    for p in parameters if not partial else []:
        required = p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        if required and p.name not in args and p.name not in by_program:
            problems.append(f"{source.where(path)}: {dotted((*path, 'args'))}: {name} needs {p.name!r}")
    return problems


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
