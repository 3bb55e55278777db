"""What a project's trainers would meet: what the base here has, and what it has no more."""

import ast
from collections.abc import Iterator
from operator import attrgetter

from tools.migration import classic
from tools.migration.module import Finding, Module
from tools.migration.project import Found, Project
from tools.migration.syntax import attributes_set, dotted, is_open, method_of_super, nodes_in

#: Attributes of the classic's trainer that are no more, and what there is.
GONE = {
    "save_period": 'self.config["trainer"]["save_period"]',
    "mnt_metric": "self.monitor.name",
    "early_stop": 'self.config["trainer"].get("early_stop")',
    "_prepare_device": "prepare_device of utils",
}
#: What the epochs need under these names, so that they cannot be anything else.
TAKEN = ("stop", "monitor", "settings", "writers", "_checkpoints", "_metrics")
#: What can be set, with another outcome than before.
SHARED = {
    "step": "it is the batch of the epoch, set to 0 after each",
    "lr": "it is the table's column lr",
}
_MONITORED = ("mnt_best", "mnt_mode")
_NEVER_CALLED = ("_save_checkpoint", "_resume_checkpoint")
_INF_LOOP = "utils.util.inf_loop"
#: Bases of bases that are looked at.
_DEPTH = 20


def trainer_findings(project: Project, module: Module, cls: ast.ClassDef) -> Iterator[Finding]:
    """Findings in one class that derives from the BaseTrainer."""
    methods = {node.name: node for node in cls.body if isinstance(node, ast.FunctionDef)}
    yield from _overrides(module, cls, methods)
    yield from _calls_of_base(project, module, cls)
    own = {*methods, *_inherited(project, module, cls)}
    yield from _attributes(module, cls, own)
    yield from _writers(module, cls)
    yield from _own_loops(module, cls, methods)
    for call in nodes_in(cls, ast.Call):
        if _is_inf_loop(project, module, call):
            text = (
                "with inf_loop a resumed run reads its data from the beginning again: "
                "it is not the unbroken run"
            )
            yield module.different(call, text)


def _overrides(
    module: Module, cls: ast.ClassDef, methods: dict[str, ast.FunctionDef]
) -> Iterator[Finding]:
    """Methods that take the place of the base's, or would have done so."""
    of_base = classic.new_methods("base.base_trainer", "BaseTrainer")
    for name, method in methods.items():
        if name in _NEVER_CALLED:
            text = (
                f"{cls.name}.{name} would never be called, and is refused: "
                "what has a state_dict is saved by itself"
            )
            yield module.refused(method, text)
        elif name in of_base:
            text = f"{cls.name}.{name} takes the place of a method that the epochs need: rename it"
            yield module.refused(method, text)


def _calls_of_base(project: Project, module: Module, cls: ast.ClassDef) -> Iterator[Finding]:
    """Calls of the base's constructor with other arguments than it takes."""
    bases = [project.named(module, base).name for base in cls.bases]
    if len(bases) != 1 or not classic.is_base(bases[0], "BaseTrainer"):
        return
    takes = _taken_by_base()
    for call in nodes_in(cls, ast.Call):
        if method_of_super(call) != "__init__" or is_open(call):
            continue
        surplus = len(call.args) - len(takes)
        given = takes[: len(call.args)]
        given += [keyword.arg or "" for keyword in call.keywords]
        if surplus > 0 or sorted(given) != sorted(takes):
            text = f"BaseTrainer takes {', '.join(takes)}: other arguments are an error"
            yield module.refused(call, text)


def _taken_by_base() -> list[str]:
    """The arguments of the BaseTrainer's constructor, by name."""
    for node in classic.template_class("base.base_trainer", "BaseTrainer").body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return [argument.arg for argument in node.args.args[1:]]
    return []


def _attributes(module: Module, cls: ast.ClassDef, own: set[str]) -> Iterator[Finding]:
    """Attributes of the trainer that are set or read, and are another thing here.

    Args:
        own: what the class defines or inherits from the project's own bases.
    """
    of_self = [node for node in nodes_in(cls, ast.Attribute) if dotted(node.value) == "self"]
    own = {*own, *(node.attr for node in of_self if isinstance(node.ctx, ast.Store))}
    for node in sorted(of_self, key=attrgetter("lineno")):
        if isinstance(node.ctx, ast.Store):
            yield from _where_set(module, node)
        elif isinstance(node.ctx, ast.Load) and node.attr not in own:
            yield from _where_read(module, node)


def _where_set(module: Module, node: ast.Attribute) -> Iterator[Finding]:
    name = node.attr
    if name in TAKEN:
        text = f"self.{name} is the BaseTrainer's own here: give yours another name"
        yield module.refused(node, text)
    elif name in _MONITORED:
        yield module.refused(node, f"self.{name} can be read, but not set: the monitor keeps it")
    elif name in SHARED:
        text = f"self.{name} is the BaseTrainer's own here, too ({SHARED[name]})"
        yield module.different(node, text)


def _where_read(module: Module, node: ast.Attribute) -> Iterator[Finding]:
    name = node.attr
    if name in GONE:
        yield module.refused(node, f"the BaseTrainer has no {name} any more: write {GONE[name]}")
    elif name == "monitor":
        text = "self.monitor is an object here: self.settings.monitor is the text"
        yield module.refused(node, text)


def _writers(module: Module, cls: ast.ClassDef) -> Iterator[Finding]:
    """Writers in the place of the TensorboardWriter."""
    for assign in nodes_in(cls, ast.Assign):
        if not isinstance(assign.value, ast.Call):
            continue
        made = dotted(assign.value.func)
        targets = [dotted(target) for target in assign.targets]
        if made.endswith("SummaryWriter") and "self.writer" in targets:
            text = "self.writer has to be the TensorboardWriter of logger/: give yours another name"
            yield module.refused(assign, text)


def _inherited(project: Project, module: Module, cls: ast.ClassDef) -> set[str]:
    """What the project's own bases of a class define or set."""
    bases: dict[str, Found] = {}
    _note_bases(project, module, cls, bases)
    found: set[str] = set()
    for base in bases.values():
        if isinstance(base.node, ast.ClassDef):
            found.update(node.attr for node in attributes_set(base.node))
            found.update(node.name for node in nodes_in(base.node, ast.FunctionDef))
        elif base.kind == "unknown":
            found.update([*GONE, "monitor"])  # it may have them
    return found


def _note_bases(
    project: Project,
    module: Module,
    cls: ast.ClassDef,
    found: dict[str, Found],
    depth: int = _DEPTH,
) -> None:
    """Note what a class derives from, through the project's own classes, each once.

    Args:
        found: where it is noted, by name.
        depth: how many bases of bases are looked at.
    """
    if depth == 0:
        return
    for base in cls.bases:
        target = project.named(module, base)
        if target.name in found:
            continue
        found[target.name] = target
        if target.module is not None and isinstance(target.node, ast.ClassDef):
            _note_bases(project, target.module, target.node, found, depth - 1)


def _own_loops(
    module: Module, cls: ast.ClassDef, methods: dict[str, ast.FunctionDef]
) -> Iterator[Finding]:
    """Loops over epochs or batches in the place of the base's."""
    train = methods.get("train")
    if train is not None and not _calls_super(train):
        text = (
            "a train of its own restores nothing by itself: "
            "self.restore() in it does what -r asks for"
        )
        yield module.different(train, text)
    epoch = methods.get("_train_epoch")
    if epoch is not None and not _calls_super(epoch):
        text = (
            f"{cls.name} has a loop of its own: it resumes exactly, but only from the edges of "
            "epochs; of the new settings accumulate, clip_grad_norm, precision, compile, save_step "
            "and the like do nothing in it"
        )
        yield module.different(epoch, text)


def _calls_super(method: ast.FunctionDef) -> bool:
    """Whether a method calls the base's of the same name."""
    return any(method_of_super(call) == method.name for call in nodes_in(method, ast.Call))


def _is_inf_loop(project: Project, module: Module, call: ast.Call) -> bool:
    """Whether a call is one of inf_loop, the template's or the project's own."""
    found = project.named(module, call.func)
    if found.name in ("utils.inf_loop", _INF_LOOP):
        return True
    return found.module is not None and found.name.endswith(_INF_LOOP)
