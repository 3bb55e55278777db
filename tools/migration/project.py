"""A project's files as data: found, read and parsed within limits, and never run."""

import ast
import itertools
import os
import stat
import warnings
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Literal, NamedTuple

from tools.migration import classic
from tools.migration.bodies import changed
from tools.migration.module import Module
from tools.migration.syntax import dotted

# What is read at most, so that a report never takes long.
#: Entries of folders.
ENTRIES = 500_000
#: Folders within folders.
DEPTH = 20
FILES = 2_000
#: Bytes of each Python file, of each JSON file, and of all of them.
PYTHON = 512 * 1024
JSON = 256 * 1024
ALL = 4 * 1024**2
#: Imports that lead from one to the next, and classes that derive from one another.
IMPORTS = 200
BASES = 50
#: Folders that hold no code of the project's.
SKIPPED = {"__pycache__", "site-packages", "node_modules", "venv", "env"}
_CHECKPOINTS = (".pth", ".pt")
_WANTED = (".py", ".json", *_CHECKPOINTS)
#: What a class derives from where that cannot be told.
_UNCLEAR = "?"


class Found(NamedTuple):
    """What a dotted name stands for."""

    #: "here": defined in the project; "outside": in another package; "missing"; "unknown": it
    #: cannot be told.
    kind: Literal["here", "outside", "missing", "unknown"]
    name: str
    module: Module | None = None
    #: A class or function of the module; None for the module itself.
    node: ast.AST | None = None


class Unread(NamedTuple):
    """A file or folder that was not read, and why."""

    path: str
    why: str


class _Folder(NamedTuple):
    """A folder of the project's, to be looked at."""

    #: "" for the project itself; any other ends with a slash.
    path: str
    depth: int


class Project:
    """The Python files, the JSON files and the checkpoints below a folder.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        #: By their names, as they are imported.
        self.modules: dict[str, Module] = {}
        #: The JSON files, by path.
        self.texts: dict[str, str] = {}
        self.checkpoints: list[str] = []
        self.unread: list[Unread] = []
        #: The paths of all Python and JSON files, read or not.
        self.files: list[str] = []
        #: The names of what is in the folder itself.
        self.top: list[str] = []
        self._bytes_left = ALL
        self._meanings: dict[tuple[str, str], Found] = {}
        self._origins: dict[int, set[str]] = {}
        for path in self._walk():
            if path.endswith(_CHECKPOINTS):
                self.checkpoints.append(path)
            elif not path.startswith("saved/"):
                self.files.append(path)
                self._read(path)
        #: The paths of all modules and folders with files in them, without endings.
        self.stems = _stems(self.files)
        by_path = {module.path: module for module in self.modules.values()}
        #: What the user has added to the classic's own files; those whose names are known.
        self.added = _added(by_path)
        self.keeps_utils = bool(self.added.get("utils/__init__.py"))
        self.keeps_util = self.keeps_utils or _is_own(by_path.get(classic.UTIL), self.added)
        #: The files that this template replaces; their code says nothing about what would be met.
        self.replaced: dict[str, Module] = {}
        self._set_replaced_aside(by_path)

    def _set_replaced_aside(self, by_path: dict[str, Module]) -> None:
        """Put the files aside that this template replaces: they stay only as what is lost."""
        kept = []
        if self.keeps_util:
            kept.append(classic.UTIL)
        if self.keeps_utils:
            kept.append("utils/__init__.py")
        for path in self.added:
            if path not in kept:
                self.replaced[path] = by_path[path]
                del self.modules[by_path[path].name]

    def _walk(self) -> Iterator[str]:
        """The paths of the files of the wanted kinds, folder by folder."""
        waiting = [_Folder("", 0)]
        entries_seen = 0
        files_seen = 0
        while waiting:
            folder = waiting.pop()
            try:
                entries = _entries(self.root / folder.path)
            except OSError as error:
                self.unread.append(Unread(folder.path, error.strerror or "unreadable"))
                continue
            if folder.depth == 0:
                self.top = [entry.name for entry in entries]
            files = _files(folder, entries)
            yield from files
            entries_seen += len(entries)
            files_seen += len(files)
            below = self._folders(folder, entries)
            if folder.depth >= DEPTH and below:
                self.unread.append(Unread(folder.path, "nested too deeply"))
            elif files_seen > FILES or entries_seen > ENTRIES:
                why = "too many files: the rest is not read"
                self.unread.append(Unread(folder.path or ".", why))
                return
            else:
                waiting += reversed(below)

    def _folders(self, folder: _Folder, entries: list[os.DirEntry[str]]) -> list[_Folder]:
        """The folders in a folder that may hold code of the project's."""
        found = []
        for entry in entries:
            path = f"{folder.path}{entry.name}"
            if not entry.is_dir(follow_symlinks=False):
                continue
            if entry.name.startswith(".") or entry.name in SKIPPED or path == "data":
                continue
            if not os.path.lexists(self.root / path / "pyvenv.cfg"):
                found.append(_Folder(f"{path}/", folder.depth + 1))
        return found

    def _read(self, path: str) -> None:
        """Read and parse a file, or note why not."""
        try:
            content = self._content(path)
            if path.endswith(".json"):
                self.texts[path] = content.decode("utf-8")
                return
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the project's own strings
                module = Module(path, ast.parse(content))
            self.modules[module.name] = module
        except Exception as error:  # a hostile file may fail in any way
            self.unread.append(Unread(path, _reason(error)))

    def _content(self, path: str) -> bytes:
        """What is in a file.

        Raises:
            ValueError: it is too large, or none of the project's files.
            OSError: it cannot be read.
        """
        full = self.root / path
        if not full.resolve().is_relative_to(self.root.resolve()):
            raise ValueError("a link that leads out of the project")
        status = full.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("no regular file")
        limit = PYTHON if path.endswith(".py") else JSON
        limit = min(limit, self._bytes_left)
        if status.st_size > limit:
            raise ValueError("too large")
        with open(full, "rb") as file:
            content = file.read(limit)
        self._bytes_left -= len(content)
        return content

    def find(self, name: str, seen: set[str] | None = None) -> Found:
        """What a dotted name stands for, through the project's own imports.

        Args:
            seen: the names that led here, so that imports in a circle end.
        """
        if seen is None:
            seen = set()
        if name in seen:
            return Found("missing", name)
        if len(seen) > IMPORTS:
            return Found("unknown", name)
        seen.add(name)
        parts = name.split(".")
        for length in range(len(parts), 0, -1):
            module = self.modules.get(".".join(parts[:length]))
            if module is None:
                continue
            if length == len(parts):
                return Found("here", name, module)
            return self._member(module, parts[length:], seen)
        # What this template replaces is as good as another package.
        if parts[0] in self.stems and parts[0] not in classic.PACKAGES:
            return Found("unknown", name)
        return Found("outside", name)

    def _member(self, module: Module, rest: list[str], seen: set[str]) -> Found:
        """What a name in a module stands for, given as its parts."""
        name = ".".join([module.name, *rest])
        if rest[0] in module.names:
            target = module.names[rest[0]]
            if isinstance(target, str):
                return self.find(".".join([target, *rest[1:]]), seen)
            if target is None or len(rest) > 1:
                return Found("unknown", name)
            return Found("here", name, module, target)
        is_unclear = module.opaque or len(rest) > 1
        for star in module.stars:
            found = self._through_star(star, rest, seen)
            if found.kind in ("here", "outside"):
                return found
            if found.kind == "unknown":
                is_unclear = True
        if module.package and f"{module.name.replace('.', '/')}/{rest[0]}" in self.stems:
            is_unclear = True
        return Found("unknown" if is_unclear else "missing", name)

    def _through_star(self, star: str, rest: list[str], seen: set[str]) -> Found:
        """What a name stands for if an import of everything in `star` has brought it."""
        name = ".".join([star, *rest])
        if star in self.modules:
            return self.find(name, seen)
        if star.split(".")[0] not in classic.PACKAGES:
            return Found("unknown", name)
        if rest[0] in classic.template_names(star):
            return Found("outside", f"{star}.{rest[0]}")
        return Found("missing", name)

    def named(self, module: Module, node: ast.AST | None) -> Found:
        """What an expression such as `nn.Module` stands for in a module."""
        name = dotted(node)
        if not name:
            return Found("unknown", "")
        key = (module.name, name)
        if key not in self._meanings:
            self._meanings[key] = self.find(module.absolute(name))
        return self._meanings[key]

    def origins(self, module: Module, cls: ast.ClassDef, depth: int = BASES) -> set[str]:
        """The classes of other packages that a class derives from.

        Among them are "object", and "?" where that cannot be told.
        """
        if id(cls) in self._origins:
            return self._origins[id(cls)]
        if depth == 0:
            return {_UNCLEAR}
        self._origins[id(cls)] = {_UNCLEAR}  # for a circle
        found: set[str] = set()
        for base in cls.bases:
            found.update(self._origins_of_base(module, base, depth - 1))
        if not found:
            found = {"object"}
        self._origins[id(cls)] = found
        return found

    def _origins_of_base(self, module: Module, base: ast.expr, depth: int) -> set[str]:
        target = self.named(module, base)
        if target.module is not None and isinstance(target.node, ast.ClassDef):
            return self.origins(target.module, target.node, depth)
        if target.kind == "outside":
            return {target.name}
        if target.kind == "missing" and dotted(base) == "object":
            return {"object"}
        return {_UNCLEAR}


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name."""
    with os.scandir(folder) as listing:
        return sorted(itertools.islice(listing, ENTRIES), key=attrgetter("name"))


def _files(folder: _Folder, entries: list[os.DirEntry[str]]) -> list[str]:
    """The paths of the files of the wanted kinds in a folder."""
    found = []
    for entry in entries:
        if entry.name.startswith("._"):  # a Mac's, beside the file itself
            continue
        if entry.name.endswith(_WANTED) and not entry.is_dir(follow_symlinks=False):
            found.append(f"{folder.path}{entry.name}")
    return found


def _reason(error: Exception) -> str:
    """Why a file was not read."""
    if isinstance(error, SyntaxError):
        return f"syntax error in line {error.lineno}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _stems(files: list[str]) -> set[str]:
    """The paths without endings of all Python files, and of all folders that hold files."""
    found = set()
    for path in files:
        if path.endswith(".py"):
            found.add(path.removesuffix(".py"))
        parts = path.split("/")
        for length in range(1, len(parts)):
            found.add("/".join(parts[:length]))
    return found


def _is_own(util: Module | None, added: dict[str, list[str]]) -> bool:
    """Whether a utils/util.py is more than the classic's."""
    if util is None:
        return False
    return bool(added.get(classic.UTIL)) or bool(changed(classic.UTIL, util.tree))


def _added(modules: dict[str, Module]) -> dict[str, list[str]]:
    """What the user has added to each of the classic's own files.

    Args:
        modules: by path.
    """
    found = {}
    for path in classic.NAMES:
        if path in modules:
            found[path] = classic.added(path, modules[path].tree)
    return found
