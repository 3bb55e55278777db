"""What a project has changed inside the classic's shared files, which this template replaces."""

import ast
import functools
from collections.abc import Iterator

from tools.migration import classic
from tools.migration.bodies import Body, attributes_of_classic, bodies, changed, own_lines
from tools.migration.module import Finding, Module
from tools.migration.project import Project
from tools.migration.syntax import attributes_set, dotted, nodes_in

#: The shared classes that projects derive from or ask, with the module of this template's.
CLASSES = {
    "BaseTrainer": "base.base_trainer",
    "BaseDataLoader": "base.base_data_loader",
    "BaseModel": "base.base_model",
    "ConfigParser": "parse_config",
}
#: What these derive from here, and what torch's own loader and network have.
_ABOVE = {
    "BaseTrainer": [("machinery.update.watching", "ClassicNames")],
    "BaseDataLoader": [("machinery.order.bare", "BareIteration")],
    "ConfigParser": [
        ("machinery.config.factory", "Factory"),
        ("machinery.config.classic", "ClassicNames"),
    ],
}
OF_TORCH = {
    "BaseDataLoader": "dataset batch_size num_workers sampler batch_sampler collate_fn drop_last "
    "pin_memory timeout generator prefetch_factor persistent_workers",
    "BaseModel": "training",
}
#: Names of older versions of the classic that a trainer still answers to.
OLDER = {"BaseTrainer": "loss metrics metric_fns"}
#: How an object of each is called in scripts and trainers.
_CALLED = {
    "config": "ConfigParser",
    "self.config": "ConfigParser",
    "trainer": "BaseTrainer",
    "data_loader": "BaseDataLoader",
    "valid_data_loader": "BaseDataLoader",
    "train_loader": "BaseDataLoader",
    "self.data_loader": "BaseDataLoader",
    "model": "BaseModel",
    "self.model": "BaseModel",
}
#: The arguments of the classic's methods of those that make components, and get loggers.
_ARGUMENTS = {"self", "name", "module", "verbosity"}
#: Where else what a method did can be done.
_ELSEWHERE = {
    "BaseTrainer.__init__": "do it in the __init__ of your trainer, after super().__init__(…)",
    "BaseTrainer.train": "do it in a train of your trainer, around super().train()",
    "BaseTrainer._save_checkpoint": "whatever has a state_dict is saved by itself",
    "BaseTrainer._resume_checkpoint": "whatever has a state_dict is restored by itself",
    "BaseDataLoader": "do it in a loader of yours that derives from it",
    "BaseModel": "do it in a network of yours that derives from it",
    "ConfigParser": "do it in a class of yours that derives from it",
    "TensorboardWriter": "do it in a class of yours that derives from it",
}


def in_replaced(project: Project) -> Iterator[Finding]:
    """What is lost with the project's own versions of the shared files."""
    for path, module in project.replaced.items():
        for body in changed(path, module.tree):
            yield module.different(body.node, _told(body))


def _told(body: Body) -> str:
    """That a function is not the classic's, with what it has besides."""
    name, _, method = body.name.partition(".")
    more = []
    if method == "__init__":
        known = attributes_of_classic(name)
        fresh = {node.attr for node in attributes_set(body.node) if dotted(node.value) == "self"}
        more += [f"self.{attribute}" for attribute in sorted(fresh - known)]
    told = f"{body.name} is not the classic's, and what it does otherwise is lost with the file"
    lines = own_lines(body)
    if lines:
        told += f" (lines {_spans(lines)})"
    if more:
        told += f"; it sets {', '.join(more[:8])}"
    elsewhere = _ELSEWHERE.get(body.name, _ELSEWHERE.get(name, ""))
    if elsewhere:
        told += f": {elsewhere}"
    return told


def _spans(lines: list[int]) -> str:
    """Some numbers of lines, those that follow each other as one."""
    spans: list[list[int]] = []
    for line in lines:
        if spans and line == spans[-1][-1] + 1:
            spans[-1].append(line)
        else:
            spans.append([line])
    shown = [str(span[0]) if len(span) == 1 else f"{span[0]}-{span[-1]}" for span in spans[:12]]
    if len(spans) > 12:
        shown.append("…")
    return ", ".join(shown)


def lost(project: Project) -> dict[str, set[str]]:
    """For each of the shared classes what the project's own version has, and this one has not."""
    found: dict[str, set[str]] = {name: set() for name in CLASSES}
    for module in project.replaced.values():
        for cls in module.tree.body:
            if isinstance(cls, ast.ClassDef) and cls.name in CLASSES:
                found[cls.name] = _names_of(cls) - _names_here(cls.name)
    return found


def _names_of(cls: ast.ClassDef) -> set[str]:
    """The attributes that a class sets, its methods and its variables."""
    names = {node.attr for node in attributes_set(cls) if dotted(node.value) in ("self", "cls")}
    for node in cls.body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names.update(name.id for name in nodes_in(node, ast.Name))
    return {name for name in names if not name.startswith("__")}


@functools.cache
def _names_here(name: str) -> frozenset[str]:
    """What a class of this template has."""
    found = {*OF_TORCH.get(name, "").split(), *OLDER.get(name, "").split()}
    for module, cls in [(CLASSES[name], name), *_ABOVE.get(name, [])]:
        found |= _names_of(classic.template_class(module, cls))
    return frozenset(found)


def uses_of_lost(
    project: Project, module: Module, gone: dict[str, set[str]], own: set[str]
) -> Iterator[Finding]:
    """Where a file asks objects of the shared classes for what they have no more.

    Args:
        gone: of `lost`.
        own: what any class of the project's that stays defines or sets.
    """
    for call in module.nodes(ast.Call):
        yield from _own_arguments(project, module, call)
    for node in module.nodes(ast.Attribute):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
            continue
        cls = _CALLED.get(dotted(node.value), "")
        if cls and node.attr in gone[cls] and node.attr not in own:
            yield module.refused(node, _gone(cls, node.attr))
    for definition in nodes_in(module.tree, ast.ClassDef):
        origins = project.origins(module, definition)
        for cls in CLASSES:
            if any(classic.is_base(name, cls) for name in origins):
                yield from _uses_of_self(module, definition, cls, gone[cls] - own)


def _own_arguments(project: Project, module: Module, call: ast.AST) -> Iterator[Finding]:
    """Arguments of init_obj and init_ftn that the project's own version has."""
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
        return
    method = call.func.attr
    if _CALLED.get(dotted(call.func.value)) != "ConfigParser":
        return
    own = _parameters(project, f"ConfigParser.{method}") - _ARGUMENTS
    for keyword in call.keywords:
        if keyword.arg in own:
            text = f"{keyword.arg} is an argument of your {method}, which is replaced: leave it out"
            yield module.refused(call, text)


def _parameters(project: Project, name: str) -> set[str]:
    """The names of the arguments of a method of the project's own parse_config.py."""
    return set(parameters(project, "parse_config.py", name))


def parameters(project: Project, path: str, name: str) -> list[str]:
    """The arguments of a method in a shared file of the project's own; none where there is none."""
    module = project.replaced.get(path)
    if module is None:
        return []
    for body in bodies(module.tree):
        if body.name == name:
            arguments = body.node.args
            return [each.arg for each in (*arguments.args, *arguments.kwonlyargs)]
    return []


def _uses_of_self(
    module: Module, definition: ast.ClassDef, cls: str, gone: set[str]
) -> Iterator[Finding]:
    """Where a class asks itself for what its base has no more."""
    for node in nodes_in(definition, ast.Attribute):
        is_read = isinstance(node.ctx, ast.Load) and dotted(node.value) == "self"
        if is_read and node.attr in gone:
            yield module.refused(node, _gone(cls, node.attr))


def _gone(cls: str, name: str) -> str:
    return f"{name} is of your {cls}, which is replaced: this one has none"


def names_that_stay(project: Project) -> set[str]:
    """What the classes of the project's own that stay define or set."""
    found: set[str] = set()
    for module in project.modules.values():
        for cls in nodes_in(module.tree, ast.ClassDef):
            found |= _names_of(cls)
    return found


def own_methods(cls: ast.ClassDef, path: str, tree: ast.Module) -> list[str]:
    """The methods that a tracker has besides the classic's, and an update of its own."""
    updates = [body for body in changed(path, tree) if body.name.endswith(".update")]
    different = {body.name for body in updates if own_lines(body)}  # it may just write nothing
    known = classic.NAMES.get(path, {}).get(cls.name, "").split()
    found = []
    for body in bodies(tree):
        name, _, method = body.name.partition(".")
        if name == cls.name and (body.name in different or method not in known):
            found.append(method)
    return found
