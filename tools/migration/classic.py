"""What the classic template's own files define, and what this template's files of the same names do."""

import ast
import functools

import utils
from machinery.files import ROOT

#: Packages of both templates, and the one that is new here.
PACKAGES = ("base", "logger", "utils", "parse_config", "machinery")
_TRAINER = "__init__ _train_epoch train _save_checkpoint _resume_checkpoint _prepare_device"
_CONFIG = "__init__ from_args init_obj init_ftn initialize __getitem__ get_logger config save_dir log_dir"
#: The names of the classic's shared files, over its versions: what stands at the top level, and methods.
NAMES: dict[str, dict[str, str]] = {
    "parse_config.py": {
        "ConfigParser": _CONFIG,
        **dict.fromkeys(("_update_config", "_get_opt_name", "_set_by_path", "_get_by_path"), ""),
    },
    "base/__init__.py": {},
    "base/base_data_loader.py": {"BaseDataLoader": "__init__ _split_sampler split_validation __next__ __len__"},
    "base/base_model.py": {"BaseModel": "__init__ forward __str__ summary"},
    "base/base_trainer.py": {"BaseTrainer": _TRAINER},
    "logger/__init__.py": {},
    "logger/logger.py": {"setup_logging": "", "Logger": "__init__ add_entry __str__"},
    "logger/visualization.py": {
        "TensorboardWriter": "__init__ set_step __getattr__",
        "WriterTensorboardX": "__init__ set_step __getattr__",
    },
    "utils/__init__.py": {},
    "utils/util.py": {
        **dict.fromkeys(("ensure_dir", "read_json", "write_json", "inf_loop", "prepare_device"), ""),
        "MetricTracker": "__init__ reset update avg result",
        "Timer": "__init__ check reset",
    },
}
#: What the classic's packages import from their own files.
_OWN = {"base_data_loader", "base_model", "base_trainer", "logger", "visualization", "util"}


def added(path: str, tree: ast.Module) -> list[str]:
    """What a user has added to one of the classic's files, as far as names show it."""
    known, found = NAMES[path], []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            if node.name not in known:
                found.append(node.name)
            elif isinstance(node, ast.ClassDef):
                methods = [inner.name for inner in node.body if isinstance(inner, ast.FunctionDef)]
                found += [f"{node.name}.{name}" for name in methods if name not in known[node.name].split()]
        elif isinstance(node, ast.Assign):
            found += [target.id for target in node.targets if isinstance(target, ast.Name) and target.id != "__all__"]
        elif isinstance(node, ast.ImportFrom) and path.endswith("__init__.py"):
            if (node.module or "").split(".")[-1] not in _OWN:
                found.append(f"an import of {node.module or node.names[0].name}")
    return list(dict.fromkeys(found))


@functools.cache
def _tree(module: str) -> ast.Module | None:
    stem = ROOT / module.replace(".", "/")
    for path in (stem.with_name(f"{stem.name}.py"), stem / "__init__.py"):
        if path.is_file():
            return ast.parse(path.read_text(encoding="utf-8"))
    return None


@functools.cache
def template_names(module: str) -> frozenset[str]:
    """The names that can be imported from a module of this template; none if it has no such module."""
    tree = _tree(module)
    if tree is None:
        return frozenset()
    names = {path.stem for path in (ROOT / module.replace(".", "/")).glob("*.py")}
    if module == "utils":
        names |= {*utils.CLASSIC}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
        else:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return frozenset(names)


def template_class(module: str, name: str) -> ast.ClassDef:
    """A class of this template."""
    tree = _tree(module)
    return next(node for node in ast.walk(tree or ast.Module([], [])) if getattr(node, "name", "") == name)  # type: ignore[return-value]


@functools.cache
def new_methods(module: str, name: str) -> frozenset[str]:
    """The methods of a class of this template that the classic's class of that name has not."""
    methods = {node.name for node in template_class(module, name).body if isinstance(node, ast.FunctionDef)}
    before = NAMES[f"{module.replace('.', '/')}.py"][name].split()
    return frozenset(method for method in methods - set(before) if not method.startswith("__"))


def new_files() -> set[str]:
    """The files of this template in the shared packages that the classic has not."""
    files = {path.relative_to(ROOT).as_posix() for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    return files - set(NAMES)
