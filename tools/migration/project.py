"""A project's files as data: found, read and parsed within limits, and never run."""

import ast
import itertools
import os
import stat
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tools.migration import classic

#: What is read at most, so that a report never takes long: entries of folders, folders deep, files, bytes of each
#: Python file and each JSON file, bytes of all.
ENTRIES, DEPTH, FILES, PYTHON, JSON, ALL = 500_000, 20, 2_000, 512 * 1024, 256 * 1024, 4 * 1024**2
SKIPPED = {"__pycache__", "site-packages", "node_modules", "venv", "env"}


class Found(NamedTuple):
    """What a dotted name stands for."""

    #: "here": defined in the project; "outside": in another package; "missing"; "unknown": it cannot be told.
    kind: str
    name: str
    module: "Module | None" = None
    node: ast.AST | None = None


def _loaded(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, also those in an `if` or a `try`."""
    stack = body[::-1]
    while stack:
        node = stack.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt | ast.ExceptHandler)]
            bodies = [child.body if isinstance(child, ast.ExceptHandler) else [child] for child in inner]
            stack.extend([child for part in bodies for child in part][::-1])


@dataclass(eq=False)
class Module:
    """One parsed file.

    Args:
        path: below the project, with slashes.
        tree: what is in it.
    """

    path: str
    tree: ast.Module
    #: What its top level defines: a class or function, the dotted name that it imports, or None for any other value.
    names: dict[str, ast.AST | str | None] = field(default_factory=dict)
    #: All imports by their local names, also those in functions.
    aliases: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)
    #: Whether it may have names that are nowhere to be read.
    opaque: bool = False

    def __post_init__(self) -> None:
        parts = self.path.removesuffix(".py").split("/")
        self.package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.package else parts)
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                self.aliases |= {a.asname or a.name.split(".")[0]: _bound(a) for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                origin = self.origin(node)
                self.aliases |= {a.asname or a.name: f"{origin}.{a.name}" for a in node.names}
            elif isinstance(node, ast.Name) and node.id in ("globals", "exec", "vars", "__getattr__", "setattr"):
                self.opaque = True
        for node in _loaded(self.tree.body):
            self._add(node)
        self.opaque |= "__getattr__" in self.names
        #: The packages that it imports from.
        self.packages = {name.split(".")[0] for name in [*self.aliases.values(), *self.stars]}

    def _add(self, node: ast.stmt) -> None:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            # A name that is given twice may be either.
            self.names[node.name] = None if node.name in self.names else node
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            self.stars.append(self.origin(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            local = [a.asname or (a.name.split(".")[0] if isinstance(node, ast.Import) else a.name) for a in node.names]
            self.names |= {name: self.aliases[name] for name in local}
        else:
            # Of a loop or a block, what it binds itself; the statements in it come on their own.
            parts = [getattr(node, "target", None), *getattr(node, "items", ())] if hasattr(node, "body") else [node]
            inner = [n for part in parts if part is not None for n in ast.walk(part)]
            stored = [n.id for n in inner if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
            self.names |= dict.fromkeys(stored, None)

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
        """What is of some kinds; of a.b.c.d only the beginning, where what is looked for stands."""
        for node in ast.walk(self.tree):
            if isinstance(node, kinds):
                inner = node.value if isinstance(node, ast.Attribute) else None
                if not (isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Attribute)):
                    yield node

    def origin(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module that an import is from."""
        if not node.level:
            return node.module or ""
        parts = self.name.split(".")
        parts = parts[: len(parts) - node.level + self.package]
        return ".".join([*parts, *([node.module] if node.module else [])])


def _bound(alias: ast.alias) -> str:
    return alias.name if alias.asname else alias.name.split(".")[0]


def dotted(node: ast.AST | None) -> str:
    """`a.b.c` of an expression that is such a name, else nothing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < 10:  # no real name is longer
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *parts[::-1]]) if isinstance(node, ast.Name) else ""


class Project:
    """The Python files, the JSON files and the checkpoints below a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.modules: dict[str, Module] = {}
        self.texts: dict[str, str] = {}
        self.checkpoints: list[str] = []
        #: What was not read: the path, and why.
        self.unread: list[tuple[str, str]] = []
        #: Paths of all Python and JSON files, read or not, and of the folder itself the names of what is in it.
        self.files: list[str] = []
        self.top: list[str] = []
        self._left = ALL
        for path in self._walk():
            if path.endswith((".pth", ".pt")):
                self.checkpoints.append(path)
            elif not path.startswith("saved/"):
                self.files.append(path)
                self._read(path)
        #: The paths of all modules and folders with files in them, without endings.
        self.stems = {path.rpartition(".")[0] for path in self.files if path.endswith(".py")}
        self.stems |= {"/".join(path.split("/")[:n]) for path in self.files for n in range(1, path.count("/") + 1)}
        self._origins: dict[int, set[str]] = {}
        self._named: dict[tuple[str, str], Found] = {}
        by_path = {module.path: module for module in self.modules.values()}
        #: What of the classic's own files the user has added to; those whose names are known.
        self.added = {path: classic.added(path, by_path[path].tree) for path in classic.NAMES if path in by_path}
        self.keeps_util = bool(self.added.get("utils/util.py"))
        #: The files that this template replaces; their code says nothing about what would be met.
        self.replaced = {path: by_path[path] for path in self.added if path != "utils/util.py" or not self.keeps_util}
        for module in self.replaced.values():
            del self.modules[module.name]

    def _walk(self) -> Iterator[str]:
        stack, seen, wanted = [("", 0)], 0, 0
        while stack:
            folder, depth = stack.pop()
            try:
                with os.scandir(self.root / folder) as listing:
                    entries = sorted(itertools.islice(listing, ENTRIES), key=lambda entry: entry.name)
            except OSError as error:
                self.unread.append((folder, error.strerror or "unreadable"))
                continue
            seen += len(entries)
            if not folder:
                self.top = [entry.name for entry in entries]
            below = []
            for entry in entries:
                path = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    if self._wanted(path, entry.name):
                        below.append((f"{path}/", depth + 1))
                elif entry.name.endswith((".py", ".json", ".pth", ".pt")):
                    wanted += 1
                    yield path
            if depth >= DEPTH and below:
                self.unread.append((folder, "nested too deeply"))
            elif wanted > FILES or seen > ENTRIES:
                self.unread.append((folder or ".", "too many files: the rest is not read"))
                return
            else:
                stack += below[::-1]

    def _wanted(self, path: str, name: str) -> bool:
        skipped = name.startswith(".") or name in SKIPPED or path == "data"
        return not skipped and not os.path.lexists(self.root / path / "pyvenv.cfg")

    def _read(self, path: str) -> None:
        try:
            full = self.root / path
            if not full.resolve().is_relative_to(self.root.resolve()):
                raise ValueError("a link that leads out of the project")
            status = full.stat()
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("no regular file")
            limit = min(PYTHON if path.endswith(".py") else JSON, self._left)
            if status.st_size > limit:
                raise ValueError("too large")
            with open(full, "rb") as file:
                content = file.read(limit)
            self._left -= len(content)
            if path.endswith(".json"):
                self.texts[path] = content.decode("utf-8")
                return
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the project's own strings
                module = Module(path, ast.parse(content))
            self.modules[module.name] = module
        except Exception as error:  # a hostile file may fail in any way
            told = f"syntax error in line {error.lineno}" if isinstance(error, SyntaxError) else str(error)
            self.unread.append((path, getattr(error, "strerror", None) or told or type(error).__name__))

    def find(self, name: str, seen: set[str] | None = None) -> Found:
        """What a dotted name stands for, through the project's own imports.

        Args:
            seen: the names that led here, so that imports in a circle end.
        """
        parts, seen = name.split("."), set() if seen is None else seen
        if name in seen or len(seen) > 200:
            return Found("missing" if name in seen else "unknown", name)
        seen.add(name)
        for length in range(len(parts), 0, -1):
            module, rest = self.modules.get(".".join(parts[:length])), parts[length:]
            if module is not None:
                return self._member(module, rest, name, seen) if rest else Found("here", name, module)
        # What this template replaces is as good as another package.
        known = parts[0] not in classic.PACKAGES and parts[0] in self.stems
        return Found("unknown" if known else "outside", name)

    def _member(self, module: Module, rest: list[str], name: str, seen: set[str]) -> Found:
        if rest[0] in module.names:
            target = module.names[rest[0]]
            if isinstance(target, str):
                return self.find(".".join([target, *rest[1:]]), seen)
            unknown = target is None or rest[1:]
            return Found("unknown", name) if unknown else Found("here", name, module, target)
        unclear = module.opaque or bool(rest[1:])
        for star in module.stars:
            if star.split(".")[0] in classic.PACKAGES and star not in self.modules:
                if rest[0] in classic.template_names(star):
                    return Found("outside", f"{star}.{rest[0]}")
            elif star not in self.modules:
                unclear = True
            else:
                found = self.find(".".join([star, *rest]), seen)
                if found.kind in ("here", "outside"):
                    return found
                unclear |= found.kind == "unknown"
        unclear |= module.package and f"{module.name.replace('.', '/')}/{rest[0]}" in self.stems
        return Found("unknown" if unclear else "missing", name)

    def named(self, module: Module, node: ast.AST | None) -> Found:
        """What an expression such as `nn.Module` stands for in a module."""
        text = dotted(node)
        if not text:
            return Found("unknown", "")
        if (module.name, text) not in self._named:
            first, *rest = text.split(".")
            imported = first not in module.names and first in module.aliases
            name = ".".join([module.aliases[first], *rest]) if imported else f"{module.name}.{text}"
            self._named[module.name, text] = self.find(name)
        return self._named[module.name, text]

    def origins(self, module: Module, cls: ast.ClassDef, depth: int = 50) -> set[str]:
        """The classes of other packages that a class derives from; "object", and "?" where that cannot be told."""
        if id(cls) in self._origins or not depth:
            return self._origins.get(id(cls), {"?"})
        self._origins[id(cls)] = {"?"}  # for a circle
        found: set[str] = set()
        for base in cls.bases:
            target = self.named(module, base)
            if target.module is not None and isinstance(target.node, ast.ClassDef):
                found |= self.origins(target.module, target.node, depth - 1)
            else:
                builtin = isinstance(base, ast.Name) and base.id == "object" and target.kind == "missing"
                found.add("object" if builtin else target.name if target.kind == "outside" else "?")
        self._origins[id(cls)] = found = found or {"object"}
        return found
