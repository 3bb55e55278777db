"""What a project's loaders would meet: methods that batches need, and samplers that are refused."""

import ast
from collections.abc import Iterator

from tools.migration import classic
from tools.migration.module import Finding, Module
from tools.migration.project import Project
from tools.migration.replaced import OF_TORCH, parameters
from tools.migration.syntax import dotted, is_open, method_of_super, nodes_in

_BASE = "BaseDataLoader"


def loader_findings(project: Project, module: Module, cls: ast.ClassDef) -> Iterator[Finding]:
    """Findings in one class that derives from the BaseDataLoader."""
    of_base = classic.new_methods("base.base_data_loader", "BaseDataLoader")
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name in of_base:
            name = f"{cls.name}.{node.name}"
            text = f"{name} takes the place of a method that batches need: rename it"
            yield module.refused(node, text)
    yield from _calls_of_base(project, module, cls)
    variables = _distributed_variables(project, module, cls)
    for sampler in _samplers(cls):
        if dotted(sampler) in variables or _is_distributed(project, module, sampler):
            text = "a DistributedSampler is refused: the loader cuts each batch itself"
            yield module.refused(sampler, text)


def _calls_of_base(project: Project, module: Module, cls: ast.ClassDef) -> Iterator[Finding]:
    """Arguments that the project's own BaseDataLoader takes, and this one at another place."""
    own = parameters(project, "base/base_data_loader.py", "BaseDataLoader.__init__")[1:]
    if not any(classic.is_base(project.named(module, base).name, _BASE) for base in cls.bases):
        return
    positional, named = _taken_by_base()
    for call in nodes_in(cls, ast.Call):
        if method_of_super(call) != "__init__" or is_open(call):
            continue
        for place, name in enumerate(own[: len(call.args)]):
            if positional[place : place + 1] == [name]:
                continue
            text = f"{name} is of your {_BASE}, which is replaced: this one has none"
            if name in named:
                text = f"{_BASE} takes {name} by its name alone: write {name}=…"
            yield module.refused(call, text)
            break


def _taken_by_base() -> tuple[list[str], set[str]]:
    """The arguments of the BaseDataLoader by their order, and all that it takes by name."""
    for node in classic.template_class("base.base_data_loader", _BASE).body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            positional = [argument.arg for argument in node.args.args[1:]]
            named = [argument.arg for argument in node.args.kwonlyargs]
            return positional, {*positional, *named, *OF_TORCH[_BASE].split()}
    return [], set()


def _samplers(cls: ast.ClassDef) -> list[ast.expr]:
    """The samplers that the base's methods are given."""
    found = []
    for call in nodes_in(cls, ast.Call):
        if not method_of_super(call):
            continue
        for keyword in call.keywords:
            if keyword.arg == "sampler":
                found.append(keyword.value)
    return found


def _distributed_variables(project: Project, module: Module, cls: ast.ClassDef) -> set[str]:
    """The variables that hold a DistributedSampler, in any case."""
    found: set[str] = set()
    for assign in nodes_in(cls, ast.Assign):
        if _is_distributed(project, module, assign.value):
            found.update(dotted(target) for target in assign.targets)
    return found - {""}  # targets that are no names


def _is_distributed(project: Project, module: Module, node: ast.expr) -> bool:
    """Whether an expression makes a DistributedSampler."""
    if not isinstance(node, ast.Call):
        return False
    return project.named(module, node.func).name.split(".")[-1] == "DistributedSampler"
