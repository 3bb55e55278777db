"""The house as it is read from its files: rooms, modules, imports, names."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from plainness import Source, read

ROOT = Path(__file__).resolve().parent.parent.parent
#: What is not in the core, and not imported there.
AROUND = ("examples", "tools", "tests")
_ENTRANCES = ("train.py", "test.py", "parse_config.py")
_READ_FIRST = ("trainer", "base", "model", "data_loader")
#: The rooms of the machinery, each a folder or a file.
MACHINERY = ("order", "config", "update", "checkpoints", "checks", "launch")


class Import(NamedTuple):
    """A module of ours that a file imports or names in a text, and what it takes from it."""

    line: int
    module: str
    name: str | None

    def __str__(self) -> str:
        if self.name is None:
            return self.module
        return f"{self.module}: {self.name}"


def _python(place: str) -> list[Path]:
    """The files of a folder, or the file of that name."""
    file = (ROOT / place).with_suffix(".py")
    if file.is_file():
        return [file]
    return sorted((ROOT / place).rglob("*.py"))


def rooms() -> dict[str, list[Path]]:
    """The files of the core by room."""
    read_first = [ROOT / name for name in _ENTRANCES]
    for place in _READ_FIRST:
        read_first += _python(place)
    found = {"read first": read_first, "logger": _python("logger"), "utils": _python("utils")}
    in_rooms = []
    for room in MACHINERY:
        found[f"machinery/{room}"] = _python(f"machinery/{room}")
        in_rooms += found[f"machinery/{room}"]
    found["machinery"] = [path for path in _python("machinery") if path not in in_rooms]
    return found


def around() -> dict[str, list[Path]]:
    """The files beside the core that it does not know, by folder."""
    found = {place: _python(place) for place in AROUND}
    classic = ROOT / "tests" / "classic_project"  # is written as people wrote them
    found["tests"] = [path for path in found["tests"] if classic not in path.parents]
    return found


def core() -> list[Source]:
    """The files of the project but tests, tools and examples."""
    found = []
    for paths in rooms().values():
        found += [read(path) for path in paths]
    return found


def shown(source: Source, line: int) -> str:
    """Where something is, as an editor opens it."""
    return f"{source.path.relative_to(ROOT)}:{line}"


def module_of(path: Path) -> str:
    """The name by which a file is imported."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@cache
def modules() -> frozenset[str]:
    """All modules and packages of ours, those around the core, too."""
    names = set(AROUND)
    for paths in rooms().values():
        names.update(module_of(path) for path in paths)
    for folder in AROUND:
        names.update(module_of(path) for path in (ROOT / folder).rglob("*.py"))
    return frozenset(names)


def imports(source: Source) -> Iterator[Import]:
    """What a file imports of ours: anywhere in it, for types alone, by a name in a text."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules():
                    yield _of_module(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield from _of_name(node.lineno, _absolute(source, node), alias.name)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _in_text(node.lineno, node.value)


def target(found: Import) -> str:
    """The module that is loaded: `from machinery import files` is one of `machinery.files`."""
    if found.name is not None and f"{found.module}.{found.name}" in modules():
        return f"{found.module}.{found.name}"
    return found.module


def _absolute(source: Source, node: ast.ImportFrom) -> str:
    """The module of an import, also of a relative one."""
    if node.level == 0:
        return node.module or ""
    package = module_of(source.path).split(".")
    if source.path.name != "__init__.py":
        package.pop()
    kept = package[: len(package) - node.level + 1]
    if node.module is not None:
        kept.append(node.module)
    return ".".join(kept)


def _of_module(line: int, module: str) -> Import:
    """`import a.b` takes b from a, as `from a import b` does."""
    package, _, name = module.rpartition(".")
    if package:
        return Import(line, package, name)
    return Import(line, module, None)


def _of_name(line: int, module: str, name: str) -> Iterator[Import]:
    if module in modules():
        yield Import(line, module, name)


def _in_text(line: int, text: str) -> Iterator[Import]:
    """A text such as "utils.util", "base.base_trainer:BaseTrainer" or "logger.Writer".

    Words without a dot are other things, too: "model" is a section of a config.
    """
    if not re.fullmatch(r"\w+(\.\w+)*:\w+|\w+(\.\w+)+", text):
        return
    module, _, name = text.partition(":")
    if name and module in modules():
        yield Import(line, module, name)
    elif module in modules():
        yield _of_module(line, module)
    else:
        package, _, name = module.rpartition(".")
        if package in modules() and ("." in package or name[:1].isupper()):
            yield Import(line, package, name)


def imported_names(source: Source) -> set[str]:
    """The names that a file's imports bind, of whatever module."""
    names = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                names.add(alias.asname or alias.name.partition(".")[0])
    return names


def own_names() -> set[str]:
    """The names that the core defines: functions, classes, variables, attributes of `self`."""
    names = set()
    for source in core():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if ast.unparse(node.value) in ("self", "cls"):
                    names.add(node.attr)
    return names


def private_names(source: Source) -> Iterator[tuple[int, str]]:
    """The private names that a file uses: `x._name`, `hasattr(x, "_name")`, imported ones."""
    for node in ast.walk(source.tree):
        name = ""
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.name.startswith("_"):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "hasattr",
            "setattr",
        ):
            if isinstance(node.args[1], ast.Constant):
                name = node.args[1].value
        if name.startswith("_") and not name.startswith("__"):
            yield node.lineno, name


def set_from_outside(source: Source) -> Iterator[tuple[int, str]]:
    """The attributes of modules and classes that are set: `module.name = …`, `Class.name = …`."""
    names = imported_names(source)
    inside = _lines_of_classes(source)
    for node in ast.walk(source.tree):
        owner: ast.expr | None = None
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner = node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
            owner = node.args[0]
        if owner is None:
            continue
        root = ast.unparse(owner).partition(".")[0]
        of_a_class = root[:1].isupper() and node.lineno not in inside.get(root, ())
        if root in names or of_a_class:
            yield node.lineno, ast.unparse(node)


def _lines_of_classes(source: Source) -> dict[str, range]:
    classes = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            classes[node.name] = range(node.lineno, node.end_lineno + 1)
    return classes
