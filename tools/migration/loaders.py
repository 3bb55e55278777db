"""What a project's loaders would meet: methods that batches need, and samplers that are refused."""

import ast
from collections.abc import Iterator

from tools.migration import classic
from tools.migration.module import Finding, Module
from tools.migration.project import Project
from tools.migration.syntax import dotted, method_of_super, nodes_in


def loader_findings(project: Project, module: Module, cls: ast.ClassDef) -> Iterator[Finding]:
    """Findings in one class that derives from the BaseDataLoader."""
    of_base = classic.new_methods("base.base_data_loader", "BaseDataLoader")
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name in of_base:
            name = f"{cls.name}.{node.name}"
            text = f"{name} takes the place of a method that batches need: rename it"
            yield module.refused(node, text)
    variables = _distributed_variables(project, module, cls)
    for sampler in _samplers(cls):
        if dotted(sampler) in variables or _is_distributed(project, module, sampler):
            text = "a DistributedSampler is refused: the loader cuts each batch itself"
            yield module.refused(sampler, text)


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
