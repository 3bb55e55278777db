"""From the names in a config to objects."""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from machinery.config.components import (
    GIVEN,
    Given,
    Modules,
    bind,
    find,
    required_class,
    section_of,
)
from machinery.config.schema import Checked
from machinery.config.source import KeyPath, dotted, matching
from machinery.errors import ConfigError, DataError, UserError, told

if TYPE_CHECKING:
    import torch

Component = dict[str, Any]
#: Sections that train.py cannot do without.
NEEDED = ("arch", "data_loader", "optimizer")


class Factory:
    """Builds the components of a checked config; what it imports to do so, such as torch, waits until then.

    A name is looked up in a module, or in several: the first that has it gives it.

    Args:
        checked: the config.
    """

    def __init__(self, checked: Checked) -> None:
        self.source, self.settings, self._values = checked

    def init_obj(self, name: str, module: ModuleType | Modules, *args: Any, **kwargs: Any) -> Any:
        """Build the component `name` of the config with the class or function that its type names in `module`.

        `config.init_obj("optimizer", torch.optim, parameters)` is `torch.optim.Adam(parameters, lr=0.001)` where the
        config says {"type": "Adam", "args": {"lr": 0.001}}. A component that is null or missing gives None.

        Raises:
            ConfigError: the type or an argument does not exist, or the constructor raises.
        """
        found = self._components(name)
        if not found:
            return None
        ((path, component),) = found
        built = self._build(component, path, _as_tuple(module), args, kwargs)
        if name == "arch" and component.get("freeze"):
            named = dict(built.named_parameters())
            for pattern in component["freeze"]:
                for parameter in matching(
                    pattern, list(named), f"{self.where('arch', 'freeze')}: arch.freeze"
                ):
                    named[parameter].requires_grad_(False)
        return built

    def _build(
        self,
        component: Component,
        path: KeyPath,
        modules: Modules,
        args: tuple[Any, ...],
        kwargs: Component,
    ) -> Any:
        import torch

        from machinery import distributed
        from machinery.order import seeding

        target = bind(self.source, component, path, modules, Given(len(args), tuple(kwargs)))
        # Randomness in a constructor depends on the component alone, not on what was built before.
        seeding.ROOT_SEED = self.settings.seed
        if self.settings.trainer.threads is not None:
            torch.set_num_threads(self.settings.trainer.threads)
        seeding.seed_everything(self.settings.seed, "init", *([] if path == ("arch",) else path))
        where = self._place(component, path)
        arguments = {**component.get("args", {}), **kwargs}
        built = distributed.in_turn(lambda: construct(target, args, arguments, where))
        kind = required_class(section_of(path))
        if kind is not None and not isinstance(built, kind):
            raise ConfigError(f"{where}: made a {type(built).__name__}, not a {kind.__name__}")
        return built

    def _place(self, component: Component, path: KeyPath) -> str:
        """Where a component stands."""
        return f"{self.where(*path)}: {dotted(path)} ({component['type']})"

    def check(self, **modules: ModuleType | Modules) -> None:
        """Check the names and arguments of all components at once, before any of them is built.

        Args:
            modules: for each section of the config (`arch=model.model`, …), where its names are looked up.

        Raises:
            ConfigError: with all problems.
        """
        problems = []
        for name, module in modules.items():
            if name in NEEDED and not self._values.get(name):
                problems.append(
                    f'{self.source.name}: {name} is missing; a config that has it may be its "base"'
                )
            try:
                for path, component in self._components(name):
                    bind(self.source, component, path, _as_tuple(module), Given(GIVEN.get(name, 0)))
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise ConfigError("\n  ".join(problems))

    def where(self, *path: str | int) -> str:
        """The place in the config of the value at a path, such as "config.json:12:5"."""
        return self.source.where(path)

    def init_ftn(self, name: str, module: ModuleType | Modules, *args: Any, **kwargs: Any) -> Any:
        """The function that the component `name` names, with its arguments set; an instance if it is a class."""
        found = self._components(name)
        return (
            self._function(found[0][1], found[0][0], _as_tuple(module), args, kwargs)
            if found
            else None
        )

    def init_ftns(self, name: str, module: ModuleType | Modules, *args: Any) -> list[Any]:
        """`init_ftn` for each component of a list, such as the metrics.

        Args:
            name: of the list; that of one in a section is "trainer.trackers".

        Raises:
            ConfigError: two have the same name.
        """
        functions: dict[str, Any] = {}
        for path, component in self._components(name):
            function = self._function(component, path, _as_tuple(module), args, {})
            if function.__name__ in functions:
                where = f"{self.where(*path)}: {dotted(path)}"
                raise ConfigError(
                    f"{where}: there are two {function.__name__!r}: give one a name of its own"
                )
            functions[function.__name__] = function
        return list(functions.values())

    def _function(
        self,
        component: Component,
        path: KeyPath,
        modules: Modules,
        args: tuple[Any, ...],
        kwargs: Component,
    ) -> Any:
        """A loss or metric with its arguments set, under its name in the logs."""
        target: Any = bind(self.source, component, path, modules, Given(len(args), tuple(kwargs)))
        given = {**component.get("args", {}), **kwargs}
        name = component.get("name") or component["type"].rpartition(".")[2]
        if inspect.isclass(target):
            result = construct(target, args, given, self._place(component, path))
        elif args or given:
            result = partial(target, *args, **given)
        elif getattr(target, "__name__", None) == name:
            return target
        else:  # an object, or a function under another name: a copy, which gets the name
            result = partial(target) if inspect.isfunction(target) else copy.copy(target)
        result.__name__ = name
        return result

    def _components(self, name: str) -> list[tuple[KeyPath, Component]]:
        """The components of a section with their paths: one, those of a list, or none; a name is one without arguments.

        Raises:
            ConfigError: something in it is no component.
        """
        *above, key = place = tuple(name.split("."))
        value = (self._values[above[0]] if above else self._values).get(key) or []
        listed = isinstance(value, list)
        items: Any = (
            [((*place, i), item) for i, item in enumerate(value)] if listed else [(place, value)]
        )
        found: Any = [
            (path, item if isinstance(item, dict) else {"type": item}) for path, item in items
        ]
        for path, component in found:
            if not (
                isinstance(component.get("type"), str)
                and isinstance(component.get("args", {}), dict)
            ):
                where = f"{self.where(*path)}: {dotted(path)}"
                raise ConfigError(f'{where} is no component {{"type": NAME, "args": {{…}}}}')
        return list(found)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __contains__(self, name: str) -> bool:
        return name in self._values


def _as_tuple(module: ModuleType | Modules) -> Modules:
    return module if isinstance(module, tuple) else (module,)


def construct(
    target: Callable[..., Any], given: tuple[Any, ...], kwargs: Mapping[str, Any], where: str
) -> Any:
    """Call a constructor; what it raises becomes an error that names the component's place in the config.

    Raises:
        ConfigError: with the message, and the line of the project's own code that raised it.
        DataError: a file could not be read.
    """
    try:
        return target(*given, **kwargs)
    except UserError as error:
        raise type(error)(f"{where}: {error}") from error
    except (
        Exception,
        SystemExit,
    ) as error:  # any exception of a constructor comes from what the config gave it
        kind = DataError if isinstance(error, OSError) and "data_loader" in where else ConfigError
        raise kind(f"{where}: {told(error, anywhere=False)}") from error


def init_optimizer(
    config: Factory, model: "torch.nn.Module", *own: ModuleType
) -> "torch.optim.Optimizer":
    """The optimizer of the config over the trainable parameters of `model`, which it is given with their names.

    Args:
        own: modules of the project's that have optimizers, too; they come before torch's.

    Raises:
        ConfigError: there is nothing to train, or the optimizer cannot train this model.
    """
    import torch

    named = [
        (name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad
    ]
    where = f"{config.where('optimizer')}: optimizer"
    if not named:
        raise ConfigError(f"{where}: the model has no parameter to train (see arch.freeze)")
    if any(torch.nn.parameter.is_lazy(parameter) for _, parameter in named):
        raise ConfigError(
            f"{where}: the model's lazy modules have no weights yet: give it a batch in its constructor"
        )
    return config.init_obj("optimizer", (*own, torch.optim), named)


def init_scheduler(
    config: Factory, optimizer: "torch.optim.Optimizer", batches: int, *own: ModuleType
) -> Any:
    """The learning-rate scheduler of the config, or None.

    A OneCycleLR that says nothing of its length gets that of the run (`total_steps`).

    Args:
        batches: in one pass over the training data.
        own: modules of the project's that have schedulers, too; they come before torch's.

    Raises:
        ConfigError: its length or its mode contradicts the run's.
    """
    import torch

    schedulers = torch.optim.lr_scheduler
    modules = (*own, schedulers)
    component, settings = config.settings.lr_scheduler, config.settings.trainer
    if component is None or component.type is None:
        return None
    kind = component.type
    updates = -(-(settings.len_epoch or batches) // settings.accumulate)
    steps = (settings.epochs or 0) * (updates if component.interval == "step" else 1)
    where = f"{config.where('lr_scheduler')}: lr_scheduler"
    one_cycle = (
        find(modules, "lr_scheduler", kind, config.source, ("lr_scheduler",))
        is schedulers.OneCycleLR
    )
    open_ended = (
        one_cycle and not {"total_steps", "epochs", "steps_per_epoch"} & component.args.keys()
    )
    rate = config.where("optimizer", "args", "lr")
    if kind in ("OneCycleLR", "CyclicLR") and rate.startswith("command line ("):
        raise ConfigError(
            f"{rate}: the learning rate follows {kind}: set lr_scheduler.args.max_lr of a new run"
        )
    scheduler = config.init_obj(
        "lr_scheduler", modules, optimizer, **({"total_steps": steps} if open_ended else {})
    )
    if isinstance(scheduler, schedulers.ReduceLROnPlateau):
        _check_plateau(config, scheduler.mode, where)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    if not all(0 <= rate < math.inf for rate in rates):
        raise ConfigError(
            f"{where}: makes learning rates of {', '.join(f'{rate:.3g}' for rate in rates)}"
        )
    total = getattr(scheduler, "total_steps", steps)
    if total != steps:
        needed = f"but the run takes {steps} (one every {component.interval})"
        hint = 'leave total_steps, epochs and steps_per_epoch out, or set "interval"'
        raise ConfigError(f"{where}: {kind} is made for {total} steps, {needed}: {hint}")
    return scheduler


def _check_plateau(config: Factory, mode: str, where: str) -> None:
    monitor = config.settings.trainer.monitor
    if config["lr_scheduler"].get("interval", "epoch") != "epoch":
        raise ConfigError(f'{where}: ReduceLROnPlateau judges epochs: "interval": "epoch"')
    if monitor != "off" and not monitor.startswith(f"{mode} "):
        wanted = f'watches trainer.monitor "{monitor}": set its "mode" to "{monitor.split()[0]}"'
        raise ConfigError(f'{where}: ReduceLROnPlateau with mode "{mode}" {wanted}')
