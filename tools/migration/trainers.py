"""What a project's trainers and loaders would meet: what the bases here have, and what they have no more."""

import ast
from collections.abc import Iterator

from tools.migration import classic
from tools.migration.project import Module, Project, dotted

Lines = Iterator[tuple[int, int, str]]
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


def trainer_findings(project: Project, module: Module, cls: ast.ClassDef) -> Lines:
    """Findings in one class that derives from the BaseTrainer: rank, line and text."""
    methods = {node.name: node for node in cls.body if isinstance(node, ast.FunctionDef)}
    for name, node in methods.items():
        if name in ("_save_checkpoint", "_resume_checkpoint"):
            text = f"{cls.name}.{name} would never be called, and is refused: what has a state_dict is saved by itself"
            yield 0, node.lineno, text
        elif name in classic.new_methods("base.base_trainer", "BaseTrainer"):
            yield 0, node.lineno, f"{cls.name}.{name} takes the place of a method that the epochs need: rename it"
    yield from _calls_of_base(project, module, cls)
    yield from _attributes(project, module, cls, set(methods))
    if "train" in methods and not _calls_super(methods["train"], "train"):
        text = "a train of its own restores nothing by itself: self.restore() in it does what -r asks for"
        yield 1, methods["train"].lineno, text
    if "_train_epoch" in methods and not _calls_super(methods["_train_epoch"], "_train_epoch"):
        text = (
            f"{cls.name} has a loop of its own: it resumes exactly, but only from the edges of epochs; of the new"
            " settings accumulate, clip_grad_norm, precision, compile, save_step and the like do nothing in it"
        )
        yield 1, methods["_train_epoch"].lineno, text
    for call in [node for node in ast.walk(cls) if isinstance(node, ast.Call)]:
        if project.named(module, call.func).name in ("utils.inf_loop", "utils.util.inf_loop") or _own_inf(
            project, module, call
        ):
            text = "with inf_loop a resumed run reads its data from the beginning again: it is not the unbroken run"
            yield 1, call.lineno, text


def _own_inf(project: Project, module: Module, call: ast.Call) -> bool:
    found = project.named(module, call.func)
    return found.module is not None and found.name.endswith("utils.util.inf_loop")


def _calls_super(method: ast.FunctionDef, name: str) -> bool:
    calls = [node.func for node in ast.walk(method) if isinstance(node, ast.Call)]
    return any(isinstance(func, ast.Attribute) and func.attr == name and _is_super(func.value) for func in calls)


def _is_super(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and dotted(node.func) == "super"


def _calls_of_base(project: Project, module: Module, cls: ast.ClassDef) -> Lines:
    """Calls of the base's constructor with other arguments than it takes."""
    direct = [project.named(module, base).name for base in cls.bases]
    if len(direct) != 1 or not (direct[0].startswith("base.") and direct[0].endswith(".BaseTrainer")):
        return
    init = next(
        node
        for node in classic.template_class("base.base_trainer", "BaseTrainer").body
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    takes = [argument.arg for argument in init.args.args[1:]]
    for node in ast.walk(cls):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "__init__"):
            continue
        named = [keyword.arg for keyword in node.keywords]
        if not _is_super(node.func.value) or None in named or any(isinstance(a, ast.Starred) for a in node.args):
            continue
        given = [*takes[: len(node.args)], *(name or "" for name in named)]
        if len(node.args) > len(takes) or sorted(given) != sorted(takes):
            yield 0, node.lineno, f"BaseTrainer takes {', '.join(takes)}: other arguments are an error"


def _attributes(project: Project, module: Module, cls: ast.ClassDef, methods: set[str]) -> Lines:
    nodes = [node for node in ast.walk(cls) if isinstance(node, ast.Attribute) and dotted(node.value) == "self"]
    own = {node.attr for node in nodes if isinstance(node.ctx, ast.Store)} | methods | _inherited(project, module, cls)
    for node in sorted(nodes, key=lambda node: node.lineno):
        if isinstance(node.ctx, ast.Store):
            if node.attr in TAKEN:
                yield 0, node.lineno, f"self.{node.attr} is the BaseTrainer's own here: give yours another name"
            elif node.attr in ("mnt_best", "mnt_mode"):
                yield 0, node.lineno, f"self.{node.attr} can be read, but not set: the monitor keeps it"
            elif node.attr in SHARED:
                yield 1, node.lineno, f"self.{node.attr} is the BaseTrainer's own here, too ({SHARED[node.attr]})"
        elif isinstance(node.ctx, ast.Load) and node.attr not in own:
            if node.attr in GONE:
                yield 0, node.lineno, f"the BaseTrainer has no {node.attr} any more: write {GONE[node.attr]}"
            elif node.attr == "monitor":
                yield 0, node.lineno, "self.monitor is an object here: self.settings.monitor is the text"
    for assigned in [node for node in ast.walk(cls) if isinstance(node, ast.Assign)]:
        made = isinstance(assigned.value, ast.Call) and dotted(assigned.value.func).endswith("SummaryWriter")
        if made and "self.writer" in map(dotted, assigned.targets):
            yield 0, assigned.lineno, "self.writer has to be the TensorboardWriter of logger/: give yours another name"


def _inherited(project: Project, module: Module, cls: ast.ClassDef, depth: int = 20) -> set[str]:
    """What the project's own bases of a class define or set."""
    found: set[str] = set()
    for base in cls.bases if depth else ():
        target = project.named(module, base)
        if target.module is not None and isinstance(target.node, ast.ClassDef):
            nodes = list(ast.walk(target.node))
            found |= {
                node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            }
            found |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
            found |= _inherited(project, target.module, target.node, depth - 1)
        elif target.kind == "unknown":
            found |= {*GONE, "monitor"}  # it may have them
    return found


def loader_findings(project: Project, module: Module, cls: ast.ClassDef) -> Lines:
    """Findings in one class that derives from the BaseDataLoader: rank, line and text."""
    for node in cls.body:
        if isinstance(node, ast.FunctionDef):
            if node.name in classic.new_methods("base.base_data_loader", "BaseDataLoader"):
                yield 0, node.lineno, f"{cls.name}.{node.name} takes the place of a method that batches need: rename it"
    distributed = _distributed(project, module, cls)
    for call in [node for node in ast.walk(cls) if isinstance(node, ast.Call)]:
        for keyword in call.keywords if isinstance(call.func, ast.Attribute) and _is_super(call.func.value) else ():
            made = isinstance(keyword.value, ast.Call) and keyword.value.func
            if keyword.arg == "sampler" and (
                dotted(keyword.value) in distributed or _is_distributed(project, module, made)
            ):
                yield (
                    0,
                    keyword.value.lineno,
                    "a DistributedSampler is refused: training on several GPUs is not there yet",
                )


def _is_distributed(project: Project, module: Module, func: ast.AST | bool) -> bool:
    return isinstance(func, ast.AST) and project.named(module, func).name.split(".")[-1] == "DistributedSampler"


def _distributed(project: Project, module: Module, cls: ast.ClassDef) -> set[str]:
    """The variables that hold a DistributedSampler, in any case."""
    assigned = [node for node in ast.walk(cls) if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
    made = [
        node
        for node in assigned
        if isinstance(node.value, ast.Call) and _is_distributed(project, module, node.value.func)
    ]
    return {dotted(target) for node in made for target in node.targets} - {""}
