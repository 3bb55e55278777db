"""What a project's code would meet, by reading it."""

import ast
import collections
import collections.abc
import functools
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from tools.migration import classic
from tools.migration.project import Module, Project, dotted
from tools.migration.trainers import loader_findings, trainer_findings


class Finding(NamedTuple):
    """One thing that a project would meet."""

    #: 0: refused or fails; 1: behaves differently.
    rank: int
    place: str
    text: str


#: Modules that today's libraries have no more.
_GONE = ("torch._six", "torchvision.models.utils")
#: Names of NumPy that some version has dropped.
_NUMPY = (
    "float int bool object str complex long unicode float_ complex_ unicode_ string_ Inf NaN NAN infty product in1d"
)
#: What the classic's ConfigParser has, and this one has not.
_CONFIG = {
    "initialize": "init_obj",
    "_config": "config.config",
    "log_levels": "config.get_logger(name, verbosity)",
    "_save_dir": "config.save_dir",
    "_log_dir": "config.log_dir",
}


def in_code(project: Project) -> Iterator[Finding]:
    """All findings in the files that the project keeps."""
    taken, by_path = classic.new_files(), {module.path: module for module in project.modules.values()}
    for path in project.files:
        package, _, rest = path.partition("/")
        module = by_path.get(path)
        if path in taken and (module is None or module.tree.body):  # an empty __init__.py is nothing to lose
            text = f"this template has a file of this name, which its {package}/ needs: give yours another"
            yield Finding(0, f"{path}:1", text)
        elif not rest and package in {f"{name}.py" for name in classic.PACKAGES} - {"parse_config.py"}:
            text = f"the folder {package.removesuffix('.py')}/ of this template hides it: give it another name"
            yield Finding(0, f"{path}:1", text)
    for module in sorted(project.modules.values(), key=lambda module: module.path):
        optional = _optional(module.tree)
        for node in module.nodes(ast.Import, ast.ImportFrom, ast.ClassDef, ast.Attribute, ast.Call):
            found = list(_at(project, module, node, id(node) in optional))
            yield from (Finding(rank, f"{module.path}:{line}", text) for rank, line, text in found)


def _at(project: Project, module: Module, node: ast.AST, optional: bool) -> Iterator[tuple[int, int, str]]:
    line = getattr(node, "lineno", 1)
    if isinstance(node, ast.Import | ast.ImportFrom) and not optional:
        yield from ((0, line, text) for text in _imports(project, module, node))
    elif isinstance(node, ast.ClassDef):
        origins = project.origins(module, node)
        if any(name.startswith("base.") and name.endswith(".BaseTrainer") for name in origins):
            yield from trainer_findings(project, module, node)
        if any(name.startswith("base.") and name.endswith(".BaseDataLoader") for name in origins):
            yield from loader_findings(project, module, node)
        if module.path == "utils/util.py" and node.name == "MetricTracker":
            yield from _pandas(node)
    elif isinstance(node, ast.Attribute) and not optional:
        yield from ((0, line, text) for text in _attribute(module, node))
    elif isinstance(node, ast.Call):
        yield from ((rank, line, text) for rank, text in _call(project, module, node))


def _optional(tree: ast.Module) -> set[int]:
    """What stands in a `try`, or is for type checkers alone: it may be missing."""
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.Try | ast.If)]
    guards = [node for node in guards if isinstance(node, ast.Try) or "TYPE_CHECKING" in dotted(node.test)]
    return {id(inner) for guard in guards for inner in ast.walk(guard)}


def _imports(project: Project, module: Module, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    for name in [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module.origin(node)]:
        if name in _GONE:
            yield f"{name} is gone from today's {name.split('.')[0]}"
    if isinstance(node, ast.Import):
        return
    origin = module.origin(node)
    if origin == "collections":
        gone = [alias.name for alias in node.names if not hasattr(collections, alias.name)]
        yield from (f"collections.{name} is collections.abc.{name} since Python 3.10" for name in gone)
    ours = origin.split(".")[0] in classic.PACKAGES and origin not in project.modules
    names = classic.template_names(origin) if ours else frozenset[str]()
    for alias in node.names if names else ():
        if alias.name == "*":
            if origin == "utils":
                yield "from utils import * brings no names: name those that you use, as from utils import MetricTracker"
        elif not _there(project, origin, alias.name, names):
            yield f"{origin} has no {alias.name} here{_whereabouts(project, origin, alias.name)}"


def _there(project: Project, origin: str, name: str, names: frozenset[str]) -> bool:
    """Whether a name can be imported from one of the template's modules, beside the project's own files."""
    if origin == "utils" and project.keeps_util and name in classic.NAMES["utils/util.py"]:
        return name in project.modules["utils.util"].names or bool(project.modules["utils.util"].stars)
    return name in names or f"{origin.replace('.', '/')}/{name}" in project.stems


def _whereabouts(project: Project, origin: str, name: str) -> str:
    for other in project.modules.values():
        if other.name.startswith(f"{origin}.") and isinstance(other.names.get(name), ast.AST):
            return f": write from {other.name} import {name}"
    for path, old in project.replaced.items():
        if isinstance(old.names.get(name), ast.AST):
            return f": it is in {path}, which is replaced; move it to a file of your own"
    return ""


@functools.cache
def _dropped() -> frozenset[str]:
    """What the NumPy that is installed has no more."""
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return frozenset(name for name in _NUMPY.split() if not hasattr(np, name))


def _attribute(module: Module, node: ast.Attribute) -> Iterator[str]:
    if isinstance(node.value, ast.Name):
        owner = module.aliases.get(node.value.id)
        if owner == "numpy" and node.attr in _dropped():
            yield f"np.{node.attr} is gone from NumPy"
        elif owner == "collections" and not hasattr(collections, node.attr) and hasattr(collections.abc, node.attr):
            yield f"collections.{node.attr} is collections.abc.{node.attr} since Python 3.10"
    if node.attr in (*_CONFIG, "resume"):
        of_package = {"config": "parse_config", "self.config": "base"}.get(dotted(node.value))
        if of_package in module.packages and node.attr in _CONFIG:
            yield f"the config has no {node.attr}: write {_CONFIG[node.attr]}"
        elif of_package in module.packages and isinstance(node.ctx, ast.Store):
            yield "config.resume cannot be set: give the path to -r, or ConfigParser(config, resume=path)"


def _call(project: Project, module: Module, node: ast.Call) -> Iterator[tuple[int, str]]:
    name = project.named(module, node.func).name
    if name == "torch.load":
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        value = given.get("weights_only")
        if value is None and None not in given:
            yield (
                1,
                "torch.load reads new checkpoints, and refuses old ones with their pickled ConfigParser: convert them",
            )
        elif isinstance(value, ast.Constant) and value.value is False:
            yield 1, "torch.load(weights_only=False) runs what a file names; the checkpoints made here do not need it"
    elif name.split(".")[0] == "parse_config" and name.endswith(".ConfigParser") and node.args:
        if dotted(node.args[0]) in _parsers(module):
            yield 0, "ConfigParser takes a config, no parser: write ConfigParser.from_args(parser, options)"


@functools.lru_cache(maxsize=4)
def _parsers(module: Module) -> set[str]:
    """The variables that hold an argument parser, or what it has parsed."""
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            func = node.value.func
            parses = isinstance(func, ast.Attribute) and func.attr == "parse_args"
            if parses or dotted(func) in ("ArgumentParser", "argparse.ArgumentParser"):
                found |= {dotted(target) for target in node.targets}
    return found - {""}


def _pandas(cls: ast.ClassDef) -> Iterator[tuple[int, int, str]]:
    """The classic's tracker writes into the values of a column, which pandas 3 refuses."""
    for node in ast.walk(cls):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            if (
                dotted(node.targets[0].value).endswith(".values")
                or getattr(node.targets[0].value, "attr", "") == "values"
            ):
                text = (
                    "its MetricTracker fails with pandas 3: write from utils.metrics import MetricTracker in its place"
                )
                yield 0, cls.lineno, text
                return
