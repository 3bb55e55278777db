"""Setting keys of a config from outside its file: --set, options of the command line, programs."""

import json
import re
from collections.abc import Iterable
from typing import Any

from machinery.config.schema import known
from machinery.config.source import Source, dotted
from machinery.config.values import KeyPath, nearest
from machinery.errors import ConfigError

#: Who sets keys.
COMMAND_LINE, PROGRAM = "command line", "modification"
_NO_SECTION = "is no section of the config"


def set_option(source: Source, text: str) -> None:
    """Do what `--set KEY=VALUE` says.

    Raises:
        ConfigError: there is no such key, or the text is none of this form.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {text}: expected KEY=VALUE, such as --set trainer.epochs=3")
    path = tuple(key.split("."))
    override(source, path, read_value(value), f"{COMMAND_LINE} (--set {key})")


def read_value(text: str) -> Any:
    """A value from the command line: JSON, else the text itself."""
    try:
        return json.loads(text, parse_constant=str)  # NaN is no JSON: a text
    except (ValueError, RecursionError):
        return text


def is_set(where: str) -> bool:
    """Whether a value with this origin was set from outside the config."""
    return where.startswith((f"{COMMAND_LINE} (", f"{PROGRAM} ("))


def override(source: Source, path: KeyPath, value: Any, origin: str) -> None:
    """Set the value at `path`, which must be in the config or among the known keys of its section.

    Of `trainer` an object sets the keys that it has, as in a config with a "base".

    Args:
        origin: who sets it.

    Raises:
        ConfigError: there is no such key.
    """
    if (
        path == ("trainer",)
        and isinstance(value, dict)
        and isinstance(source.values.get("trainer"), dict)
    ):
        for key, item in value.items():
            override(source, ("trainer", key), item, origin)
        return
    container: Any = source.values
    here: KeyPath = ()
    for key in path[:-1]:
        if isinstance(container, list):
            index = _index(container, (*here, key), origin)
            here = (*here, index)
            container = container[index]
        elif isinstance(container, dict):
            here = (*here, str(key))
            container = _section(container, here, origin, source)
        else:
            raise _no_such_key(origin, (*here, key), _NO_SECTION, ())
    if isinstance(container, list):
        here = (*here, _index(container, (*here, path[-1]), origin))
    elif isinstance(container, dict):
        here = (*here, str(path[-1]))
        _check_key(container, here, origin)
    else:
        raise _no_such_key(origin, here, _NO_SECTION, ())
    container[here[-1]] = value
    source.forget(here)
    source.origins[here] = origin


def _section(container: dict[str, Any], path: KeyPath, origin: str, source: Source) -> Any:
    """The section at `path`, in the container above it; one that is known, and is null, is made."""
    key = path[-1]
    section = container.get(str(key))
    if isinstance(section, dict | list):
        return section
    if section is None and key in known(path[:-1]):
        container[str(key)] = {}
        source.origins[path] = origin
        return container[str(key)]
    raise _no_such_key(origin, path, _NO_SECTION, container)


def _index(items: list[Any], path: KeyPath, origin: str) -> int:
    """The index of a list that a key path ends with."""
    key = str(path[-1])
    if not re.fullmatch(r"[0-9]{1,9}", key) or int(key) >= len(items):
        there = f"the list has {len(items)} items, counted from 0"
        raise ConfigError(f"{origin}: {dotted(path)}: {there}")
    return int(key)


def _check_key(container: dict[str, Any], path: KeyPath, origin: str) -> None:
    """Refuse a key that neither the section has nor the schema knows; arguments may be any."""
    *above, key = path
    if "args" in above or key in container:
        return
    possible = known(path[:-1])
    if key not in possible:
        names = [*container, *possible]
        raise _no_such_key(origin, path, "is neither in the config nor a known key", names)


def _no_such_key(origin: str, path: KeyPath, what: str, names: Iterable[str]) -> ConfigError:
    """An error that names the nearest of the keys that there are."""
    key = str(path[-1])
    index: KeyPath = ()
    item = re.fullmatch(r"(.+)\[([0-9]{1,9})\]", key)
    if item is not None:  # groups[1], which is groups.1 here
        key, index = item[1], (int(item[2]),)
    hint = ""
    near = nearest(key, names)
    if near and (near, *index) != (path[-1],):  # it is there, and is no section
        hint = f": did you mean {dotted((*path[:-1], near, *index))}?"
    return ConfigError(f"{origin}: {dotted(path)} {what}{hint}")
