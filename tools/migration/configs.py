"""What a project's configs would meet.

These are this template's own checks, and the names in them, looked up where the code says.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from machinery.config.arguments import Given, type_problem
from machinery.config.checking import Checked, check
from machinery.config.components import Component, bind
from machinery.config.source import Source, dotted as dotted_path
from machinery.config.values import KeyPath
from machinery.errors import ConfigError
from tools.migration.module import DIFFERENT, REFUSED, Finding, Module
from tools.migration.project import Found, Project
from tools.migration.syntax import dotted, is_open, nodes_in, text_of

#: Modules of torch whose names the template's own check looks up.
_TORCH = ("torch.optim", "torch.optim.lr_scheduler")
#: A class without a base, or with one of these alone, is no loader.
_PLAIN = {"object", "torch.utils.data.Dataset", "torch.utils.data.dataset.Dataset", "abc.ABC"}
#: The annotations that are understood.
_BUILTIN = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
#: A config has a trainer, and one of these.
_SECTIONS = {"arch", "data_loader", "optimizer", "loss"}
_INITS = ("init_obj", "init_ftn", "initialize")


class Lookup(NamedTuple):
    """Where the code looks the names of a section up, and what it gives what it finds there."""

    section: str
    #: "" where the code gives what cannot be counted.
    module: str
    positional: int = 0
    names: tuple[str, ...] = ()


class Item(NamedTuple):
    """What a section holds: a component, or the name of a class or function alone."""

    component: Component
    is_name: bool


def configs(project: Project) -> dict[str, Source]:
    """The configs among a project's JSON files; those that cannot be parsed are empty."""
    found = {}
    for path, text in project.texts.items():
        source = _config(path, text)
        if source is not None:
            found[path] = source
    return found


def _config(path: str, text: str) -> Source | None:
    """A JSON file as a config, if it is one."""
    try:
        source = Source.parse(text, path)
    except ConfigError:
        if '"trainer"' in text and ('"arch"' in text or '"data_loader"' in text):
            return Source({}, name=path)
        return None
    if "trainer" in source.values and _SECTIONS & set(source.values):
        return source
    return None


def in_configs(project: Project) -> Iterator[Finding]:
    """All findings in a project's configs."""
    lookups = _lookups(project)
    for path in configs(project):
        try:
            source = Source.parse(project.texts[path], path)
            base = source.values.pop("base", None)
            if base is not None:
                where = source.where(("base",))
                text = "base: here this key names a config to inherit from: give yours another name"
                yield Finding(REFUSED, where, text)
            checked = check(source, classic=True)
        except ConfigError as error:
            yield from _told(str(error), path)
            continue
        yield from _meanings(checked)
        for section, found in lookups.items():
            for item in _items(source, section):
                yield from _in_item(project, source, item, found)


def _meanings(checked: Checked) -> Iterator[Finding]:
    """What a config says otherwise than ours, and keys of its own that look like slips."""
    for note in checked.notes:
        place, _, text = note.partition(": ")
        yield Finding(DIFFERENT, place, text)
    for key in checked.own_keys:
        if key.near is not None and not key.beside:
            text = f"{dotted_path(key.path)}: only your code reads it, and {key.near} is not there"
            yield Finding(DIFFERENT, checked.source.where(key.path), text)


def _told(error: str, path: str) -> Iterator[Finding]:
    """The findings in the message of an error about a config, a line for each."""
    for line in error.split("\n  "):
        match = re.match(rf"({re.escape(path)}(?::\d+)*): (.*)", line, re.S)
        if match is None:
            yield Finding(REFUSED, path, line)
        else:
            yield Finding(REFUSED, match[1], match[2])


def _lookups(project: Project) -> dict[str, list[Lookup]]:
    """Where the project's code looks names up, by the sections that they are in."""
    found: dict[str, list[Lookup]] = {}
    for module in project.modules.values():
        for node in module.nodes(ast.Call, ast.ListComp):
            lookup = _lookup(project, module, node)
            if lookup is not None:
                found.setdefault(lookup.section, []).append(lookup)
    return found


def _lookup(project: Project, module: Module, node: ast.AST) -> Lookup | None:
    """Where some code looks a section's names up; None if it does not."""
    if isinstance(node, ast.ListComp) and isinstance(node.elt, ast.Call):
        return _by_list(project, module, node.elt, node.generators[0])
    if not isinstance(node, ast.Call) or len(node.args) < 2:
        return None
    if dotted(node.func) == "getattr":  # getattr(module, config["loss"])
        section = _section(node.args[1])
        if section:
            return Lookup(section, project.named(module, node.args[0]).name)
    if isinstance(node.func, ast.Attribute) and node.func.attr in _INITS:
        return _by_init(project, module, node)
    return None


def _by_list(
    project: Project, module: Module, call: ast.Call, loop: ast.comprehension
) -> Lookup | None:
    """The lookup of [getattr(module, name) for name in config["metrics"]]."""
    section = _section(loop.iter)
    if dotted(call.func) != "getattr" or len(call.args) < 2 or not section:
        return None
    if dotted(call.args[1]) != dotted(loop.target):
        return None
    return Lookup(section, project.named(module, call.args[0]).name)


def _by_init(project: Project, module: Module, call: ast.Call) -> Lookup | None:
    """The lookup of config.init_obj("arch", module, …)."""
    section = text_of(call.args[0])
    if not section:
        return None
    looked_up_in = ""
    if not is_open(call):
        looked_up_in = project.named(module, call.args[1]).name
    names = tuple(str(keyword.arg) for keyword in call.keywords)
    return Lookup(section, looked_up_in, len(call.args) - 2, names)


def _section(node: ast.AST) -> str:
    """The section of `config["loss"]`; nothing if it is no such code."""
    if isinstance(node, ast.Subscript) and dotted(node.value) in ("config", "self.config"):
        return text_of(node.slice)
    return ""


def _items(source: Source, section: str) -> Iterator[Item]:
    """What a section holds, one or several in a list."""
    value = source.values.get(section)
    by_path: dict[KeyPath, Any] = {(section,): value}
    if isinstance(value, list):
        by_path = {(section, number): inner for number, inner in enumerate(value)}
    for path, held in by_path.items():
        if isinstance(held, str):
            yield Item(Component(path, {"type": held}), is_name=True)
        elif isinstance(held, dict) and isinstance(held.get("type"), str):
            yield Item(Component(path, held), is_name=False)


def _in_item(
    project: Project, source: Source, item: Item, lookups: list[Lookup]
) -> Iterator[Finding]:
    """Findings in what a section holds.

    Args:
        lookups: of the section.
    """
    component = item.component
    if _is_handled(project, component.type):
        return
    modules = {lookup.module for lookup in lookups}
    if modules <= set(_TORCH) and isinstance(component.args, dict):
        yield from _in_torch(source, component, lookups[0])
        return
    if "." in component.type or not modules <= set(project.modules):
        return
    found = [project.find(f"{lookup.module}.{component.type}") for lookup in lookups]
    if all(target.kind == "missing" for target in found):
        files = " and ".join(sorted(module.replace(".", "/") + ".py" for module in modules))
        text = f"{dotted_path(component.path)}: {component.type!r} is not in {files}"
        yield Finding(REFUSED, source.where(component.path), text)
    elif len(lookups) == 1 and not item.is_name:
        yield from _fits(project, source, component, found[0], lookups[0].positional)


def _is_handled(project: Project, name: str) -> bool:
    """Whether the code asks for a type by its name, as `== "CustomLR"`, and makes it itself."""
    for module in project.modules.values():
        for node in module.nodes(ast.Compare):
            if any(text_of(side) == name for side in ast.iter_child_nodes(node)):
                return True
    return False


def _in_torch(source: Source, component: Component, lookup: Lookup) -> Iterator[Finding]:
    """By the template's own check, with the torch that is installed."""
    try:
        module = importlib.import_module(lookup.module)
        bind(source, component, (module,), Given(lookup.positional, lookup.names))
    except ConfigError as error:
        message, _, _ = str(error).partition("\n  there are: ")
        yield from _told(message, source.name)


def _fits(
    project: Project, source: Source, component: Component, found: Found, positional: int
) -> Iterator[Finding]:
    """Whether the project's class is of its section's kind, and takes the types of the values.

    Args:
        found: the class, or a function.
        positional: how many arguments the code gives it first.
    """
    section = str(component.path[0])
    if found.module is None or not isinstance(component.args, dict):
        return
    if _is_loader(section) and _is_no_loader(project, found):
        text = f"{section}: {component.type} is refused, because it is no DataLoader"
        yield Finding(REFUSED, source.where(component.path), text)
        return
    for argument in _arguments(found, positional):
        annotation = dotted(argument.annotation)
        is_known = annotation in _BUILTIN and annotation not in found.module.names
        if not is_known or argument.arg not in component.args:
            continue
        value = component.args[argument.arg]
        problem = type_problem(component.type, argument.arg, _BUILTIN[annotation], value)
        if problem is not None:
            where = source.where((*component.path, "args", argument.arg))
            yield Finding(REFUSED, where, f"{section}.args.{argument.arg}: {problem}")


def _is_loader(section: str) -> bool:
    """Whether a section is one of a data loader."""
    if section in ("valid_data_loader", "test_data_loader"):
        return True
    return section.startswith("data_loader")


def _is_no_loader(project: Project, found: Found) -> bool:
    """Whether a class is certainly none that derives from torch's DataLoader."""
    cls = found.node
    if found.module is None or not isinstance(cls, ast.ClassDef) or cls.decorator_list:
        return False
    return project.origins(found.module, cls) <= _PLAIN


def _arguments(found: Found, positional: int) -> list[ast.arg]:
    """The arguments of a class or function that a config may give, if their types can be read."""
    maker = found.node
    skipped = positional
    if isinstance(maker, ast.ClassDef):
        maker = _constructor(maker)
        skipped += 1  # self
    if not isinstance(maker, ast.FunctionDef) or maker.decorator_list:
        return []
    by_position = [*maker.args.posonlyargs, *maker.args.args]
    arguments = [*by_position[skipped:], *maker.args.kwonlyargs]
    if found.module is None or "annotations" in found.module.aliases:
        return []  # all annotations are texts, which may mean nothing
    for argument in arguments:
        if argument.annotation is not None and _has_text(argument.annotation):
            return []
    return arguments


def _constructor(cls: ast.ClassDef) -> ast.FunctionDef | None:
    """The method that takes the arguments; None if there is none, or a decorator may take them."""
    if cls.decorator_list:
        return None
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return node
    return None


def _has_text(annotation: ast.expr) -> bool:
    """Whether some of an annotation is a text."""
    return any(isinstance(node.value, str) for node in nodes_in(annotation, ast.Constant))
