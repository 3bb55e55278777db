"""Arguments that take values of the environment: `"${NAME}"`; secrets that stand in a config."""

import os
from collections.abc import Iterator
from typing import Any

from machinery import secrets
from machinery.config.schema import known
from machinery.config.source import Source, dotted, leaves
from machinery.config.values import KeyPath
from machinery.errors import ConfigError


def filled(source: Source, arguments: Any, path: KeyPath) -> Any:
    """A copy of the arguments at `path`, with the values of the environment that they take.

    Args:
        source: of the config.

    Raises:
        ConfigError: a variable is not set, or a secret is not known.
    """
    problems = list(_missing(source, arguments, path))
    if problems:
        raise ConfigError("\n  ".join(problems))
    for here, value in leaves(arguments, path):
        if secrets.is_secret(value, _name_of(here)):
            secrets.remember(value)
    return _filled(arguments)


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item) for item in value]
    if isinstance(value, str):
        return secrets.filled(value)
    return value


def check_known(source: Source) -> None:
    """Refuse arguments whose values nobody knows, before anything is built.

    Raises:
        ConfigError: a variable is not set, or a secret is not known.
    """
    problems = list(_missing(source, source.values, ()))
    if problems:
        raise ConfigError("\n  ".join(problems))


def _missing(source: Source, values: Any, path: KeyPath) -> Iterator[str]:
    """A line for each argument whose value is not known."""
    for here, value in leaves(values, path):
        if not _is_argument(here):
            continue
        where = f"{source.where(here)}: {dotted(here)}"
        for name in _names_in(value):
            if name not in os.environ:
                text = f"(the text ${{{name}}} itself is written $${{{name}}})"
                yield f"{where}: {name} is not set in the environment {text}"
        if _is_lost(here, value):
            again = f"--set '{dotted(here)}=…', or ${{NAME}} for a variable of the environment"
            yield f"{where}: its secret is kept in no record: give it again: {again}"


def _names_in(value: Any) -> list[str]:
    """The variables that a value takes."""
    if isinstance(value, str):
        return secrets.names_in(value)
    return []


def _is_lost(path: KeyPath, value: Any) -> bool:
    """Whether a value, or a key on the way to it, is what a record shows of a secret."""
    if isinstance(value, str) and secrets.is_lost(value, _name_of(path)):
        return True
    return any(secrets.is_lost(str(key), "") for key in path)


def _name_of(path: KeyPath) -> str:
    """The key of a value, or of the list that it is in."""
    *_, name = ("", *(key for key in path if isinstance(key, str)))
    return name


def _is_argument(path: KeyPath) -> bool:
    """Whether a key path is that of an argument, or in one."""
    return "args" in path or "starting_args" in path


def misplaced(source: Source) -> Iterator[str]:
    """A line for each `${NAME}` under a key of the template's that is no argument.

    Args:
        source: of the config.
    """
    for path, value in leaves(source.values):
        if _is_argument(path) or not isinstance(value, str) or not secrets.names_in(value):
            continue
        if _is_known(path):
            where = f"{source.where(path)}: {dotted(path)}"
            yield f"{where}: only args take values of the environment, found {value}"


def _is_known(path: KeyPath) -> bool:
    """Whether a key path is one of the schema's, or that of an item of a list there."""
    if isinstance(path[-1], int):
        path = path[:-1]
    return path[-1] in known(path[:-1])


def plain_secrets(source: Source) -> list[str]:
    """The key paths of the values that hold a secret."""
    found = []
    kept = dict(leaves(secrets.masked(source.values)))
    for path, value in leaves(source.values):
        if path not in kept or kept[path] != value:
            found.append(dotted(path))
    return found
