"""What a project's code would meet, by reading it."""

import ast
import collections
import collections.abc
import functools
import re
import warnings
from collections.abc import Iterator
from operator import attrgetter

from tools.migration import classic
from tools.migration.loaders import loader_findings
from tools.migration.module import REFUSED, Finding, Module
from tools.migration.project import Project
from tools.migration.replaced import in_replaced, lost, names_that_stay, own_methods, uses_of_lost
from tools.migration.syntax import dotted, nodes_in
from tools.migration.trainers import trainer_findings

#: Modules that today's libraries have no more.
_GONE = ("torch._six", "torchvision.models.utils")
#: Names of NumPy that some version has dropped.
_NUMPY = (
    "float int bool object str complex long unicode float_ complex_ unicode_ string_ Inf NaN NAN "
    "infty product in1d"
)
#: What the classic's ConfigParser has, and this one has not.
_CONFIG = {
    "initialize": "init_obj",
}
#: How a config is called, and the package of which a module that calls it so imports something.
_CONFIG_FROM = {"config": "parse_config", "self.config": "base"}
#: What from_args takes by name.
_FROM_ARGS = ("args", "options", "evaluating", "partial", None)
#: What a checkpoint is called where it is read.
_CHECKPOINT = re.compile(r"resume|checkpoint|ckpt|model|weight|pretrain|snapshot|best|\.pth")
_LOOKED_AT = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.Attribute, ast.Call)


def in_code(project: Project) -> Iterator[Finding]:
    """All findings in the files that the project keeps."""
    yield from _files_in_the_way(project)
    yield from in_replaced(project)
    gone = lost(project)
    stays = names_that_stay(project)
    for module in sorted(project.modules.values(), key=attrgetter("path")):
        yield from uses_of_lost(project, module, gone, stays)
        optional = _optional(module.tree)
        for node in module.nodes(*_LOOKED_AT):
            if isinstance(node, ast.ClassDef):
                yield from _class(project, module, node)
            elif isinstance(node, ast.Call):
                yield from _call(project, module, node)
            elif id(node) not in optional:
                yield from _name(project, module, node)


def _files_in_the_way(project: Project) -> Iterator[Finding]:
    """Files of which this template has one of the same name."""
    taken = classic.new_files()
    hidden = {f"{name}.py" for name in classic.PACKAGES if name != "parse_config"}
    by_path = {module.path: module for module in project.modules.values()}
    for path in project.files:
        if path in taken and not _is_empty(by_path.get(path)):
            folder = path.split("/")[0]
            text = (
                f"this template has a file of this name, which its {folder}/ needs: "
                "give yours another"
            )
            yield Finding(REFUSED, f"{path}:1", text)
        elif path in hidden:
            folder = path.removesuffix(".py")
            text = f"the folder {folder}/ of this template hides it: give it another name"
            yield Finding(REFUSED, f"{path}:1", text)


def _is_empty(module: Module | None) -> bool:
    """Whether a file is nothing to lose, such as an empty __init__.py; None if it is not read."""
    return module is not None and not module.tree.body


def _optional(tree: ast.Module) -> set[int]:
    """What stands in a `try`, or is for type checkers alone: it may be missing."""
    guards: list[ast.stmt] = [*nodes_in(tree, ast.Try)]
    for node in nodes_in(tree, ast.If):
        if "TYPE_CHECKING" in dotted(node.test):
            guards.append(node)
    found: set[int] = set()
    for guard in guards:
        found.update(id(inner) for inner in ast.walk(guard))
    return found


def _class(project: Project, module: Module, node: ast.ClassDef) -> Iterator[Finding]:
    """Findings in a class, by what it derives from."""
    origins = project.origins(module, node)
    if any(classic.is_base(name, "BaseTrainer") for name in origins):
        yield from trainer_findings(project, module, node)
    if any(classic.is_base(name, "BaseDataLoader") for name in origins):
        yield from loader_findings(project, module, node)
    if _writes_into_column(node):
        yield module.refused(node, _of_tracker(module, node))


def _of_tracker(module: Module, cls: ast.ClassDef) -> str:
    """What to do about a tracker that fails with pandas 3."""
    own = own_methods(cls, module.path, module.tree)
    if module.path != classic.UTIL:  # where nothing is known of it
        own = [node.name for node in cls.body if isinstance(node, ast.FunctionDef)]
        known = classic.NAMES[classic.UTIL]["MetricTracker"].split()
        own = [name for name in own if name not in known]
    told = f"its {cls.name} fails with pandas 3"
    if cls.name == "MetricTracker" and not own:
        return f"{told}: write from utils.metrics import MetricTracker in its place"
    if own:
        told += f", and has methods of its own ({', '.join(own)})"
    return (
        f"{told}: derive it from that of utils.metrics, with these methods alone; or mend it: "
        "self._data.loc[:] = 0 is the whole of reset, and update writes "
        'self._data.loc[key, "total"] += value * n, and so "counts" and "average"'
    )


def _writes_into_column(cls: ast.ClassDef) -> bool:
    """Whether it writes into the values of a column, as the classic's tracker: pandas 3 refuses."""
    for assign in nodes_in(cls, ast.Assign):
        target = assign.targets[0]
        if not isinstance(target, ast.Subscript) or not isinstance(target.value, ast.Attribute):
            continue
        if target.value.attr == "values":
            return True
    return False


def _name(project: Project, module: Module, node: ast.AST) -> Iterator[Finding]:
    """Findings at an import or an attribute."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from _gone_module(module, node, alias.name)
    elif isinstance(node, ast.ImportFrom):
        origin = module.origin(node)
        yield from _gone_module(module, node, origin)
        if origin == "collections":
            for alias in node.names:
                yield from _of_collections(module, node, alias.name)
        yield from _from_template(project, module, node)
    elif isinstance(node, ast.Attribute):
        yield from _of_library(module, node)
        yield from _of_config(module, node)


def _gone_module(
    module: Module, node: ast.Import | ast.ImportFrom, imported: str
) -> Iterator[Finding]:
    if imported in _GONE:
        package = imported.split(".")[0]
        yield module.refused(node, f"{imported} is gone from today's {package}")


def _of_collections(module: Module, node: ast.stmt | ast.expr, name: str) -> Iterator[Finding]:
    """A name that is to be had from collections.abc alone."""
    if hasattr(collections, name) or not hasattr(collections.abc, name):
        return
    text = f"collections.{name} is collections.abc.{name} since Python 3.10"
    yield module.refused(node, text)


def _from_template(project: Project, module: Module, node: ast.ImportFrom) -> Iterator[Finding]:
    """Names that an import takes from one of the template's modules, and that are not there."""
    origin = module.origin(node)
    is_ours = origin.split(".")[0] in classic.PACKAGES and origin not in project.modules
    if not is_ours or not classic.template_names(origin):
        return
    for alias in node.names:
        name = alias.name
        if name != "*" and not _is_there(project, origin, name):
            hint = _whereabouts(project, origin, name)
            yield module.refused(node, f"{origin} has no {name} here{hint}")


def _is_there(project: Project, origin: str, name: str) -> bool:
    """Whether a name can be imported from one of the template's modules.

    The project's own files may lie beside the template's.
    """
    if origin == "utils" and project.keeps_util:  # which is asked for what utils itself has not
        util = project.modules["utils.util"]
        if name in util.names or util.stars:
            return True
        if name in classic.NAMES[classic.UTIL]:
            return False
    if name in classic.template_names(origin):
        return True
    return f"{origin.replace('.', '/')}/{name}" in project.stems


def _whereabouts(project: Project, origin: str, name: str) -> str:
    """Where a name is that was looked for in one of the template's modules."""
    for other in project.modules.values():
        if other.name.startswith(f"{origin}.") and _defines(other, name):
            return f": write from {other.name} import {name}"
    for path, replaced in project.replaced.items():
        if _defines(replaced, name):
            return f": it is in {path}, which is replaced; move it to a file of your own"
    return ""


def _defines(module: Module, name: str) -> bool:
    """Whether a name is a function or class of a module's own."""
    return isinstance(module.names.get(name), ast.AST)


@functools.cache
def _dropped() -> frozenset[str]:
    """What the NumPy that is installed has no more."""
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return frozenset(name for name in _NUMPY.split() if not hasattr(np, name))


def _of_library(module: Module, node: ast.Attribute) -> Iterator[Finding]:
    """A name that NumPy or collections had once."""
    if not isinstance(node.value, ast.Name):
        return
    owner = module.aliases.get(node.value.id)
    if owner == "numpy" and node.attr in _dropped():
        yield module.refused(node, f"np.{node.attr} is gone from NumPy")
    elif owner == "collections":
        yield from _of_collections(module, node, node.attr)


def _of_config(module: Module, node: ast.Attribute) -> Iterator[Finding]:
    """What a config has no more, or lets nobody set."""
    if _CONFIG_FROM.get(dotted(node.value)) not in module.packages:
        return
    if node.attr in _CONFIG:
        text = f"the config has no {node.attr}: write {_CONFIG[node.attr]}"
        yield module.refused(node, text)
    elif node.attr == "resume" and isinstance(node.ctx, ast.Store):
        text = (
            "config.resume cannot be set: give the path to -r, or ConfigParser(config, resume=path)"
        )
        yield module.refused(node, text)


def _call(project: Project, module: Module, node: ast.Call) -> Iterator[Finding]:
    """Findings at a call of torch.load, the ConfigParser or list."""
    name = project.named(module, node.func).name
    is_parser = name.split(".")[0] == "parse_config" and name.endswith(".ConfigParser")
    if name == "torch.load":
        yield from _load(module, node)
    elif _lists_a_set(node):
        text = (
            "list(set(…)) of text is in another order in each process, so that a resumed run may "
            "be another: write sorted(set(…)), or set PYTHONHASHSEED=0"
        )
        yield module.different(node, text)
    elif name == "parse_config.ConfigParser.from_args":
        yield from _from_args(module, node)
    elif is_parser and node.args and dotted(node.args[0]) in _parsers(module):
        text = (
            "ConfigParser takes a config, no parser: write ConfigParser.from_args(parser, options)"
        )
        yield module.refused(node, text)


def _lists_a_set(node: ast.Call) -> bool:
    """Whether a call makes a list of a set, in the order that the set happens to have."""
    if dotted(node.func) != "list" or len(node.args) != 1:
        return False
    given = node.args[0]
    is_call = isinstance(given, ast.Call) and dotted(given.func) == "set"
    return is_call or isinstance(given, ast.Set | ast.SetComp)


def _from_args(module: Module, node: ast.Call) -> Iterator[Finding]:
    """Arguments of from_args that a project's own version had."""
    given = [keyword.arg for keyword in node.keywords if keyword.arg not in _FROM_ARGS]
    if len(node.args) > 2 or any(given):
        text = (
            "from_args takes (parser, options) here: what else yours took, "
            "config.args has, or set it in the config that it gives"
        )
        yield module.refused(node, text)


def _load(module: Module, node: ast.Call) -> Iterator[Finding]:
    """What a call of torch.load meets, by its weights_only."""
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    value = given.get("weights_only")
    is_checkpoint = any(_CHECKPOINT.search(ast.unparse(each).lower()) for each in node.args[:1])
    if value is None and None not in given and not is_checkpoint:
        text = (
            "torch.load reads tensors and plain containers alone since torch 2.6; other data of "
            "yours, that you trust, wants weights_only=False"
        )
        yield module.different(node, text)
    elif value is None and None not in given:
        text = (
            "torch.load reads new checkpoints, and refuses old ones with their pickled "
            "ConfigParser: convert them"
        )
        yield module.different(node, text)
    elif is_checkpoint and isinstance(value, ast.Constant) and value.value is False:
        text = (
            "torch.load(weights_only=False) runs what a file names; "
            "the checkpoints made here do not need it"
        )
        yield module.different(node, text)


@functools.lru_cache(maxsize=4)
def _parsers(module: Module) -> set[str]:
    """The variables that hold an argument parser, or what it has parsed."""
    found: set[str] = set()
    for assign in nodes_in(module.tree, ast.Assign):
        if isinstance(assign.value, ast.Call) and _parses(assign.value):
            found.update(dotted(target) for target in assign.targets)
    return found - {""}  # targets that are no names


def _parses(call: ast.Call) -> bool:
    """Whether a call makes an argument parser, or lets one parse."""
    if isinstance(call.func, ast.Attribute) and call.func.attr == "parse_args":
        return True
    return dotted(call.func) in ("ArgumentParser", "argparse.ArgumentParser")
