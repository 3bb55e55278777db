"""Components inside the arguments of a loader: datasets, transforms, collate functions, samplers.

They stand where the config has `{"type": NAME, "args": {…}}` in place of an object, are checked
with the loader, and built with it.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from inspect import Parameter
from typing import TYPE_CHECKING, Any, get_args

from machinery.config import components, installed
from machinery.config.arguments import (
    Given,
    accepted,
    argument_problems,
    member_called,
    type_problem,
)
from machinery.config.components import OWN, Component, Modules, kind_of
from machinery.config.kinds import PARTS, holds_parts
from machinery.config.source import Source, dotted
from machinery.config.values import KeyPath
from machinery.errors import ConfigError, DataError
from machinery.files import project_path

if TYPE_CHECKING:
    from machinery.order.split import DatasetMaker

#: The arguments of a dataset, and those that replace them where it is evaluated, or tested.
SECTIONS = ("args", "evaluation_args", "test_args")
#: What samplers call the dataset that they get.
_DATA = ("data_source", "dataset")
_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
#: Calls a constructor: (target, given, arguments, what the errors of it begin with).
Construct = Callable[[Any, tuple[Any, ...], Mapping[str, Any], str], Any]


def is_component(value: Any) -> bool:
    """Whether a value of a config has the form of a component, with no other keys."""
    if not isinstance(value, dict) or not isinstance(value.get("type"), str):
        return False
    return all(key in ("type", *SECTIONS) for key in value)


def bind(
    source: Source,
    component: Component,
    modules: Modules,
    given: Given,
    required: type | None = None,
) -> Any:
    """What a component names, as `components.bind`; in a loader's arguments others are named.

    Raises:
        ConfigError: with a line for each problem of it, and of those.
    """
    if not holds_parts(component.path):
        return components.bind(source, component, modules, given, required)
    target = components.find(modules, component.type, source, component.path, required)
    parts = parts_of(component, target)
    problems = _Check(source, modules).of_loader(component, target, parts)
    for path, key in _misplaced(component.args, (*component.path, "args")):
        where = f"{source.where((*path, key))}: {dotted((*path, key))}"
        problems.append(f"{where} is unknown: did you mean {dotted((*path, 'args', key))}?")
    try:
        given = given._replace(objects=tuple(parts))
        components.bind(source, component, modules, given, required)
    except ConfigError as error:
        problems.insert(0, str(error))
    if problems:
        raise ConfigError("\n  ".join(problems))
    return target


def parts_of(component: Component, target: Any) -> list[str]:
    """The arguments of a loader in which something is named.

    A project's own loader may read objects of a config itself: one that says by no annotation that
    it takes something else gets them as they are.
    """
    types = accepted(target).types
    own = inspect.signature(target).parameters
    parts = []
    for key, value in component.args.items():
        if not any(_found(value, (key,), _is_of_functions(key, types))):
            continue
        passed_on = key in PARTS and key not in own
        if passed_on or type_problem("", key, types.get(key, Any), value) is not None:
            parts.append(key)
    return parts


def _found(value: Any, path: KeyPath, named: bool) -> Iterator[Component]:
    """The components in a value of a config.

    Args:
        named: a text is the name of one.
    """
    if is_component(value):
        yield Component(path, value)
    elif named and isinstance(value, str):
        yield Component(path, {"type": value})
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _found(item, (*path, index), named)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _found(item, (*path, key), False)


def _misplaced(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """The keys that stand beside the name of a part of an installed package, as its arguments."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _misplaced(item, (*path, index))
    if not isinstance(value, dict):
        return
    name = value.get("type")
    is_part = isinstance(name, str) and installed.is_installed(name, OWN)
    for key, item in value.items():
        if is_part and key not in ("type", *SECTIONS):
            yield path, key
        yield from _misplaced(item, (*path, key))


def found_anywhere(value: Any, path: KeyPath) -> Iterator[Component]:
    """All that may be a component in the arguments of a loader, whatever takes it."""
    names = [key for key in path if isinstance(key, str)]
    for part in _found(value, path, names[-1] == "collate_fn" or names[-1].endswith("transform")):
        yield part
        for section in SECTIONS:
            yield from found_anywhere(part.values.get(section), (*part.path, section))
    if isinstance(value, dict) and not is_component(value):
        for key, item in value.items():
            if isinstance(item, str):  # a name
                yield from found_anywhere(item, (*path, key))


def _is_of_functions(key: str, types: Mapping[str, Any]) -> bool:
    """Whether a text that an argument is given is the name of a function."""
    if key != "collate_fn" and not key.endswith("transform"):
        return False
    annotation = str(types.get(key))
    return "Callable" in annotation or "Module" in annotation


def _takes_maker(key: str, types: Mapping[str, Any]) -> bool:
    """Whether an argument of a loader takes what makes a dataset."""
    from machinery.order.split import DatasetMaker

    annotation = types.get(key)
    return DatasetMaker in (annotation, *get_args(annotation))


def _missing(target: Any, given: Iterable[str]) -> list[str]:
    """The arguments that a target still needs."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature
        return []
    missing = []
    for each in parameters:
        named = each.kind in (*_BY_POSITION, Parameter.KEYWORD_ONLY)
        if named and each.default is Parameter.empty and each.name not in given:
            missing.append(each.name)
    return missing


class _Check:
    """Finds what is wrong with the components in a loader's arguments, before any is built.

    Args:
        source: of the config.
        modules: where names are looked up.
    """

    def __init__(self, source: Source, modules: Modules) -> None:
        self._source = source
        self._modules = modules

    def _line(self, path: KeyPath, what: str) -> str:
        return f"{self._source.where(path)}: {dotted(path)}{what}"

    def of_loader(self, loader: Component, target: Any, parts: list[str]) -> list[str]:
        """A line for each problem of what is named in the arguments."""
        types = accepted(target).types
        lines = []
        for key in parts:
            path = (*loader.path, "args", key)
            by_loader: tuple[str, ...] = ()
            if key.endswith("sampler") and "dataset" in parts:
                by_loader = _DATA
            for part in _found(loader.args[key], path, _is_of_functions(key, types)):
                lines += self._of(part, by_loader, _takes_maker(key, types))
        return lines

    def _of(self, part: Component, by_loader: tuple[str, ...], several: bool) -> list[str]:
        """A line for each problem of a component, and of those inside it.

        Args:
            by_loader: the arguments that the loader gives it, if it needs them.
            several: it may have arguments for evaluation.
        """
        try:
            target = components.find(self._modules, part.type, self._source, part.path)
        except ConfigError as error:
            return [str(error)]
        lines = []
        for section in SECTIONS:
            if section not in part.values:
                continue
            path = (*part.path, section)
            if not isinstance(part.values[section], dict):
                lines.append(self._line(path, ": expected an object in braces"))
            elif section != "args" and not several:
                lines.append(self._line(path, " is for the dataset of a DatasetLoader alone"))
            else:
                lines += self._of_section(target, part.values[section], path)
        if not lines:
            lines = self._needed(target, part, by_loader)
        return lines

    def _of_section(self, target: Any, args: Mapping[str, Any], path: KeyPath) -> list[str]:
        """A line for each argument that a target does not take, and for those inside them."""
        if not inspect.isclass(target) and not inspect.isfunction(target):
            if args:
                return [self._line(path, ": an object takes no arguments: leave them out")]
            return []
        types = accepted(target).types
        objects = []
        lines = []
        for key, value in args.items():
            inner = list(_found(value, (*path, key), _is_of_functions(key, types)))
            if not inner:
                continue
            objects.append(key)
            if (
                isinstance(value, list)
                and str(types.get(key)).count("Callable")
                and _one(types[key])
            ):
                hint = "torchvision.transforms.v2.Compose makes one of several"
                lines.append(self._line((*path, key), f": expected one, found a list: {hint}"))
            for part in inner:
                lines += self._of(part, (), False)
        elsewhere = tuple(_missing(target, args))  # see `_needed`
        given = Given(objects=tuple(objects), elsewhere=elsewhere)
        return lines + argument_problems(self._source, target, args, path, given)

    def _needed(self, target: Any, part: Component, by_loader: tuple[str, ...]) -> list[str]:
        """A line for each argument that a component needs and nobody gives."""
        if not inspect.isclass(target) and not inspect.isfunction(target):
            return []
        missing = _missing(target, part.values.get("args", {}))
        path = (*part.path, "args")
        name = target.__name__
        kind = kind_of(part.path)
        if kind.called_later and not inspect.isclass(target):
            # Else it may be anything that a file of the project has, and is called right here.
            if not missing and not installed.makes_callable(target):
                what = f"takes no more arguments, and is not annotated to make a {kind.words}"
                return [self._line(part.path, f": {name} {what}")]
            missing = missing[1:]  # what it is called with
        return [
            self._line(path, f": {name} needs {key!r}") for key in missing if key not in by_loader
        ]


def _one(annotation: Any) -> bool:
    """Whether an argument takes a single function."""
    return "Sequence" not in str(annotation) and "list" not in str(annotation)


class Builder:
    """Builds what is named in the arguments of a loader.

    Args:
        source: of the config.
        modules: where names are looked up.
        construct: calls a constructor.
    """

    def __init__(self, source: Source, modules: Modules, construct: Construct) -> None:
        self._source = source
        self._modules = modules
        self._construct = construct
        # The dataset of the loader, for its samplers.
        self._data: Any = None

    def arguments(self, loader: Component, target: Any, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a loader, with the objects that are named in them.

        Args:
            loader: in the config.
            target: its class, or the function that makes it.
            given: the arguments, with the values of the environment in them.
        """
        types = accepted(target).types
        made = dict(given)
        parts = parts_of(loader, target)
        for key in sorted(parts, key=lambda key: key != "dataset"):  # a sampler needs it
            path = (*loader.path, "args", key)
            if key.endswith("sampler") and given.get("training") is False:
                del made[key]  # the test data are read as they are
            elif _takes_maker(key, types) and is_component(given[key]):
                made[key] = self._maker(Component(path, given[key]))
            else:
                made[key] = self._value(given[key], path, _is_of_functions(key, types))
            if key == "dataset":
                self._data = made[key]
        return made

    def _maker(self, part: Component) -> "DatasetMaker":
        """What makes the dataset that a component describes."""
        from machinery.order.split import DatasetMaker

        sections = [section for section in SECTIONS if section in part.values]
        origin = self._source.where(part.path)
        return DatasetMaker(partial(self._object, part), sections, dotted(part.path), origin)

    def _value(self, value: Any, path: KeyPath, named: bool) -> Any:
        """A value of a config, with objects in place of the components in it.

        Args:
            named: a text is the name of one.
        """
        if is_component(value):
            return self._object(Component(path, value))
        if named and isinstance(value, str):
            return self._object(Component(path, {"type": value}))
        if isinstance(value, list):
            return [self._value(item, (*path, i), named) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {key: self._value(item, (*path, key), False) for key, item in value.items()}
        return value

    def _object(self, part: Component, sections: tuple[str, ...] = ("args",)) -> Any:
        """What a component describes, with the arguments of some of its sections."""
        target = components.find(self._modules, part.type, self._source, part.path)
        is_class = inspect.isclass(target)
        if not is_class and not inspect.isfunction(target):
            return target
        arguments = self._own_arguments(part, target, sections)
        kind = kind_of(part.path)
        missing = _missing(target, arguments)
        for name in missing:
            if kind.words == "sampler" and name in _DATA and self._data is not None:
                arguments[name] = self._read_data()
        if kind.called_later and not is_class and missing:
            return partial(target, **arguments)
        where = f"{self._source.where(part.path)}: {dotted(part.path)} ({part.type})"
        try:
            made = self._construct(target, (), arguments, where)
        except ConfigError as error:
            if "download" in accepted(target).types and "download=True" in str(error.__cause__):
                hint = f"--set {dotted(part.path)}.args.download=true fetches it"
                raise DataError(f"{where}: it is not there, or not whole: {hint}") from error
            raise
        if not any(hasattr(made, method) for method in (*kind.methods, "__iter__")):
            raise ConfigError(f"{where}: made a {type(made).__name__}, which is no {kind.words}")
        return made

    def _read_data(self) -> Any:
        """The dataset of the loader."""
        if hasattr(self._data, "made"):
            return self._data.made()
        return self._data

    def _own_arguments(
        self, part: Component, target: Any, sections: tuple[str, ...]
    ) -> dict[str, Any]:
        """The arguments of a component, with objects, members of enums and paths in them."""
        types = accepted(target).types
        arguments = {}
        for section in sections:
            for key, value in part.values.get(section, {}).items():
                named = _is_of_functions(key, types)
                value = self._value(value, (*part.path, section, key), named)
                value = member_called(types.get(key), value)
                is_path = key in installed.PATHS and isinstance(value, str)
                if is_path and installed.is_installed(part.type, OWN):
                    value = str(project_path(value))
                arguments[key] = value
        return arguments
