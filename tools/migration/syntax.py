"""Small questions about code that is read as data."""

import ast
from typing import TypeVar

Node = TypeVar("Node", bound=ast.AST)
#: No real name has more parts.
_LONGEST = 10


def nodes_in(tree: ast.AST, kind: type[Node]) -> list[Node]:
    """What is of a kind, the tree itself included."""
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def dotted(node: ast.AST | None) -> str:
    """`a.b.c` of an expression that is such a name, else nothing."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute) and len(parts) < _LONGEST:
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


def text_of(node: ast.AST) -> str:
    """The text that an expression is, such as `"loss"`; else nothing."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""


def names_set(node: ast.AST) -> list[str]:
    """The variables that are set anywhere in some code."""
    return [name.id for name in nodes_in(node, ast.Name) if isinstance(name.ctx, ast.Store)]


def attributes_set(node: ast.AST) -> list[ast.Attribute]:
    """The attributes that are set anywhere in some code, of any object."""
    return [each for each in nodes_in(node, ast.Attribute) if isinstance(each.ctx, ast.Store)]


def method_of_super(call: ast.Call) -> str:
    """The method that a call such as `super().train()` is of; nothing if it is no such call."""
    if not isinstance(call.func, ast.Attribute):
        return ""
    owner = call.func.value
    if isinstance(owner, ast.Call) and dotted(owner.func) == "super":
        return call.func.attr
    return ""


def is_open(call: ast.Call) -> bool:
    """Whether a call has arguments that cannot be read from it: `*values`, `**options`."""
    if any(keyword.arg is None for keyword in call.keywords):
        return True
    return any(isinstance(argument, ast.Starred) for argument in call.args)
