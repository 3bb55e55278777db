"""Finds the folders of runs below any folders."""

import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tools.history.records import Record, read_run, scalar

#: Folders that hold no runs.
_PASSED_OVER = {"__pycache__", "node_modules", "site-packages", "log"}
#: Folders between a path and a folder `models` below it, at most.
_DEEPEST = 5


def find_runs(paths: Iterable[Path]) -> list[Record]:
    """The runs below some folders (a project, its `saved`, a run), the oldest name first."""
    folders: dict[Path, Path] = {}
    for path in paths:
        # A link stays what it is called.
        for folder in _run_folders(Path(os.path.abspath(path))):  # noqa: PTH100
            folders.setdefault(folder.resolve(), folder)
    # Where `models` is; runs of several projects are named with them.
    places = {folder.parent.parent for folder in folders.values()}
    records = []
    for folder in sorted(folders.values(), key=_by_name):
        records.append(read_run(folder, full_name=len(places) > 1))
    _tell_apart(records)
    return records


def _by_name(folder: Path) -> tuple[str, str]:
    """What run folders are sorted by: a name is the time of the start, unless it was given."""
    return folder.name, str(folder)


def _tell_apart(records: list[Record]) -> None:
    """Name runs by their folders where several have one name."""
    counts = Counter(record.name for record in records)
    for record in records:
        if counts[record.name] > 1:
            record.name = scalar(str(record.folder))
            record.row["run"] = record.name


def _run_folders(path: Path) -> list[Path]:
    """The run folders `models/NAME/RUN` below a path.

    It may be one itself, `models`, or a NAME in it.
    """
    if not _is_project(path):
        if path.parent.parent.name == "models":
            return [path]
        if path.parent.name == "models":
            return _folders(path)
    found = []
    for place, names, files in os.walk(path):
        here = Path(place)
        if here.name == "models":
            for model in _folders(here):
                found += _folders(model)
            names.clear()
        elif len(here.relative_to(path).parts) > _DEEPEST or "pyvenv.cfg" in files:
            names.clear()
        else:
            names[:] = [name for name in names if _may_hold_runs(name)]
    return found


def _is_project(path: Path) -> bool:
    """Whether a folder is a project, whatever the folders above it are called."""
    return (path / "train.py").exists() or (path / "saved").is_dir()


def _may_hold_runs(name: str) -> bool:
    """Whether to look for runs below a folder of this name."""
    return name not in _PASSED_OVER and not name.startswith(".")


def _folders(path: Path) -> list[Path]:
    """The folders in a folder, without links; none if it cannot be read."""
    found = []
    try:
        for each in sorted(path.iterdir()):
            if each.is_dir() and not each.is_symlink():
                found.append(each)
    except OSError:
        return []
    return found
