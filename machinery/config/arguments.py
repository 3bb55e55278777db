"""Compares what a config gives a class or function with its signature, before anything is built."""

import ast
import collections.abc
import enum
import inspect
import json
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping
from inspect import Parameter
from types import SimpleNamespace
from typing import Any, NamedTuple, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from machinery import secrets
from machinery.config.source import Source, dotted
from machinery.config.values import KeyPath, in_words, nearest

_BY_POSITION = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_FUNCTIONAL = "torch.nn.functional"
#: Functions there whose classes have another name.
_ABBREVIATED = {
    "binary_cross_entropy": "bce",
    "binary_cross_entropy_with_logits": "bce_with_logits",
}
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


class Given(NamedTuple):
    """What the program gives a component: so many arguments by position, and these by name."""

    positional: int = 0
    names: tuple[str, ...] = ()
    #: More may come with a call.
    later: bool = False
    #: These are given if the config lacks them.
    filled: tuple[str, ...] = ()
    #: Arguments of the config that objects are made of, whose types nobody knows yet.
    objects: tuple[str, ...] = ()
    #: Arguments that the config gives in another place.
    elsewhere: tuple[str, ...] = ()


class Accepted(NamedTuple):
    """The arguments that a class or function takes."""

    #: The annotation of each, by its name.
    types: dict[str, Any]
    #: Whether it takes any others, too.
    open_ended: bool


def accepted(target: Callable[..., Any]) -> Accepted:
    """The arguments that a class or function takes, by name.

    A class that passes `**options` on to its base takes the base's as well; one that passes them to
    something else may take any.
    """
    types: dict[str, Any] = {}
    takes_any = False
    for maker in _makers(target):
        parameters = inspect.signature(maker).parameters.values()
        annotations = _annotations(maker)
        open_ended = False
        for parameter in parameters:
            if parameter.kind is Parameter.VAR_KEYWORD:
                open_ended = True
                use = _use_of(maker, parameter.name)
                types.update(dict.fromkeys(use.read - types.keys(), Any))
                takes_any = takes_any or use.elsewhere
            if parameter.kind not in _BY_NAME:
                continue
            is_instance = parameter.name == "self" and maker is not target
            if not is_instance:
                types.setdefault(parameter.name, annotations.get(parameter.name, Any))
        if not open_ended:
            return Accepted(types, takes_any)
    return Accepted(types, True)


class _Options(NamedTuple):
    """What a constructor does with its `**options`."""

    #: The names that it takes out of them.
    read: set[str]
    #: Whether it passes them on, but not to its base's constructor.
    elsewhere: bool


def _use_of(maker: Any, options: str) -> _Options:
    """What a constructor does with its `**options`."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(maker)))
    except (OSError, TypeError, SyntaxError):  # there is no source: most only pass them on
        return _Options(set(), False)
    read: set[str] = set()
    elsewhere = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", "")
            for keyword in node.keywords:
                unpacked = keyword.arg is None and getattr(keyword.value, "id", "") == options
                elsewhere = elsewhere or (unpacked and name != "__init__")
            owner = getattr(node.func, "value", None)
            if getattr(owner, "id", "") == options and name in ("get", "pop", "setdefault"):
                read.update(_texts(node.args[:1]))
        elif isinstance(node, ast.Subscript) and getattr(node.value, "id", "") == options:
            read.update(_texts([node.slice]))
    return _Options(read, elsewhere)


def _texts(nodes: list[ast.expr]) -> Iterator[str]:
    """The texts among some expressions."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _makers(target: Callable[..., Any]) -> list[Callable[..., Any]]:
    """What takes the arguments: the constructors of a class and of its bases, or the function."""
    if not inspect.isclass(target):
        return [target]
    makers = []
    for each in target.__mro__:
        if "__init__" in vars(each):
            makers.append(vars(each)["__init__"])
    return makers


def _annotations(maker: Callable[..., Any]) -> dict[str, Any]:
    """The annotations that a function has, by argument."""
    # Some of torch's names are imported for type checkers alone.
    names = {**vars(typing), **vars(collections.abc)}
    found = {}
    for name, annotation in getattr(maker, "__annotations__", {}).items():
        one = SimpleNamespace(__annotations__={name: annotation})
        try:
            found.update(get_type_hints(one, getattr(maker, "__globals__", {}), names))
        except Exception:  # one that cannot be evaluated here says nothing
            continue
    return found


def argument_problems(
    source: Source, target: Any, args: Mapping[str, Any], path: KeyPath, given: Given
) -> list[str]:
    """A line for each argument that is unknown, doubled, missing or of the wrong type.

    Args:
        source: of the config.
        target: what is called.
        args, path: what the config gives it, and where.
        given: what the program gives it.
    """
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):  # a builtin without a signature says no itself
        return []
    call = _Call(target, parameters, given)
    problems = []
    for key, value in args.items():
        problem = call.problem(key, value)
        if problem is not None:
            here = (*path, key)
            problems.append(f"{source.where(here)}: {dotted(here)}: {problem}")
    for name in call.required():
        if name not in args and name not in given.elsewhere:
            problems.append(f"{source.where(path)}: {dotted(path)}: {call.name} needs {name!r}")
    return problems


class _Call:
    """A call that a config prepares.

    Args:
        target, parameters: what is called, and those of its signature.
        given: what the program gives it.
    """

    def __init__(self, target: Any, parameters: list[Parameter], given: Given) -> None:
        self.name = getattr(target, "__name__", type(target).__name__)
        self._module = getattr(target, "__module__", "")
        self._accepted = accepted(target)
        self._is_class = inspect.isclass(target)
        self._later = given.later
        self._objects = given.objects
        positional = [p.name for p in parameters if p.kind in _BY_POSITION]
        self._by_program = {*positional[: given.positional], *given.names}
        self._filled = given.filled
        #: Those that have a name and no default.
        self._needed: list[Parameter] = []
        for parameter in parameters:
            if parameter.kind in _BY_NAME and parameter.default is Parameter.empty:
                self._needed.append(parameter)

    def problem(self, key: str, value: Any) -> str | None:
        """What is wrong with an argument that the config gives."""
        if key in self._by_program:
            return f"the program gives {self.name} its {key}: leave it out"
        types = self._accepted.types
        if key in types:
            if key in self._objects:
                return None
            makes_tensor = takes_tensor(types[key]) and is_numbers(value)
            if self._is_class and makes_tensor:
                return None
            problem = type_problem(self.name, key, types[key], value)
            if problem is not None and makes_tensor:
                problem += self._class_that_does(key)
            return problem
        near = nearest(key, types)
        if near is not None:
            return self._unknown(key, f": did you mean {near!r}?")
        if not self._accepted.open_ended:
            return self._unknown(key, "")
        return None

    def _class_that_does(self, key: str) -> str:
        """For a function of torch's, the class that takes a list of numbers where it does not."""
        if self._module != _FUNCTIONAL:
            return ""
        name = _ABBREVIATED.get(self.name, self.name).replace("_", "").removesuffix("loss")
        from torch import nn

        for each, value in vars(nn).items():
            if each.lower() == f"{name}loss" and key in accepted(value).types:
                return f": torch.nn.{each} takes one"
        return ""

    def _unknown(self, key: str, hint: str) -> str:
        """That there is no such argument, and which the config may give."""
        hidden = set(self._by_program)
        if self._later:
            hidden.update(parameter.name for parameter in self._needed)
        takes = [name for name in self._accepted.types if name not in hidden]
        shown = ", ".join(takes) or "no arguments"
        return f"{self.name} has no argument {key!r}{hint} (it takes {shown})"

    def required(self) -> list[str]:
        """The arguments that the config must give."""
        names = []
        for parameter in self._needed:
            comes_later = self._later and parameter.kind is not Parameter.KEYWORD_ONLY
            known = parameter.name in self._by_program or parameter.name in self._filled
            if not known and not comes_later:
                names.append(parameter.name)
        return names


def type_problem(name: str, key: str, annotation: Any, value: Any) -> str | None:
    """What is wrong with the type of an argument, by its annotation; lists serve as tuples.

    Args:
        name: of what takes it.
        key, annotation: its name, and its type.
        value: what it gets.
    """
    if isinstance(value, str) and value in _enum_names(annotation):
        return None
    if _takes(annotation, "dtype") and dtype_called(value) is not None:
        return None
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except Exception:  # an annotation that pydantic does not know
        return None
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        wanted = _as_written(annotation)
        hint = ""
        if "Callable" in wanted:
            hint = ": a function cannot come from a config"
        found = in_words(secrets.masked(value, key))
        if isinstance(value, list):
            found += f" of {len(value)}"
        return f"{name} takes {key} as {wanted}, found {found}{hint}"
    except (TypeError, ValueError):  # a value that JSON cannot hold, from a program
        return None
    return None


def _enum_names(annotation: Any) -> set[str]:
    """The names of an enum's members, also of an optional one, such as torchvision's weights."""
    names: set[str] = set()
    for each in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(each) and issubclass(each, enum.Enum):
            names.update(each.__members__)
    return names


def takes_tensor(annotation: Any) -> bool:
    """Whether an argument may be a tensor."""
    return _takes(annotation, "Tensor")


def _takes(annotation: Any, name: str) -> bool:
    """Whether an argument may be of a class of torch's."""
    for each in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(each) and (each.__module__, each.__name__) == ("torch", name):
            return True
    return False


def dtype_called(value: Any) -> Any:
    """Torch's dtype of a name such as "float32" or "torch.float32"; None if there is none."""
    import torch

    found = None
    if isinstance(value, str):
        found = getattr(torch, value.removeprefix("torch."), None)
    if isinstance(found, torch.dtype):
        return found
    return None


def member_called(annotation: Any, value: Any) -> Any:
    """The member of an enum that a text names, by its name or value; else the text."""
    for each in (annotation, *typing.get_args(annotation)):
        if not (isinstance(value, str) and inspect.isclass(each) and issubclass(each, enum.Enum)):
            continue
        for member in each:
            if value in (member.name, member.value):
                return member
    return value


def is_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, or of such lists."""
    if not isinstance(value, list) or not value:
        return False
    for each in value:
        is_number = isinstance(each, int | float) and not isinstance(each, bool)
        if not is_number and not is_numbers(each):
            return False
    return True


def with_tensors(target: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a class, with the tensors and dtypes that lists of numbers and names mean.

    Raises:
        ValueError: the lists in a list have several lengths.
    """
    made = dict(arguments)
    if not inspect.isclass(target):
        return made
    types = accepted(target).types
    for name, value in arguments.items():
        if takes_tensor(types.get(name)) and is_numbers(value):
            import torch

            made[name] = torch.tensor(value, dtype=torch.get_default_dtype())
        elif _takes(types.get(name), "dtype") and dtype_called(value) is not None:
            made[name] = dtype_called(value)
    return made


def _as_written(annotation: Any) -> str:
    """A type as a person writes it."""
    name = str(annotation)
    if inspect.isclass(annotation):
        name = annotation.__name__
    return re.sub(r"\b(typing|collections\.abc|torch)\.", "", name)
