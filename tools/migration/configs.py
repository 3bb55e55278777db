"""What a project's configs would meet: this template's own checks, and their names, looked up where the code says."""

import ast
import builtins
import importlib
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from machinery.config.arguments import Given, type_problem
from machinery.config.checking import check
from machinery.config.components import Component, bind
from machinery.config.source import Source
from machinery.errors import ConfigError
from tools.migration.findings import Finding
from tools.migration.project import Found, Module, Project, dotted

#: Modules of torch whose names the template's own check looks up.
_TORCH = ("torch.optim", "torch.optim.lr_scheduler")
#: What a class without a base, or with one of these alone, is not.
_PLAIN = {"object", "torch.utils.data.Dataset", "torch.utils.data.dataset.Dataset", "abc.ABC"}
_BUILTIN = ("int", "float", "str", "bool", "list", "dict")


class Lookup(NamedTuple):
    """Where the code looks the names of a section up: a module, and what it gives what it finds there."""

    module: str
    positional: int
    names: tuple[str, ...]


def configs(project: Project) -> dict[str, Source]:
    """The configs among a project's JSON files, as they are; those that cannot be parsed are empty."""
    found = {}
    for path, text in project.texts.items():
        try:
            source = Source.parse(text, path)
        except ConfigError:
            source = Source({}, name=path)
            if not ('"trainer"' in text and ('"arch"' in text or '"data_loader"' in text)):
                continue
        else:
            if "trainer" not in source.values or not source.values.keys() & {
                "arch",
                "data_loader",
                "optimizer",
                "loss",
            }:
                continue
        found[path] = source
    return found


def in_configs(project: Project) -> Iterator[Finding]:
    """All findings in a project's configs."""
    lookups: dict[str, list[Lookup]] = {}
    for module in project.modules.values():
        for node in module.nodes(ast.Call, ast.ListComp):
            section, lookup = _lookup(project, module, node)
            if section:
                lookups.setdefault(section, []).append(lookup)
    for path in configs(project):
        try:
            source = Source.parse(project.texts[path], path)
            base = source.values.pop("base", None)
            if base is not None:
                text = "base: here this key names a config to inherit from: give yours another name"
                yield Finding(0, source.where(("base",)), text)
            check(source)
        except ConfigError as error:
            yield from _told(error, path)
            continue
        for section, found in lookups.items():
            yield from _in_section(project, source, section, found)


def _told(error: ConfigError, path: str) -> Iterator[Finding]:
    for line in str(error).split("\n  "):
        match = re.match(rf"({re.escape(path)}(?::\d+)*): (.*)", line, re.S)
        yield Finding(0, match[1] if match else path, match[2] if match else line)


def _lookup(project: Project, module: Module, node: ast.AST) -> tuple[str, Lookup]:
    """The section whose names a call looks up, and where; "" if it is no such call."""
    nothing = "", Lookup("", 0, ())
    if isinstance(node, ast.ListComp) and isinstance(
        node.elt, ast.Call
    ):  # [getattr(module, m) for m in config["metrics"]]
        call, section = node.elt, _section(node.generators[0].iter)
        same = call.args[1:] and dotted(call.args[1]) == dotted(node.generators[0].target)
        if not (dotted(call.func) == "getattr" and section and same):
            return nothing
        return section, Lookup(project.named(module, call.args[0]).name, 0, ())
    if not isinstance(node, ast.Call) or len(node.args) < 2:
        return nothing
    first, second = node.args[:2]
    if dotted(node.func) == "getattr" and _section(second):
        return _section(second), Lookup(project.named(module, first).name, 0, ())
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("init_obj", "init_ftn", "initialize"):
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            starred = any(isinstance(argument, ast.Starred) for argument in node.args)
            known = not starred and all(keyword.arg for keyword in node.keywords)
            given = len(node.args) - 2, tuple(str(keyword.arg) for keyword in node.keywords)
            return first.value, Lookup(project.named(module, second).name if known else "", *given)
    return nothing


def _section(node: ast.AST) -> str:
    """The section of `config["loss"]`."""
    if isinstance(node, ast.Subscript) and dotted(node.value) in ("config", "self.config"):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            return node.slice.value
    return ""


def _in_section(project: Project, source: Source, section: str, lookups: list[Lookup]) -> Iterator[Finding]:
    value = source.values.get(section)
    listed = isinstance(value, list)
    for i, item in enumerate(value) if isinstance(value, list) else [(0, value)]:
        path = (section, i) if listed else (section,)
        component = {"type": item} if isinstance(item, str) else item
        if not isinstance(component, dict) or not isinstance(component.get("type"), str):
            continue
        args = component.get("args", {})
        if all(lookup.module in _TORCH for lookup in lookups) and isinstance(args, dict):
            yield from _in_torch(source, component, path, lookups[0])
            continue
        found = [project.find(f"{lookup.module}.{component['type']}") for lookup in lookups]
        if "." in component["type"] or any(not _is_project(project, lookup) for lookup in lookups):
            continue
        if all(target.kind == "missing" for target in found):
            modules = " and ".join(sorted({lookup.module.replace(".", "/") + ".py" for lookup in lookups}))
            where = ".".join(map(str, path))
            yield Finding(0, source.where(path), f"{where}: {component['type']!r} is not in {modules}")
        elif len(lookups) == 1 and isinstance(item, dict) and isinstance(args, dict):
            yield from _fits(project, source, path, component, found[0], lookups[0])


def _is_project(project: Project, lookup: Lookup) -> bool:
    return lookup.module in project.modules


def _in_torch(source: Source, component: dict[str, Any], path: Any, lookup: Lookup) -> Iterator[Finding]:
    """By the template's own check, with the torch that is installed."""
    try:
        module = importlib.import_module(lookup.module)
        bind(source, Component(path, component), (module,), Given(lookup.positional, lookup.names))
    except ConfigError as error:
        yield from _told(ConfigError(str(error).partition("\n  there are: ")[0]), source.name)


def _fits(
    project: Project, source: Source, path: Any, component: dict[str, Any], found: Found, lookup: Lookup
) -> Iterator[Finding]:
    """Whether a class of the project's is of the kind of its section, and takes the types of the values."""
    node, section, name = found.node, str(path[0]), component["type"]
    if found.module is None or getattr(node, "decorator_list", True):
        return
    if isinstance(node, ast.ClassDef):
        if section.startswith("data_loader") or section in ("valid_data_loader", "test_data_loader"):
            if project.origins(found.module, node) <= _PLAIN:
                yield Finding(0, source.where(path), f"{section}: {name} is refused, because it is no DataLoader")
                return
        node = next((inner for inner in node.body if getattr(inner, "name", "") == "__init__"), None)
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return
    arguments = [*node.args.posonlyargs, *node.args.args][(found.node is not node) + lookup.positional :]
    annotations = [(argument.arg, argument.annotation) for argument in [*arguments, *node.args.kwonlyargs]]
    written = [inner for _, annotation in annotations if annotation for inner in ast.walk(annotation)]
    if "annotations" in found.module.aliases or any(
        isinstance(getattr(inner, "value", None), str) for inner in written
    ):
        return  # texts, which may mean nothing
    for argument, annotation in annotations:
        kind = dotted(annotation)
        if kind in _BUILTIN and kind not in found.module.names and argument in component.get("args", {}):
            value = component["args"][argument]
            problem = type_problem(name, argument, getattr(builtins, kind), value)
            if problem is not None:
                yield Finding(0, source.where((*path, "args", argument)), f"{section}.args.{argument}: {problem}")
