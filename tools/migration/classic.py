"""What the classic template's own files define, and what this template's of the same names do."""

import ast
import functools

import utils
from machinery.files import ROOT
from tools.migration.syntax import names_set, nodes_in

#: Packages of both templates, and the one that is new here.
PACKAGES = ("base", "logger", "utils", "parse_config", "machinery")
#: The one of the classic's own files that may stay.
UTIL = "utils/util.py"
_TRAINER = "__init__ _train_epoch train _save_checkpoint _resume_checkpoint _prepare_device"
_CONFIG = (
    "__init__ from_args init_obj init_ftn initialize __getitem__ get_logger config save_dir log_dir"
)
_SETTERS = ("_update_config", "_get_opt_name", "_set_by_path", "_get_by_path")
_HELPERS = ("ensure_dir", "read_json", "write_json", "inf_loop", "prepare_device")
#: The names of the classic's shared files, over its versions: what stands at the top level, and
#: methods.
NAMES: dict[str, dict[str, str]] = {
    "parse_config.py": {
        "ConfigParser": _CONFIG,
        **dict.fromkeys(_SETTERS, ""),
    },
    "base/__init__.py": {},
    "base/base_data_loader.py": {
        "BaseDataLoader": "__init__ _split_sampler split_validation __next__ __len__"
    },
    "base/base_model.py": {"BaseModel": "__init__ forward __str__ summary"},
    "base/base_trainer.py": {"BaseTrainer": _TRAINER},
    "logger/__init__.py": {},
    "logger/logger.py": {"setup_logging": "", "Logger": "__init__ add_entry __str__"},
    "logger/visualization.py": {
        "TensorboardWriter": "__init__ set_step __getattr__",
        "WriterTensorboardX": "__init__ set_step __getattr__",
    },
    "utils/__init__.py": {},
    UTIL: {
        **dict.fromkeys(_HELPERS, ""),
        "MetricTracker": "__init__ reset update avg result",
        "Timer": "__init__ check reset",
    },
}
#: What the classic's packages import from their own files.
_OWN = {"base_data_loader", "base_model", "base_trainer", "logger", "visualization", "util"}


def is_base(origin: str, name: str) -> bool:
    """Whether a dotted name is that of a class of base/, such as "BaseTrainer"."""
    return origin.startswith("base.") and origin.endswith(f".{name}")


def added(path: str, tree: ast.Module) -> list[str]:
    """What a user has added to one of the classic's files, as far as names show it."""
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found += _added_definitions(node, NAMES[path])
        elif isinstance(node, ast.Assign):
            found += _added_variables(node)
        elif isinstance(node, ast.ImportFrom) and path.endswith("__init__.py"):
            found += _added_imports(node)
    return list(dict.fromkeys(found))


def _added_definitions(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, known: dict[str, str]
) -> list[str]:
    """A function or class, or the methods of a class that the classic has, too."""
    if node.name not in known:
        return [node.name]
    if not isinstance(node, ast.ClassDef):
        return []
    known_methods = known[node.name].split()
    found = []
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name not in known_methods:
            found.append(f"{node.name}.{inner.name}")
    return found


def _added_variables(node: ast.Assign) -> list[str]:
    found = []
    for target in node.targets:
        if isinstance(target, ast.Name) and target.id != "__all__":
            found.append(target.id)
    return found


def _added_imports(node: ast.ImportFrom) -> list[str]:
    """An import in a package from a file that the classic's has not."""
    module = node.module or ""
    if module.split(".")[-1] in _OWN:
        return []
    return [f"an import of {module or node.names[0].name}"]


@functools.cache
def _tree(module: str) -> ast.Module | None:
    """A module of this template, parsed; None if there is none of that name."""
    stem = ROOT / module.replace(".", "/")
    for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
        if path.is_file():
            return ast.parse(path.read_text(encoding="utf-8"))
    return None


@functools.cache
def template_names(module: str) -> frozenset[str]:
    """The names that can be imported from a module of this template; none if there is none."""
    tree = _tree(module)
    if tree is None:
        return frozenset()
    names = {path.stem for path in (ROOT / module.replace(".", "/")).glob("*.py")}
    if module == "utils":
        names.update(utils.CLASSIC)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
        else:
            names.update(names_set(node))
    return frozenset(names)


def template_class(module: str, name: str) -> ast.ClassDef:
    """A class of this template.

    Raises:
        LookupError: there is no such class.
    """
    tree = _tree(module)
    if tree is not None:
        for node in nodes_in(tree, ast.ClassDef):
            if node.name == name:
                return node
    raise LookupError(f"{module} has no class {name}")


@functools.cache
def new_methods(module: str, name: str) -> frozenset[str]:
    """The methods of a class of this template that the classic's class of that name has not."""
    before = NAMES[f"{module.replace('.', '/')}.py"][name].split()
    found = []
    for node in template_class(module, name).body:
        if not isinstance(node, ast.FunctionDef) or node.name in before:
            continue
        if not node.name.startswith("__"):
            found.append(node.name)
    return frozenset(found)


def new_files() -> set[str]:
    """The files of this template in the shared packages that the classic has not."""
    files = set()
    for name in PACKAGES:
        for path in (ROOT / name).rglob("*.py"):
            files.add(path.relative_to(ROOT).as_posix())
    return files - set(NAMES)
