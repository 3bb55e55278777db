"""Reads what runs have left in their folders; whatever is missing, foreign or broken there is said, never raised."""

import contextlib
import functools
import json
import math
import os
import re
import socket
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

try:
    import pandas as pd
except ImportError as error:
    raise SystemExit(f"error: {error}; pip install -r requirements-tools.txt") from None

from machinery.config.schema import Config
from machinery.config.settings import TrainerSettings
from machinery.config.source import dotted, leaves
from machinery.files import read_json

#: Folders that hold no runs.
_PASSED_OVER = {"__pycache__", "node_modules", "site-packages", "log"}
#: What the table shows of a config, by its column.
_SHOWN = {"lr": "optimizer.args.lr", "batch": "data_loader.args.batch_size", "seed": "seed"}


@dataclass
class Record:
    """One run."""

    #: `models/NAME/RUN`, and its name for people.
    folder: Path
    name: str
    #: What does not read, in a few words; "" if all does.
    problem: str = ""
    #: The config's values by dotted path.
    config: dict[str, Any] = field(default_factory=dict)
    #: The last process that worked on it: versions, machine, commit.
    environment: dict[str, Any] = field(default_factory=dict)
    #: The rows of `metrics.csv`.
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    #: The columns of the table.
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def log_dir(self) -> Path:
        """Where its log and its event files are."""
        return self.folder.parent.parent.parent / "log" / self.folder.parent.name / self.folder.name


def find_runs(paths: Iterable[Path]) -> list[Record]:
    """The runs below some folders (a project, its `saved`, a run), the oldest name first."""
    folders: dict[Path, Path] = {}
    for path in paths:
        path = Path(os.path.abspath(path))  # noqa: PTH100 - a link stays what it is called
        for folder in [path] if path.parent.parent.name == "models" and not _is_project(path) else _below(path):
            folders.setdefault(folder.resolve(), folder)
    several = len({folder.parent.parent for folder in folders.values()}) > 1
    records = [read_run(each, several) for each in sorted(folders.values(), key=lambda each: (each.name, str(each)))]
    for record in records:
        if sum(other.name == record.name for other in records) > 1:
            record.row["run"] = scalar(str(record.folder))
    for record in records:
        record.name = record.row["run"]
    return records


def _below(path: Path) -> Iterator[Path]:
    """The run folders `models/NAME/RUN` below a path, which may be `models` itself or a NAME in it."""
    if path.parent.name == "models" and not _is_project(path):
        yield from (run for run in _folders(path))
        return
    for place, names, files in os.walk(path):
        here = Path(place)
        if here.name == "models":
            yield from (run for name in _folders(here) for run in _folders(name))
            names.clear()
        deep = len(here.relative_to(path).parts) > 5 or "pyvenv.cfg" in files
        names[:] = [] if deep else [name for name in names if name not in _PASSED_OVER and not name.startswith(".")]


def _is_project(path: Path) -> bool:
    return (path / "train.py").exists() or (path / "saved").is_dir()


def _folders(path: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [each for each in sorted(path.iterdir()) if each.is_dir() and not each.is_symlink()]
    return []


def read_run(folder: Path, full_name: bool = False) -> Record:
    """What a run folder says.

    Args:
        full_name: name it with the folder of its project.
    """
    name = scalar(f"{folder.parent.name}/{folder.name}")
    root = folder.parent.parent.parent
    root = root.parent if root.name == "saved" else root
    record = Record(folder, f"{scalar(root.name)}:{name}" if full_name else name)
    try:
        _fill(record)
    except Exception as error:  # whatever foreign files hold, the others are to be seen
        record.row = {"run": record.name, "status": "broken", "problem": f"{type(error).__name__}: {error}"[:80]}
    record.row = {scalar(name): scalar(value) for name, value in record.row.items()}
    return record


def _fill(record: Record) -> None:
    config = _json(record, "config.json", dict)
    record.config = {scalar(dotted(path)): value for path, value in leaves(config) if path not in ((), ("$schema",))}
    entries = _json(record, "environment.json", list | dict, needed=False)
    entry = entries[-1] if isinstance(entries, list) and entries else entries
    record.environment = entry if isinstance(entry, dict) else {}
    status = _json(record, "status.json", dict, needed=False)
    file = record.log_dir / "metrics.csv"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter(
                "error", pd.errors.ParserWarning
            )  # rows that are longer than the first, of which pandas would make an index
            record.history = pd.read_csv(file, index_col=False) if file.is_file() else pd.DataFrame()
    except (OSError, ValueError, Warning) as error:
        record.problem = record.problem or f"metrics.csv: {type(error).__name__}"
    record.row = _row(record, config, status)


def _json(record: Record, file: str, kind: Any, needed: bool = True) -> Any:
    try:
        content = read_json(record.folder / file)
        if isinstance(content, kind):
            return content
        raise ValueError(f"holds a {type(content).__name__}")
    except FileNotFoundError:
        problem = "is missing" if needed else ""
    except (OSError, ValueError) as error:
        problem = str(error).splitlines()[0][:60]
    record.problem = record.problem or (f"{file} {problem}" if problem else "")
    return {}


def _row(record: Record, config: dict[str, Any], status: dict[str, Any]) -> dict[str, Any]:
    state = scalar(status.get("state", "unknown"))
    if state == "running" and not _owned(record.folder):
        state = "killed"
    epochs = f"{_done(record, status)}/{record.config.get('trainer.epochs', '?')}"
    row: dict[str, Any] = {"run": record.name, "status": state, "epochs": epochs}
    row |= {"best": math.nan, "monitor": "", **_best(record, status)}
    row |= _tested(record)
    given = {"seed": defaults()["seed"], **record.config}
    row |= {column: scalar(given.get(key)) for column, key in _SHOWN.items()}
    seconds = record.history.get("seconds", pd.Series(dtype=float))
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        row["seconds"] = round(float(seconds.sum() if len(seconds) else status.get("seconds", math.nan)), 1)
    row["ended"] = scalar(str(status.get("time", "")))[:16].replace("T", " ")
    commit = scalar(str(record.environment.get("git_commit") or ""))[:8]
    row["commit"] = commit + "+" * bool(commit and record.environment.get("git_dirty"))
    row |= {"status": "broken" if record.problem else row["status"], "problem": scalar(record.problem)}
    return row


def _done(record: Record, status: dict[str, Any]) -> Any:
    """How many epochs have come to their end."""
    if len(record.history) and "epoch" in record.history:
        done = pd.to_numeric(record.history["epoch"], errors="coerce").max()
        if abs(done) < math.inf:
            return int(done)
    if status.get("state") == "running":
        return 0
    epoch = status.get("epoch", "?")
    return epoch - 1 if isinstance(epoch, int) and status.get("state") != "finished" else epoch


def _best(record: Record, status: dict[str, Any]) -> dict[str, Any]:
    """The best value of the number that the config watches."""
    mode, _, watched = str(record.config.get("trainer.monitor", "off")).partition(" ")
    if mode not in ("min", "max") or watched not in record.history:
        return {}
    with contextlib.suppress(KeyError, TypeError, ValueError):  # a run whose monitor has changed judges anew
        return {"best": float(status["best"][watched]), "monitor": watched}
    values = pd.to_numeric(record.history[watched], errors="coerce")
    values = values[values.abs() < math.inf]
    return {"best": float(values.min() if mode == "min" else values.max()), "monitor": watched} if len(values) else {}


def _tested(record: Record) -> dict[str, Any]:
    """The newest numbers of test.py on the test data, of the best checkpoint where there is one."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
        best = "model_best.pth" if (record.folder / "model_best.pth").exists() else None
        for result in read_json(record.folder / "test.json")["results"]:
            meant = result["split"] == "test" and best in (None, result["checkpoint"])
            if meant and is_current(record.folder, result):
                found = {f"test_{name}": scalar(value) for name, value in result["metrics"].items()}
    return found


def is_current(folder: Path, result: dict[str, Any]) -> bool:
    """Whether a result of test.py is of the checkpoint that is there now, and not of one that has been replaced."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        when = datetime.strptime(result["when"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
        return (folder / Path(result["checkpoint"]).name).stat().st_mtime < when + 1
    return False


@functools.cache
def defaults() -> dict[str, Any]:
    """What the keys that a config leaves out stand for."""
    fields = {"": Config.model_fields, "trainer.": TrainerSettings.model_fields}
    every = {f"{prefix}{name}": each for prefix, all_ in fields.items() for name, each in all_.items()}
    return {name: each.default for name, each in every.items() if not each.is_required()}


def number(value: float) -> str:
    """A number as a table shows it: whole ones whole."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def scalar(value: Any) -> Any:
    """A value as a table can hold and anybody can print it."""
    if value is None or isinstance(value, int | float):
        return math.nan if value is None else value
    return str(value).encode("utf-8", "replace").decode()  # also halves of characters, which nobody can print


def _owned(folder: Path) -> bool:
    """Whether the process that the run's lock names is there; of another machine's nobody knows, and it is believed."""
    with contextlib.suppress(OSError, ValueError, OverflowError):
        found = re.fullmatch(
            r"pid (\d+) on (.*)\n?", (folder / ".lock").read_text() if (folder / ".lock").is_file() else ""
        )
        if found is not None and found[2] == socket.gethostname():
            with contextlib.suppress(PermissionError):  # somebody else's
                os.kill(int(found[1]), 0)
        return found is not None
    return False


def differences(records: list[Record]) -> pd.DataFrame:
    """What differs between runs: a line for each key of the config, and of the environment; a column for each run."""
    columns = {}
    for record in records:
        name = record.name if sum(other.name == record.name for other in records) == 1 else scalar(str(record.folder))
        around = {
            f"({scalar(key)})": value for key, value in record.environment.items() if key not in ("command", "host")
        }
        columns[name] = {key: _worded(value) for key, value in {**record.config, **around}.items()}
    table = pd.DataFrame(columns, dtype=object)
    for name, record in zip(columns, records, strict=True):  # what a config leaves out has a value, too
        for key in table.index.intersection(list(defaults())) if record.config else ():
            if key not in record.config and not any(other.startswith(f"{key}.") for other in record.config):
                table.loc[key, name] = _worded(defaults()[key])
    table = table.fillna("—").rename_axis("key")
    return table[table.nunique(axis=1) > 1]


def _worded(value: Any) -> str:
    return str(scalar(value if isinstance(value, str) else json.dumps(value, default=str)))


def as_table(records: list[Record]) -> pd.DataFrame:
    """A line for each run; numbers of tests stand beside the best value."""
    names = dict.fromkeys(name for record in records for name in record.row)
    tests = [name for name in names if name.startswith("test_")]
    others = [name for name in names if name not in tests]
    place = others.index("monitor") + 1 if "monitor" in others else len(others)
    columns = [*others[:place], *tests, *others[place:]]
    return pd.DataFrame([record.row for record in records], columns=columns, dtype=object)
