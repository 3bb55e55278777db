"""What a process has imported: installed packages with their versions, and the project's files."""

import os
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from machinery.files import ROOT

_DRIVER = Path("/proc/driver/nvidia/version")
#: Modules that torch has besides, and does not list.
_OF_TORCH = {"torchgen", "functorch"}
_INSTALLED = {"site-packages", "dist-packages"}


def packages() -> dict[str, str]:
    """The versions of the installed packages of which something was imported, by name."""
    return dict(_versions_of(frozenset(_installed_modules())))


@cache  # a process may train more than once
def _versions_of(modules: frozenset[str]) -> list[tuple[str, str]]:
    """The packages of some modules, each with its version, by name."""
    found = {}
    others = set()
    for name in sorted(modules):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # it has another name: PIL is of Pillow
            others.add(name)
    if others:  # then it takes a while
        for distribution in metadata.distributions():
            if _has_any(distribution, others):
                found[distribution.name] = distribution.version
    return sorted(found.items(), key=_by_name)


def _by_name(package: tuple[str, str]) -> str:
    return package[0].lower()


def _installed_modules() -> set[str]:
    """The first names of the imported modules that are of installed packages."""
    names = {name.partition(".")[0] for name in list(sys.modules)}
    found = set()
    for name in names - sys.stdlib_module_names - _OF_TORCH:
        file = _file_of(sys.modules.get(name))
        if file == "" or name.startswith("_"):
            continue
        # A module of its own: compiled ones may have a name that leaves their package out.
        if not _INSTALLED.isdisjoint(Path(file).parts[-3:-1]):
            found.add(name)
    return found


def _has_any(distribution: metadata.Distribution, modules: set[str]) -> bool:
    """Whether some of these modules, by their first names, are of a package."""
    listed = distribution.read_text("top_level.txt")
    if listed is not None:
        return not modules.isdisjoint(listed.split())
    files = "\n" + (distribution.read_text("RECORD") or "")
    return any(f"\n{name}/" in files or f"\n{name}.py," in files for name in modules)


def own_files() -> list[Path]:
    """The project's files that were imported, or started, relative to its root."""
    root = f"{ROOT}{os.sep}"
    found = set()
    for module in list(sys.modules.values()):  # thousands
        file = _file_of(module)
        if not file.startswith(root):
            continue
        path = Path(file).relative_to(ROOT)
        if _INSTALLED.isdisjoint(path.parts):  # no environment in the project
            found.add(path)
    return sorted(found)


def _file_of(module: ModuleType | None) -> str:
    """The file of a module; empty of one that has none."""
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        return file
    return ""


def driver() -> str | None:
    """The version of NVIDIA's driver, where the system tells."""
    try:
        text = _DRIVER.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # there is none
        return None
    version = re.search(r"Kernel Module\s+(?:for \S+\s+)?([\d.]+)", text)
    if version is None:
        return None
    return version[1]
