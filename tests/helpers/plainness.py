"""How plain Python code is: sizes in tokens, decisions inside expressions, forms that hide them.

A visible decision is a statement: an if, a for, a while, an except, a case. A hidden one is inside
an expression: a conditional expression, a comprehension's for and if, an `and` or `or` outside the
test of an if, a while or an assert. Docstrings and comments count for nothing.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
#: Tokens that are no code.
_EMPTY = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_VISIBLE = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.match_case)
#: Functions whose result is a bool.
_ASKING = {"bool", "isinstance", "issubclass", "hasattr", "callable", "any", "all"}


class Source(NamedTuple):
    """A file of Python."""

    path: Path
    text: str
    tree: ast.Module
    #: The line of each token that is code.
    token_lines: list[int]
    #: The ids of the nodes that are in the test of an if, a while or an assert.
    tests: set[int]


class Decisions(NamedTuple):
    visible: int
    hidden: int


class Function(NamedTuple):
    name: str
    line: int
    lines: int
    tokens: int
    complexity: int


class Finding(NamedTuple):
    line: int
    what: str


@cache
def read(path: Path) -> Source:
    """A file, parsed once."""
    return parsed(path, path.read_text(encoding="utf-8"))


def _whole_strings(tokens):
    """Tokens with each f-string as one, as they are before Python 3.12."""
    inside = 0
    for token in tokens:
        kind = tokenize.tok_name[token.type]
        if kind == "FSTRING_START":
            inside += 1
            if inside == 1:
                yield token
        elif kind == "FSTRING_END":
            inside -= 1
        elif inside == 0:
            yield token


def parsed(path: Path, text: str) -> Source:
    """A text as if it were the file's."""
    tree = ast.parse(text)
    documented: set[int] = set()
    tests: set[int] = set()
    for node in ast.walk(tree):
        if is_docstring(node):
            documented.update(range(node.lineno, node.end_lineno + 1))
        if isinstance(node, ast.If | ast.While | ast.Assert):
            tests.update(id(inside) for inside in ast.walk(node.test))
    token_lines = []
    for token in _whole_strings(tokenize.generate_tokens(io.StringIO(text).readline)):
        if token.type not in _EMPTY and token.start[0] not in documented:
            token_lines.append(token.start[0])
    return Source(path, text, tree, token_lines, tests)


def is_docstring(node: ast.AST) -> bool:
    """Whether a statement is a string alone."""
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Constant):
        return False
    return isinstance(node.value.value, str)


def decisions(source: Source, node: ast.AST) -> Decisions:
    """The decisions below a node."""
    visible = 0
    hidden = 0
    for inside in ast.walk(node):
        if isinstance(inside, _VISIBLE):
            visible += 1
        elif isinstance(inside, ast.IfExp):
            hidden += 1
        elif isinstance(inside, ast.comprehension):
            hidden += 1 + len(inside.ifs)
        elif isinstance(inside, ast.BoolOp) and id(inside) not in source.tests:
            hidden += len(inside.values) - 1
    return Decisions(visible, hidden)


def functions(source: Source) -> Iterator[Function]:
    """The functions of a file, methods and inner ones, too."""
    for node in ast.walk(source.tree):
        if isinstance(node, FUNCTIONS):
            lines = range(node.lineno, node.end_lineno + 1)
            tokens = sum(line in lines for line in source.token_lines)
            complexity = 1 + sum(decisions(source, node))
            yield Function(node.name, node.lineno, len(lines), tokens, complexity)


def dense_statements(source: Source, most: int) -> Iterator[Finding]:
    """The statements whose own expressions hide more than `most` decisions."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.stmt) or isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            continue
        hidden = 0
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                hidden += decisions(source, child).hidden
        if hidden > most:
            yield Finding(node.lineno, f"{hidden} hidden decisions in a statement")


def other_forms(source: Source) -> Iterator[Finding]:
    """Decisions in forms that `decisions` does not see."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            name = called(node)
            if name in ("map", "filter", "suppress"):
                yield Finding(node.lineno, name)
            elif name == "getattr" and len(node.args) == 3:
                yield Finding(node.lineno, "getattr with a default")
        elif isinstance(node, ast.Lambda):
            yield Finding(node.lineno, "lambda")
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr | ast.BitAnd):
            yield Finding(node.lineno, "|= or &=")
        elif isinstance(node, ast.BoolOp) and id(node) in source.tests:
            for _ in node.values[3:]:
                yield Finding(node.lineno, "more than three in a test")


def called(call: ast.Call) -> str:
    """The name of the function or method that is called."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return ""


def forbidden_forms(source: Source) -> Iterator[Finding]:
    """Forms that hide a decision, or several, where nobody looks for one."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.IfExp) and _holds(node, (ast.IfExp,)):
            yield Finding(node.lineno, "a conditional expression in another")
        elif isinstance(node, COMPREHENSIONS):
            if len(node.generators) > 1:
                yield Finding(node.lineno, "two for in a comprehension")
            if _holds(node, COMPREHENSIONS):
                yield Finding(node.lineno, "a comprehension in another")
        elif isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.IfExp):
            yield Finding(node.iter.lineno, "for over a conditional expression")
        elif isinstance(node, ast.Assign) and _assigns_many(node):
            yield Finding(node.lineno, "three values or more in one assignment")
    yield from _bools_as_numbers(source.tree, set())


def _holds(node: ast.AST, kinds: tuple[type[ast.AST], ...]) -> bool:
    """Whether another node of these kinds is below."""
    return any(isinstance(inside, kinds) and inside is not node for inside in ast.walk(node))


def _assigns_many(node: ast.Assign) -> bool:
    if not isinstance(node.value, ast.Tuple) or not isinstance(node.targets[0], ast.Tuple):
        return False
    return len(node.value.elts) > 2


def _bools_as_numbers(node: ast.AST, bools: set[str]) -> Iterator[Finding]:
    """Where a bool is multiplied, or is an index or the end of a slice.

    Args:
        bools: names of which is known that they stand for bools.
    """
    if isinstance(node, FUNCTIONS):
        bools = bools | _bool_names(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        if _decides(node.left, bools) or _decides(node.right, bools):
            yield Finding(node.lineno, "multiplied by a bool")
    if isinstance(node, ast.Subscript):
        indices = [node.slice]
        if isinstance(node.slice, ast.Slice):
            indices = [node.slice.lower, node.slice.upper, node.slice.step]
        for index in indices:
            if index is not None and _decides(index, bools):
                yield Finding(node.lineno, "a bool as an index")
    for child in ast.iter_child_nodes(node):
        yield from _bools_as_numbers(child, bools)


def _bool_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    """The arguments that are annotated as bools, and the variables that get one."""
    names = set()
    arguments = function.args
    for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
        if isinstance(argument.annotation, ast.Name) and argument.annotation.id == "bool":
            names.add(argument.arg)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and _is_bool(node.value):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return names


def _decides(node: ast.expr, bools: set[str]) -> bool:
    """Whether a factor, an index or the end of a slice is a decision, as far as it shows."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return _decides(node.operand, bools)
    if isinstance(node, ast.Name):
        return node.id in bools
    return isinstance(node, ast.Compare | ast.BoolOp) or _is_bool(node)


def _is_bool(node: ast.expr) -> bool:
    """Whether an expression is a bool for sure: a comparison may be a mask, an `or` any value."""
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not)
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool)
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _ASKING
    if isinstance(node, ast.BoolOp):
        return all(_is_bool(value) for value in node.values)
    if isinstance(node, ast.Compare):
        return all(isinstance(op, ast.In | ast.NotIn | ast.Is | ast.IsNot) for op in node.ops)
    return False
