"""Finds the class or function that a component of a config names."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from machinery.config import installed
from machinery.config.arguments import Given, accepted, argument_problems
from machinery.config.kinds import KINDS as KINDS, Kind, kind_of as kind_of
from machinery.config.source import Source, dotted
from machinery.config.values import KeyPath, nearest
from machinery.errors import ConfigError
from machinery.files import ROOT
from machinery.telling import told

Modules = tuple[ModuleType, ...]
#: Where modules that a config names may be.
OWN = ("model", "data_loader", "trainer", "examples")
#: The keys of components themselves.
KEYS = (
    "type",
    "args",
    "starting_args",
    "name",
    "weights",
    "adapter",
    "freeze",
    "skip",
    "interval",
)
#: Where those are that a config names inside the arguments of a loader.
_OWN_PARTS = ("data_loader", "examples")
#: The key path of what is put around a network.
ADAPTER: KeyPath = ("arch", "adapter")


class Component(NamedTuple):
    """A component of a config: what is to be built of which class or function."""

    #: The key path to it.
    path: KeyPath
    values: Mapping[str, Any]

    @property
    def type(self) -> str:
        """The name of its class or function."""
        return self.values["type"]

    @property
    def sections(self) -> tuple[str, ...]:
        """The keys of its arguments: only a network's may be those of its starting values."""
        if self.path == ("arch",):
            return ("args", "starting_args")
        return ("args",)

    @property
    def args(self) -> Mapping[str, Any]:
        """The arguments that the config gives it, those for starting values among them."""
        found: dict[str, Any] = {}
        for section in self.sections:
            found.update(self.values.get(section, {}))
        return found

    @property
    def lasting_args(self) -> Mapping[str, Any]:
        """The arguments that the config gives it also where its values come from a checkpoint."""
        return self.values.get("args", {})

    def restored(self) -> "Component":
        """The component as it is made where its values come from a checkpoint."""
        return self._replace(values={**self.values, "starting_args": {}})


def bind(
    source: Source,
    component: Component,
    modules: Modules,
    given: Given,
    required: type | None = None,
) -> Any:
    """What a component names: a class, a function, or another object that is called.

    Its arguments fit the signature.

    Args:
        source: of the config.
        component: of it.
        modules: where its name is looked up.
        given: what the program gives it.
        required: the program's own class that it must be of.

    Raises:
        ConfigError: with a line for each problem of it.
    """
    path = component.path
    target = find(modules, component.type, source, path, required)
    _check_takes_parameters(component, target, f"{source.where(path)}: {dotted(path)}")
    problems = []
    for name in component.values:
        if name not in KEYS and name in accepted(target).types:
            where = f"{source.where((*path, name))}: {dotted((*path, name))}"
            meant = dotted((*path, "args", name))
            problems.append(f"{where} is unknown: did you mean {meant}?")
    if kind_of(path).called_later and not inspect.isclass(target):
        given = given._replace(later=True)
    problems += argument_problems(source, target, component.args, (*path, "args"), given)
    if problems:
        raise ConfigError("\n  ".join(problems))
    return target


def _check_takes_parameters(component: Component, target: Any, where: str) -> None:
    """Refuse a function of a package that makes an optimizer of a model."""
    is_optimizer = kind_of(component.path) is KINDS["optimizer"]
    if not is_optimizer or not inspect.isfunction(target):
        return
    wanted = inspect.signature(target).parameters.get("model")
    if wanted is None or wanted.default is not inspect.Parameter.empty:
        return
    if installed.is_installed(component.type, OWN):
        what = f"{component.type} takes a model, and an optimizer is given its parameters"
        raise ConfigError(f"{where}: {what}: name its class, or make it in model/optim.py")


def find(
    modules: Modules, type_name: str, source: Source, path: KeyPath, required: type | None = None
) -> Any:
    """The class or function called `type_name`.

    It comes from the first of the modules that has it, or from that which the name itself names.

    Args:
        source, path: of the component.
        required: the program's own class that it must be of.

    Raises:
        ConfigError: there is none, with those there are and the nearest.
    """
    origin = source.where(path)
    of_type = source.where((*path, "type"))
    if of_type.startswith("command line"):  # it alone was set there
        origin = of_type
    where = f"{origin}: {dotted(path)}"
    kind = kind_of(path, required)
    if installed.is_installed(type_name, OWN):
        return _installed(type_name, kind, where)
    package, _, name = type_name.rpartition(".")
    if package:
        modules = (_own_module(package, where, _OWN_PARTS if kind.is_part else OWN),)
    found: dict[str, Any] = {}
    for module in reversed(modules):
        found.update(_candidates(module, kind, imported=not package))
    if name not in found and source.classic:  # whose parts need not derive from torch's
        found.update(_own_classes(name, modules))
    if name not in found:
        raise ConfigError(f"{where}: {_not_found(name, kind, modules, found)}")
    return found[name]


def _installed(type_name: str, kind: Kind, where: str) -> Any:
    """The part of an installed package that a config names."""
    installed.check_package(kind.of_packages or "torch", OWN, where)
    wanted = kind.wanted()
    if wanted is None:
        raise ConfigError(f"{where}: a {kind.words} is the project's own, not {type_name}")
    return installed.part(type_name, wanted, OWN, where)


def _own_classes(name: str, modules: Modules) -> dict[str, Any]:
    """The first class of that name that a module of the project's own defines."""
    for module in modules:
        if is_own_class(vars(module).get(name)):
            return {name: vars(module)[name]}
    return {}


def _candidates(module: ModuleType, kind: Kind, imported: bool) -> dict[str, Any]:
    """What a component of a kind may name in a module.

    Args:
        imported: also what the module itself has only imported.
    """
    found = {}
    for name, value in vars(module).items():
        if name.startswith("_") or name == "main" or not _fits(value, kind, module):
            continue
        if imported or getattr(value, "__module__", "") == module.__name__:
            found[name] = value
    return found


def _fits(value: Any, kind: Kind, module: ModuleType) -> bool:
    """Whether a value of a module is of a kind, or makes one."""
    if kind.is_part:
        return _is_part(value, kind)
    if inspect.isclass(value):
        return _class_fits(value, kind)
    if inspect.isfunction(value):
        if kind.anything:
            return True
        if installed.makes_another(value, kind.base()) and not _may_make(value, kind):
            return False
        # Torch's own functions make no components.
        return not kind.only_classes and not module.__name__.startswith("torch.")
    if kind.base() is not None or inspect.isbuiltin(value):
        return False
    return callable(value) or hasattr(value, "compute")


def _may_make(function: Any, kind: Kind) -> bool:
    """Whether a function that says it makes another class may make one of a kind all the same."""
    made = installed.made_by(function)
    return is_own_class(made) or (kind.schedules and installed.is_schedule(made))


def _is_part(value: Any, kind: Kind) -> bool:
    """Whether a value of a module is a part of the data, or makes one.

    Of what the module has imported, functions are none.
    """
    package = str(getattr(value, "__module__", "")).split(".")[0]
    if inspect.isfunction(value):
        is_mapping = installed.made_by(value) in (dict, Mapping)
        return package in _OWN_PARTS and (kind.called_later or not is_mapping)
    wanted = kind.wanted()
    assert wanted is not None
    if inspect.isclass(value):
        if _class_fits(value, KINDS["data_loader"]):
            return False
        return installed.is_part(value, wanted, own=package in _OWN_PARTS)
    if inspect.isbuiltin(value) or not kind.called_later:
        return False
    return callable(value)


def _class_fits(value: type, kind: Kind) -> bool:
    """Whether instances of a class are of a kind."""
    base = kind.base()
    if inspect.isabstract(value):
        return False
    if kind.anything:  # but for what a file has imported to work with, such as subprocess.Popen
        return value.__module__.partition(".")[0] not in sys.stdlib_module_names
    if base is not None and issubclass(value, base):
        return kind.itself or value is not base
    if base is not None:
        return kind.schedules and installed.is_schedule(value)
    for each in value.__mro__:
        if "__call__" in vars(each):
            return True
    return hasattr(value, "compute")  # a metric that counts


def is_own_class(value: Any) -> bool:
    """Whether a value is a class that a file of the project defines."""
    if not inspect.isclass(value):
        return False
    file = getattr(sys.modules.get(value.__module__), "__file__", None)
    if file is None or "site-packages" in file:
        return False
    return Path(file).resolve().is_relative_to(ROOT)


def _not_found(name: str, kind: Kind, modules: Modules, found: Mapping[str, Any]) -> str:
    """That there is no `name`, and what there is."""
    own = _own_names(modules, found)
    there = ", ".join(sorted(own)) or "none"
    where = " and ".join(module.__name__ for module in modules)
    verb = "has"
    if len(modules) > 1:
        verb = "have"
    hint = _hint(name, kind, modules, [*own, *found])
    return f"{where} {verb} no {kind.words} {name!r}{hint}\n  there are: {there}"


def _own_names(modules: Modules, found: Mapping[str, Any]) -> list[str]:
    """The names of what is no import from elsewhere, for a list of what there is."""
    packages = [module.__name__.split(".")[0] for module in modules]
    names = []
    for name, value in found.items():
        if str(getattr(value, "__module__", "")).split(".")[0] in packages:
            names.append(name)
    return names


def _hint(name: str, kind: Kind, modules: Modules, names: Iterable[str]) -> str:
    """What a name that was not found may be meant to be."""
    for module in modules:
        if inspect.isabstract(vars(module).get(name)):
            return ": it lacks a method of its base, such as forward"
    meant = _full_name(name)
    near = nearest(name, names)
    if meant is None and near is not None and near.lower() == name.lower():
        meant = near
    if meant is None:
        meant = installed.full_name(name, kind.wanted)
    if meant is None:
        meant = near
    if meant is None:
        return ""
    return f": did you mean {meant!r}?"


def _full_name(name: str) -> str | None:
    """The full name of a class or function of this name in another of the project's files."""
    if not name.isidentifier():
        return None
    definition = re.compile(rf"^(?:class|def) {name}\b", re.MULTILINE)
    for package in OWN:
        for file in sorted((ROOT / package).rglob("*.py")):
            try:
                text = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if definition.search(text):
                return ".".join([*file.relative_to(ROOT).with_suffix("").parts, name])
    return None


def _own_module(name: str, where: str, folders: tuple[str, ...]) -> ModuleType:
    """A module of the project's own, in one of some folders.

    A config may come from anybody, and must not call whatever there is.
    """
    names = name.split(".")
    if names[0] not in folders or not _is_file(names):
        raise ConfigError(f"{where}: {_no_module(names, folders)}")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise ConfigError(f"{where}: {name} cannot be imported: {told(error)}") from error


def _no_module(names: list[str], folders: tuple[str, ...]) -> str:
    """That no file of the project is a module of this name, with the nearest that is one."""
    known = []
    for folder in folders:
        for file in sorted((ROOT / folder).rglob("*.py")):
            known.append(".".join(file.relative_to(ROOT).with_suffix("").parts))
    name = ".".join(names)
    near = nearest(name, known)
    hint = ""
    if near is not None:
        hint = f": did you mean {near}?"
    return f"there is no module {name} in {', '.join(folders)}{hint}"


def _is_file(names: list[str]) -> bool:
    """Whether a module of this name is a file of the project."""
    file = ROOT.joinpath(*names).with_suffix(".py")
    return os.path.isfile(file)  # noqa: PTH113 - it takes all names, also those that are none
