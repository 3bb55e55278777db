"""One parsed file of a project: what it defines and imports, and what is found in it."""

import ast
from collections.abc import Iterator
from typing import NamedTuple

from tools.migration.syntax import names_set, nodes_in

#: The ranks of findings.
REFUSED = 0
DIFFERENT = 1
#: Whoever uses these may have names that are nowhere to be read.
_OPAQUE = ("globals", "exec", "vars", "__getattr__", "setattr")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Finding(NamedTuple):
    """One thing that a project would meet."""

    #: REFUSED, or it fails; or DIFFERENT: it behaves differently.
    rank: int
    place: str
    text: str


class Module:
    """One parsed file.

    Args:
        path: below the project, with slashes.
        tree: what is in it.
    """

    def __init__(self, path: str, tree: ast.Module) -> None:
        self.path = path
        self.tree = tree
        parts = path.removesuffix(".py").split("/")
        self.package = parts[-1] == "__init__"
        if self.package:
            parts.pop()
        self.name = ".".join(parts)
        #: What its top level defines: a class or function, the dotted name that it imports, or None
        #: for any other value.
        self.names: dict[str, ast.AST | str | None] = {}
        #: All imports by their local names, also those in functions.
        self.aliases: dict[str, str] = {}
        #: The modules of which it imports everything.
        self.stars: list[str] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.aliases.update(self._imported(node))
        for statement in _loaded(tree.body):
            self._define(statement)
        #: Whether it may have names that are nowhere to be read.
        self.opaque = "__getattr__" in self.names
        if any(name.id in _OPAQUE for name in nodes_in(tree, ast.Name)):
            self.opaque = True
        #: The packages that it imports from.
        self.packages = {name.split(".")[0] for name in [*self.aliases.values(), *self.stars]}

    def _imported(self, node: ast.Import | ast.ImportFrom) -> dict[str, str]:
        """The names that an import gives, each with the dotted name that it stands for."""
        found = {}
        for alias in node.names:
            if isinstance(node, ast.ImportFrom):
                name = alias.asname or alias.name
                found[name] = f"{self.origin(node)}.{alias.name}"
            elif alias.asname:
                found[alias.asname] = alias.name
            else:  # import a.b gives a
                package = alias.name.split(".")[0]
                found[package] = package
        return found

    def _define(self, node: ast.stmt) -> None:
        """Note the names that a statement of the top level gives."""
        if isinstance(node, _DEFINITIONS):
            is_double = node.name in self.names  # it may be either
            self.names[node.name] = None if is_double else node
        elif isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            self.stars.append(self.origin(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for name in self._imported(node):
                self.names[name] = self.aliases[name]
        else:
            for part in _setting_parts(node):
                self.names.update(dict.fromkeys(names_set(part), None))

    def origin(self, node: ast.ImportFrom) -> str:
        """The absolute name of the module that an import is from."""
        if not node.level:
            return node.module or ""
        above = node.level
        if self.package:
            above -= 1
        parts = self.name.split(".")
        parts = parts[: len(parts) - above]
        if node.module:
            parts.append(node.module)
        return ".".join(parts)

    def absolute(self, name: str) -> str:
        """The name, as any module might write it, of what this one calls `name`."""
        first, *rest = name.split(".")
        if first in self.names or first not in self.aliases:
            return f"{self.name}.{name}"
        return ".".join([self.aliases[first], *rest])

    def nodes(self, *kinds: type[ast.AST]) -> Iterator[ast.AST]:
        """What is of some kinds; of a.b.c.d only a.b.c, where what is looked for stands."""
        for node in ast.walk(self.tree):
            if isinstance(node, kinds) and not _is_long(node):
                yield node

    def refused(self, node: ast.stmt | ast.expr, text: str) -> Finding:
        """A finding of the first rank at some code."""
        return Finding(REFUSED, f"{self.path}:{node.lineno}", text)

    def different(self, node: ast.stmt | ast.expr, text: str) -> Finding:
        """A finding of the second rank at some code."""
        return Finding(DIFFERENT, f"{self.path}:{node.lineno}", text)


def _loaded(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, also those in an `if` or a `try`."""
    waiting = [*reversed(body)]
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _DEFINITIONS):
            waiting += reversed(_statements_in(node))


def _statements_in(node: ast.stmt) -> list[ast.stmt]:
    """The statements of a block, in their order."""
    found: list[ast.stmt] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            found.append(child)
        elif isinstance(child, ast.ExceptHandler):
            found += child.body
    return found


def _setting_parts(node: ast.stmt) -> list[ast.AST]:
    """What of a statement sets variables itself; the statements in a block come on their own."""
    if isinstance(node, ast.For | ast.AsyncFor):
        return [node.target]
    if isinstance(node, ast.With | ast.AsyncWith):
        return [*node.items]
    if isinstance(node, ast.If | ast.While | ast.Try | ast.TryStar):
        return []
    return [node]


def _is_long(node: ast.AST) -> bool:
    """Whether it is a.b.c.d, or longer."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Attribute):
        return False
    return isinstance(node.value.value, ast.Attribute)
