"""Whether what is in the classic's own files of a project is the classic's, by digests."""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

#: For each of the classic's files the functions and methods of all its versions, 12 hexadecimal
#: digits for each body that one has had; the attributes that its classes have set; and 8 digits for
#: each statement of all.
FACTS = Path(__file__).with_name("classic_bodies.json")
#: What of a compound statement is not in its first line.
_BLOCKS = ("body", "orelse", "handlers", "finalbody")
_PASSED_OVER = ("ctx", "kind", "type_comment", "lineno", "returns", "annotation")


class Body(NamedTuple):
    """A function, or a method of a class, of one of the shared files."""

    #: "BaseTrainer.train".
    name: str
    node: ast.FunctionDef | ast.AsyncFunctionDef


def bodies(tree: ast.Module) -> Iterator[Body]:
    """The functions at the top level of a file, and the methods of its classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Body(node.name, node)
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield Body(f"{node.name}.{inner.name}", inner)


def digest(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """12 digits for what a function does: without comments, docstring, types and layout."""
    words: list[str] = []
    _note(node.args, words)
    _note(_without_docstring(node.body), words)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return body[1:]
    return body


def statements(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.stmt]:
    """The statements of a function, also those within others."""
    for statement in _without_docstring(node.body):
        for inner in ast.walk(statement):
            if isinstance(inner, ast.stmt):
                yield inner


def digest_of_statement(node: ast.stmt) -> str:
    """8 digits for a statement, without the blocks that it has."""
    words: list[str] = []
    _note(node, words, _BLOCKS)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]


def own_lines(body: Body) -> list[int]:
    """The lines of a function with statements that no version of the classic template has."""
    known = set(_facts()["statements"]["all"].split())
    found = {
        node.lineno for node in statements(body.node) if digest_of_statement(node) not in known
    }
    return sorted(found)


def _note(value: Any, words: list[str], without: tuple[str, ...] = ()) -> None:
    """Note what is in some code, in an order that is the same for each version of Python.

    Args:
        without: fields that do not count.
    """
    if isinstance(value, ast.AST):
        words.append(type(value).__name__)
        for name, inner in ast.iter_fields(value):
            if name not in (*_PASSED_OVER, *without) and inner not in (None, []):
                words.append(name)
                _note(inner, words)
    elif isinstance(value, list):
        for item in value:
            _note(item, words)
    else:
        words.append(repr(value))


@functools.cache
def _facts() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(FACTS.read_text(encoding="utf-8"))
    return found


def is_known(path: str, body: Body) -> bool:
    """Whether some version of the classic template has had this body under this name."""
    return digest(body.node) in _facts().get(path, {}).get(body.name, "").split()


def changed(path: str, tree: ast.Module) -> list[Body]:
    """What of the classic's own functions is not as in any of its versions."""
    found = []
    for body in bodies(tree):
        if body.name in _facts().get(path, {}) and not is_known(path, body):
            found.append(body)
    return found


def attributes_of_classic(name: str) -> set[str]:
    """The attributes that a class of the classic template has set in some version."""
    return set(_facts()["attributes"].get(name, "").split())
