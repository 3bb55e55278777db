"""From the names in a config to objects."""

import copy
import fnmatch
import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any

from machinery.config import adapters, installed, scripts
from machinery.config.arguments import Given, with_tensors
from machinery.config.checking import Checked
from machinery.config.classic import ClassicNames
from machinery.config.components import (
    ADAPTER,
    Component,
    Modules,
    find,
    is_own_class,
    kind_of,
)
from machinery.config.kinds import Kind, holds_parts
from machinery.config.nested import Builder, bind
from machinery.config.source import dotted
from machinery.config.values import KeyPath, is_sets
from machinery.config.variables import filled
from machinery.errors import ConfigError, DataError, UserError
from machinery.files import is_of_a_file
from machinery.telling import told

#: Sections that train.py cannot do without.
NEEDED = ("arch", "data_loader", "optimizer")


class Factory(ClassicNames):
    """Builds the components of a checked config.

    What it imports to do so, such as torch, waits until then. A name is looked up in a module, or
    in several: the first that has it gives it.

    Args:
        checked: the config.
    """

    #: What is to be done, where a command says it: of the room `launch`, which knows this one.
    launch: Any = None

    def __init__(self, checked: Checked) -> None:
        #: The config, checked: its source, its settings and its values.
        self.checked = checked
        self.source = checked.source
        self.settings = checked.settings
        self._values = checked.values
        #: The script's seed, where the run has it.
        self.script_seed: int | None = None
        self._settled = False
        self._take_script_seed()

    @property
    def starting(self) -> bool:
        """Whether a run begins."""
        return self.launch is None or self.launch.begins

    @property
    def restored(self) -> bool:
        """Whether all weights are a checkpoint's, and none start here."""
        return self.launch is not None and not self.launch.makes_weights

    def _take_script_seed(self) -> None:
        """Let the seed be the script's, if it has set one so far and the config has none."""
        self.script_seed = scripts.script_seed(self.checked.seeding, self.script_seed)
        if self.script_seed is not None:
            self.settings.seed = self.script_seed

    def _settle_seed(self) -> None:
        """Settle the seed as the first component is built; a script may have set it by then."""
        if self._settled:
            return
        self._settled = True
        self._take_script_seed()
        if self.script_seed is not None:
            what = scripts.told(self.checked.seeding, self.script_seed)
            logging.getLogger("config").info(what)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def where(self, *path: str | int) -> str:
        """The origin of the value at a key path, such as "config.json:12:5"."""
        return self.source.where(path)

    def flat(self) -> dict[str, bool | str | int | float]:
        """What the user has set, by dotted key path, for TensorBoard's hyper-parameters page."""
        shown = {}
        for key, value in self.source.flat().items():
            if isinstance(value, bool | str | int | float) and key != "$schema":
                shown[key] = value
        return shown

    def check(
        self, required: Mapping[str, type] | None = None, **modules: ModuleType | Modules
    ) -> None:
        """Check the names and arguments of all components at once, before any of them is built.

        Args:
            required: the program's own classes that the components of some sections must be of.
            modules: for each section of the config (`arch=model.model`, …), where its names are
                looked up.

        Raises:
            ConfigError: with all problems.
        """
        bases = dict(required or {})
        problems = []
        if "arch" in modules:
            modules[dotted(ADAPTER)] = modules["arch"]
        for name, module in modules.items():
            if name in NEEDED and not self._values.get(name):
                what = 'is missing; a config that has it may be its "base"'
                problems.append(f"{self.source.name}: {name} {what}")
            try:
                self._check_section(name, _as_tuple(module), bases.get(name))
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("\n  ".join(problems))

    def _check_section(self, name: str, modules: Modules, required: type | None) -> None:
        """Check the components of a section."""
        for component in self._components(name):
            kind = kind_of(component.path)
            given = Given(kind.given, filled=kind.filled)
            self._bound(component, modules, given, required)
            if component.args != component.lasting_args:
                bind(self.source, component.restored(), modules, given, required)

    def trainer_class(self, module: ModuleType, required: type) -> Any:
        """The class that `trainer.type` names.

        Args:
            module: where it is looked up.
            required: what it must be a subclass of.

        Raises:
            ConfigError: there is none.
        """
        path = ("trainer", "type")
        return find((module,), self.settings.trainer.type, self.source, path, required)

    def init_obj(self, name: str, module: ModuleType | Modules, *args: Any, **kwargs: Any) -> Any:
        """Build the component `name` of the config with what its type names in `module`.

        `config.init_obj("optimizer", torch.optim, parameters)` is
        `torch.optim.Adam(parameters, lr=0.001)` where the config says
        {"type": "Adam", "args": {"lr": 0.001}}. A component that is null or missing gives None,
        and an object of several by name a dict.

        Raises:
            ConfigError: the type or an argument does not exist, or the constructor raises.
        """
        found = self._components(name)
        if not found:
            return None
        modules = _as_tuple(module)
        if is_sets(name, self._values[name]):
            built = {}
            for component in found:
                built[component.path[-1]] = self._build(component, modules, args, kwargs)
            return built
        (component,) = found
        if component.values.get("starting_args") and self.restored:
            component = component.restored()
        built = self._build(component, modules, args, kwargs)
        if name == "arch":
            if self.launch is not None:
                self.launch.fill(built, self.checked)
            built = self._adapted(built, modules)
            if self.settings.arch is not None:
                self._freeze(built, self.settings.arch.freeze)
        return built

    def _adapted(self, model: Any, modules: Modules) -> Any:
        """The network in the adapter that the config puts around it, if any."""
        for component in self._components(dotted(ADAPTER)):
            model = self._build(component, modules, (model,), {})
        return model

    def _bound(
        self, component: Component, modules: Modules, given: Given, required: type | None = None
    ) -> Any:
        """What a component names, whose arguments fit."""
        if not adapters.is_of_peft(component):
            return bind(self.source, component, modules, given, required)
        # The settings take the config's arguments alone; what they make takes the network.
        given = given._replace(positional=0)
        return adapters.around(bind(self.source, component, modules, given))

    def _build(
        self,
        component: Component,
        modules: Modules,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        from machinery import distributed
        from machinery.order import process_wide, seeding
        from machinery.order.bare import check_constructed

        self._settle_seed()
        path, seed = component.path, self.settings.seed
        given = Given(len(args), tuple(kwargs))
        target = self._bound(component, modules, given)
        seeding.set_root_seed(seed, follows_script=self.script_seed is not None)
        process_wide.use_threads(self.settings.trainer.threads)
        # Randomness in a constructor depends on the component alone, not on what was built before.
        draw: KeyPath = ("init",)
        if path != ("arch",):
            draw = ("init", *path)
        if self.script_seed is None:  # else it draws from where the script has come
            seeding.seed_everything(seed, *draw)
        where = self._named(component)
        arguments = {**self._arguments(component), **kwargs}
        make = partial(self._constructed, component, modules, target, args, arguments)
        try:
            built = distributed.in_turn(make)
        except ConfigError as error:
            missing = isinstance(error.__cause__, OSError)
            if missing and path == ("arch",) and self.restored:
                raise _no_starting_weights(error) from error.__cause__
            raise
        if not (self.source.classic and is_own_class(type(built))):
            _check_made(built, kind_of(path), where)
        check_constructed(built, where)
        return built

    def _constructed(
        self,
        component: Component,
        modules: Modules,
        target: Any,
        args: tuple[Any, ...],
        arguments: Mapping[str, Any],
    ) -> Any:
        """What a component describes; of a loader with what is named in its arguments."""
        if holds_parts(component.path):
            builder = Builder(self.source, modules, construct)
            arguments = builder.arguments(component, target, arguments)
        arch = self.settings.arch
        if component.path == ("arch",) and arch is not None and arch.init == "by_name":
            import torch

            with torch.device("meta"):  # `launch.fill` gives it numbers
                return construct(target, args, arguments, self._named(component))
        return construct(target, args, arguments, self._named(component))

    def _freeze(self, model: Any, patterns: list[str]) -> None:
        """Let the parameters that match one of the patterns stay as they are."""
        parameters = dict(model.named_parameters())
        where = f"{self.where('arch', 'freeze')}: arch.freeze"
        for pattern in patterns:
            for name in matching(pattern, list(parameters), where):
                parameters[name].requires_grad_(False)

    def init_ftn(self, name: str, module: ModuleType | Modules, *args: Any, **kwargs: Any) -> Any:
        """The function that the component `name` names, with its arguments set.

        Of a class it is an instance.
        """
        found = self._components(name)
        if not found:
            return None
        return self._function(found[0], _as_tuple(module), args, kwargs)

    def init_ftns(
        self,
        name: str,
        module: ModuleType | Modules,
        *args: Any,
        required: type | None = None,
    ) -> list[Any]:
        """`init_ftn` for each component of a list, such as the metrics.

        Args:
            name: of the list; that of one in a section is "trainer.trackers".
            module: where their names are looked up.
            args: what the program gives each.
            required: the program's own class that they must be of.

        Raises:
            ConfigError: two have the same name.
        """
        functions: dict[str, Any] = {}
        for component in self._components(name):
            function = self._function(component, _as_tuple(module), args, {}, required)
            if function.__name__ in functions:
                where = f"{self.where(*component.path)}: {dotted(component.path)}"
                what = f"there are two {function.__name__!r}: give one a name of its own"
                raise ConfigError(f"{where}: {what}")
            functions[function.__name__] = function
        return list(functions.values())

    def _function(
        self,
        component: Component,
        modules: Modules,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        required: type | None = None,
    ) -> Any:
        """A loss or metric with its arguments set, under its name in the logs."""
        given = Given(len(args), tuple(kwargs))
        target: Any = bind(self.source, component, modules, given, required)
        arguments = {**self._arguments(component), **kwargs}
        name = component.values.get("name") or component.type.rpartition(".")[2]
        if inspect.isclass(target):
            result = construct(target, args, arguments, self._named(component))
        elif args or arguments:
            result = partial(target, *args, **arguments)
        elif getattr(target, "__name__", None) == name:
            return target
        elif inspect.isfunction(target):  # one under another name
            result = partial(target)
        else:  # an object: a copy, which gets the name
            result = copy.copy(target)
        result.__name__ = name
        return result

    def _arguments(self, component: Component) -> dict[str, Any]:
        """The arguments that the config gives, with the values of the environment in them."""
        found = {}
        for section in component.sections:
            given = component.values.get(section, {})
            found.update(filled(self.source, given, (*component.path, section)))
        return found

    def _components(self, name: str) -> list[Component]:
        """The components of a section: one, those of a list, or none.

        Raises:
            ConfigError: something in it is no component.
        """
        path: KeyPath = tuple(name.split("."))
        values: Any = self._values
        for section in path[:-1]:
            values = values.get(section) or {}
        value = values.get(path[-1])
        if not value:
            return []
        if isinstance(value, list):
            return [self._component((*path, i), item) for i, item in enumerate(value)]
        if is_sets(path[-1], value):
            there = {key: each for key, each in value.items() if each is not None}
            return [self._component((*path, key), each) for key, each in there.items()]
        return [self._component(path, value)]

    def sections(self, name: str) -> list[dict[str, Any]]:
        """The values of the components of a section, as they may be changed."""
        return [self._at(component.path) for component in self._components(name)]

    def _at(self, path: KeyPath) -> Any:
        """The value at a key path."""
        value: Any = self._values
        for key in path:
            value = value[key]
        return value

    def _component(self, path: KeyPath, value: Any) -> Component:
        """The component at `path`; a name is one without arguments."""
        values = value
        if not isinstance(value, dict):
            values = {"type": value}
        if isinstance(values.get("type"), str) and isinstance(values.get("args", {}), dict):
            return Component(path, values)
        where = f"{self.where(*path)}: {dotted(path)}"
        raise ConfigError(f'{where} is no component {{"type": NAME, "args": {{…}}}}')

    def _named(self, component: Component) -> str:
        """The origin of a component, its key path and its type."""
        return f"{self.where(*component.path)}: {dotted(component.path)} ({component.type})"


def construct(
    target: Callable[..., Any], given: tuple[Any, ...], kwargs: Mapping[str, Any], where: str
) -> Any:
    """Call a constructor; what it raises becomes an error that names the component in the config.

    Args:
        target, given, kwargs: what is called, with which arguments.
        where: what the message begins with.

    Raises:
        ConfigError: with the message, and the line of the project's own code that raised it.
        DataError: a file could not be read, or is damaged.
    """
    try:
        return target(*given, **with_tensors(target, kwargs))
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error
    # Any exception of a constructor comes from what the config gave it.
    except (Exception, SystemExit) as error:
        message = f"{where}: {told(error, anywhere=False)}"
        if "data_loader" in where and is_of_a_file(error):
            raise DataError(message) from error
        raise ConfigError(message) from error


def _check_made(built: Any, kind: Kind, where: str) -> None:
    """Refuse what a function has made if it is not of the kind."""
    base = kind.base()
    if base is None or isinstance(built, base):
        return
    if kind.schedules and installed.is_schedule(type(built)):
        return
    raise ConfigError(f"{where}: made a {type(built).__name__}, not a {base.__name__}")


def _no_starting_weights(error: ConfigError) -> ConfigError:
    """The error of a network that wants a file, though its weights are in a checkpoint."""
    what = "the weights come from the checkpoint: leave out what only gave starting weights"
    hint = "--set arch.args.NAME=null, and arch.starting_args in the config of another run"
    return ConfigError(f"{error}\n  {what}: {hint}")


def _as_tuple(module: ModuleType | Modules) -> Modules:
    if isinstance(module, tuple):
        return module
    return (module,)


def matching(pattern: str, names: list[str], where: str) -> list[str]:
    """The names of parameters that a pattern matches.

    Raises:
        ConfigError: none, with those there are.
    """
    found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
    if not found:
        there = ", ".join(names[:20])
        if len(names) > 20:
            there += ", …"
        raise ConfigError(f"{where}: {pattern!r} matches no parameter; there are: {there}")
    return found
