"""From the names in a config to objects."""

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING, Any

from utils.errors import ConfigError

if TYPE_CHECKING:
    from config.source import KeyPath, Source


class Factory:
    """Builds the components of a checked config; what it imports to do so, such as torch, waits until then.

    Args:
        source: the values as they were given, which knows their places.
        values: the same with defaults filled in.
    """

    def __init__(self, source: "Source", values: dict[str, Any]) -> None:
        self._source = source
        self._config = values

    def init_obj(self, name: str, module: ModuleType, *args: Any, **kwargs: Any) -> Any:
        """Build the component `name` of the config with the class or function that its type names in `module`.

        `config.init_obj("optimizer", torch.optim, parameters)` is `torch.optim.Adam(parameters, lr=0.001)` where the
        config says {"type": "Adam", "args": {"lr": 0.001}}. A component that is null or missing gives None.

        Raises:
            ConfigError: the type or an argument does not exist, or the constructor raises.
        """
        component = self._component(name)
        if component is None:
            return None
        from config import components

        given = {**kwargs, **dict(zip(components.GIVEN.get(name, ()), args, strict=False))}
        built = self._build(component, (name,), module, args[len(given) - len(kwargs) :], given)
        if name == "arch" and component.get("freeze"):
            from config.optimization import freeze

            freeze(built, component["freeze"], f"{self.where('arch', 'freeze')}: arch.freeze")
        return built

    def _build(
        self,
        component: dict[str, Any],
        path: "KeyPath",
        module: ModuleType,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        from config import components
        from utils import seeding

        target = self._checked(component, path, module, args, kwargs)
        own = dict(component.get("args", {}))
        for key, inner in components.nested(component, path):
            own[key] = [
                self._build(item, (*path, "args", key, i), module, args, kwargs) for i, item in enumerate(inner)
            ]
        # Randomness in a constructor depends on the component alone, not on what was built before.
        seeding.set_root_seed(self["seed"])
        seeding.seed_everything(self["seed"], "init", *([] if path == ("arch",) else path))
        typed = {o for p, o in self._source.origins.items() if p[: len(path)] == path and o.startswith("command line")}
        with_ = f", {', '.join(sorted(typed))}" if typed else ""
        place = f"{self.where(*path)}: {'.'.join(map(str, path))} ({component['type']}){with_}"
        return components.build(target, args, {**own, **kwargs}, place)

    def check(self, **modules: ModuleType) -> None:
        """Check the names and arguments of all components at once, before any of them is built.

        Args:
            modules: for each section of the config (`arch=model.model`, …), where its names are looked up.

        Raises:
            ConfigError: with all problems.
        """
        from config import components

        problems: list[str] = []
        for name, module in modules.items():
            listed = name == "metrics"
            for i, value in enumerate(self[name] if listed else [self._config.get(name)]):
                if value is not None:
                    component = {"type": value} if isinstance(value, str) else value
                    path: KeyPath = (name, i) if listed else (name,)
                    given, later = components.GIVEN.get(name, ()), name in components.CALLED_LATER
                    problems += components.problems(component, path, module, (), given, self._source, later)[1]
        if problems:
            raise ConfigError("\n  ".join(problems))

    def where(self, *path: str | int) -> str:
        """The place in the config of the value at a path, such as "config.json:12:5"."""
        return self._source.where(path)

    def init_variant(self, name: str, module: ModuleType, **changes: Any) -> Any:
        """`init_obj` with other values for some of the component's arguments.

        Raises:
            ConfigError: the constructor has no such argument.
        """
        component = self._component(name)
        if component is None:
            return None
        from config import components

        target = components.find(module, name, component["type"], self._source, (name,))
        lacking = [key for key in changes if key not in components.accepted(target)[0]]
        if lacking:
            raise ConfigError(
                f"{name}: {component['type']} has no argument {lacking[0]!r}: configure a loader of its own"
            )
        variant = {**self._config, name: {**component, "args": {**component.get("args", {}), **changes}}}
        self._config, before = variant, self._config
        try:
            return self.init_obj(name, module)
        finally:
            self._config = before

    def init_ftn(self, name: str, module: ModuleType, *args: Any, **kwargs: Any) -> Any:
        """The function that the component `name` names, with its arguments set; an instance if it is a class."""
        from config import components

        component = self._component(name)
        if component is None:
            return None
        target = self._checked(component, (name,), module, args, kwargs, called_later=True)
        given = {**component.get("args", {}), **kwargs}
        function = partial(target, *args) if args else target
        return components.named(function, given, component.get("name") or component["type"])

    def init_ftns(self, name: str, module: ModuleType) -> list[Any]:
        """`init_ftn` for each component of a list, such as the metrics.

        Raises:
            ConfigError: two have the same name.
        """
        from config import components

        functions: dict[str, Any] = {}
        for i, item in enumerate(self[name]):
            component: dict[str, Any] = {"type": item} if isinstance(item, str) else item
            target = self._checked(component, (name, i), module, (), {}, called_later=True)
            label = component.get("name") or component["type"]
            if label in functions:
                where = self._source.where((name, i))
                raise ConfigError(f"{where}: {name}.{i}: there are two {label!r}: give one a name of its own")
            functions[label] = components.named(target, component.get("args", {}), label)
        return list(functions.values())

    def _component(self, name: str) -> dict[str, Any] | None:
        component = self._config.get(name)
        if component is None:
            return None
        if isinstance(component, str):
            return {"type": component}
        if not isinstance(component, dict) or not isinstance(component.get("type"), str):
            raise ConfigError(f'{self._source.where((name,))}: {name} is no component {{"type": NAME, "args": {{…}}}}')
        return component

    def _checked(
        self,
        component: dict[str, Any],
        path: "KeyPath",
        module: ModuleType,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        called_later: bool = False,
    ) -> Callable[..., Any]:
        from config import components

        target, problems = components.problems(component, path, module, args, kwargs, self._source, called_later)
        if problems:
            raise ConfigError("\n  ".join(problems))
        return target

    def __getitem__(self, name: str) -> Any:
        return self._config[name]

    def __contains__(self, name: str) -> bool:
        return name in self._config
