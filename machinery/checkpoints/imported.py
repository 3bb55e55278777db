"""What a process has imported: installed packages with their versions, and the project's files."""

import re
import sys
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
    found = {}
    others = set()
    for name in sorted(_installed_modules()):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # it has another name: PIL is of Pillow
            others.add(name)
    if others:  # then it takes a while
        for distribution in metadata.distributions():
            if others & _modules_of(distribution):
                found[distribution.name] = distribution.version
    return dict(sorted(found.items(), key=_by_name))


def _by_name(package: tuple[str, str]) -> str:
    return package[0].lower()


def _installed_modules() -> set[str]:
    """The first names of the imported modules that are of installed packages."""
    names = {name.partition(".")[0] for name in list(sys.modules)}
    found = set()
    for name in names - sys.stdlib_module_names - _OF_TORCH:
        file = _file_of(sys.modules.get(name))
        if file is None or name.startswith("_"):
            continue
        # A module of its own: compiled ones may have a name that leaves their package out.
        if _INSTALLED & {file.parent.name, file.parent.parent.name}:
            found.add(name)
    return found


def _modules_of(distribution: metadata.Distribution) -> set[str]:
    """The first names of the modules that a package consists of."""
    listed = distribution.read_text("top_level.txt")
    if listed is not None:
        return set(listed.split())
    files = distribution.read_text("RECORD") or ""
    return set(re.findall(r"^(\w+)(?=/|\.py,)", files, re.MULTILINE))


def own_files() -> list[Path]:
    """The project's files that were imported, or started, relative to its root."""
    found = set()
    for module in list(sys.modules.values()):
        file = _file_of(module)
        if file is None or not file.is_relative_to(ROOT):
            continue
        path = file.relative_to(ROOT)
        if not _INSTALLED & set(path.parts):  # an environment in the project
            found.add(path)
    return sorted(found)


def _file_of(module: ModuleType | None) -> Path | None:
    """The file of a module; None of one that has none."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    return Path(file).absolute()


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
