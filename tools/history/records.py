"""Reads what a run has left in its folders.

Whatever is missing, foreign or broken there is said, never raised.
"""

import functools
import io
import itertools
import math
import os
import re
import socket
import warnings
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from machinery.checkpoints import run_folder
from machinery.config.schema import Config
from machinery.config.settings import TrainerSettings
from machinery.config.source import dotted, leaves
from machinery.files import read_json, whole_lines

#: What the table shows of a config, by its column.
_SHOWN = {"lr": "optimizer.args.lr", "batch": "data_loader.args.batch_size", "seed": "seed"}
#: What of a problem fits into the table.
_LONGEST_ERROR = 80
_LONGEST_REASON = 60
#: What runs.py keeps of what people say of a run, in its folder.
NOTES = "notes.txt"
#: Bytes of it that are read.
_LONGEST_NOTE = 10_000
#: What sweep.py says of a run that is one of its points, in its folder.
POINT = "sweep.json"


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
    #: The keys of the config that its command lines, or a sweep, have set.
    varied: set[str] = field(default_factory=set)
    #: The rows of `metrics.csv`.
    history: pd.DataFrame = field(default_factory=pd.DataFrame)
    #: The columns of the table.
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def log_dir(self) -> Path:
        """Where its log and its event files are."""
        project = self.folder.parent.parent.parent
        return project / "log" / self.folder.parent.name / self.folder.name

    def note(self, problem: str) -> None:
        """Note what does not read; the first problem is the one that is told."""
        if not self.problem:
            self.problem = problem

    def holds(self, key: str) -> bool:
        """Whether its config has an object at a key, such as a component."""
        return any(other.startswith(f"{key}.") for other in self.config)

    def leaves_out(self, key: str) -> bool:
        """Whether it has a config that says nothing of a key."""
        if not self.config or key in self.config:
            return False
        return not self.holds(key)


class Best(NamedTuple):
    """The best value of the number that a config watches, and that number's name."""

    value: float = math.nan
    monitor: str = ""


def scalar(value: Any) -> Any:
    """A value as a table can hold and anybody can print it."""
    if value is None:
        return math.nan
    if isinstance(value, int | float):
        return value
    return str(value).encode("utf-8", "replace").decode()  # halves of characters cannot be printed


def is_missing(value: Any) -> bool:
    """Whether a value of a table is none."""
    return value is None or value != value  # as NaN


@functools.cache
def defaults() -> dict[str, Any]:
    """What the keys that a config leaves out stand for."""
    found = {}
    for prefix, model in (("", Config), ("trainer.", TrainerSettings)):
        for name, each in model.model_fields.items():
            if not each.is_required():
                found[f"{prefix}{name}"] = each.default
    return found


def read_run(folder: Path, full_name: bool = False) -> Record:
    """What a run folder says.

    Args:
        full_name: name it with the folder of its project.
    """
    name = scalar(f"{folder.parent.name}/{folder.name}")
    if full_name:
        project = folder.parent.parent.parent
        if project.name == "saved":
            project = project.parent
        name = f"{scalar(project.name)}:{name}"
    record = Record(folder, name)
    try:
        row = _read(record)
    except Exception as error:  # whatever foreign files hold, the others are to be seen
        problem = f"{type(error).__name__}: {error}"[:_LONGEST_ERROR]
        row = {"run": name, "status": "broken", "problem": problem}
    record.row = {scalar(column): scalar(value) for column, value in row.items()}
    return record


def _read(record: Record) -> dict[str, Any]:
    """Fill a record from the files of its run; its row of the table."""
    record.config = _by_key(_content(record, "config.json", dict))
    entries = _environments(record)
    if entries:
        record.environment = entries[-1]
    for entry in entries:
        record.varied |= set_keys(entry.get("command"))
    status = _content(record, "status.json", dict, needed=False)
    point = _content(record, POINT, dict, needed=False)
    space = point.get("space")
    if isinstance(space, list):
        record.varied |= {scalar(str(key)) for key in space}
    if point.get("state") == "pruned" and status.get("state") == "stopped":
        status["state"] = "pruned"
    record.history = _history(record)
    return _row(record, status)


def _by_key(config: dict[str, Any]) -> dict[str, Any]:
    """The values of a config by dotted path."""
    found = {}
    for path, value in leaves(config):
        if path not in ((), ("$schema",)):
            found[scalar(dotted(path))] = value
    return found


def _content(record: Record, file: str, kind: Any, needed: bool = True) -> Any:
    """What one of a run's JSON files holds; an empty object where it does not read.

    Args:
        kind: what it has to be.
        needed: that there is no such file is a problem.
    """
    try:
        content = read_json(record.folder / file)
    except FileNotFoundError:
        if needed:
            record.note(f"{file} is missing")
        return {}
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:_LONGEST_REASON]
        record.note(f"{file} {reason}")
        return {}
    if not isinstance(content, kind):
        record.note(f"{file} holds a {type(content).__name__}")
        return {}
    return content


def _environments(record: Record) -> list[dict[str, Any]]:
    """What is known of the processes that worked on a run, the last one last."""
    entries = _content(record, "environment.json", list | dict, needed=False)
    if isinstance(entries, dict):
        entries = [entries]
    return [entry for entry in entries if isinstance(entry, dict)]


def set_keys(command: Any) -> set[str]:
    """The keys of the config that a command line sets by `--set KEY=VALUE`."""
    if not isinstance(command, list):  # another program's
        return set()
    found = set()
    for before, word in itertools.pairwise(str(word) for word in command):
        text = ""
        if before == "--set":
            text = word
        elif word.startswith("--set="):
            text = word.removeprefix("--set=")
        key, sign, _ = text.partition("=")
        if sign:
            found.add(scalar(key.strip()))
    return found


def note_of(folder: Path) -> str:
    """What people have said of a run; "" if nothing, or where it does not read."""
    file = folder / NOTES
    try:
        if not file.is_file():  # reading a pipe would wait
            return ""
        with file.open(encoding="utf-8", errors="replace") as text:
            return text.read(_LONGEST_NOTE).strip()
    except OSError:
        return ""


def _history(record: Record) -> pd.DataFrame:
    """The rows of `metrics.csv`; none where they do not read."""
    file = record.log_dir / "metrics.csv"
    try:
        if file.is_file():  # reading a pipe would wait
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # Of rows that are longer than the first, pandas would make an index.
                warnings.simplefilter("error", pd.errors.ParserWarning)
                return pd.read_csv(io.StringIO("".join(whole_lines(file))), index_col=False)
    except (OSError, ValueError, Warning) as error:
        record.note(f"metrics.csv: {type(error).__name__}")
    return pd.DataFrame()


def _row(record: Record, status: dict[str, Any]) -> dict[str, Any]:
    """The columns of the table, in their order."""
    best = _best(record, status)
    settings = {"seed": defaults()["seed"], **record.config}
    epochs = record.config.get("trainer.epochs", "?")
    row = {
        "run": record.name,
        "status": _state(record, status),
        "epochs": f"{_done(record, status)}/{epochs}",
        "best": best.value,
        "monitor": best.monitor,
    }
    row.update(_tested(record))
    for column, key in _SHOWN.items():
        row[column] = settings.get(key)
    row["seconds"] = _seconds(record, status)
    row["ended"] = scalar(str(status.get("time", "")))[:16].replace("T", " ")
    row["commit"] = _commit(record.environment)
    row["problem"] = record.problem
    row["notes"] = "; ".join(note_of(record.folder).splitlines())
    return row


def _state(record: Record, status: dict[str, Any]) -> Any:
    """How a run has ended, or that it has not."""
    if record.problem:
        return "broken"
    state = status.get("state", "unknown")
    if state == "running" and not _is_owned(record.folder):
        return "killed"
    return state


def _is_owned(folder: Path) -> bool:
    """Whether the process that the run's lock names is there.

    Of another machine's nobody knows, and it is believed.
    """
    file = folder / ".lock"
    try:
        if not file.is_file():  # reading a pipe would wait
            return False
        found = re.fullmatch(r"pid (\d+) on (.*)\n?", file.read_text())
        if found is None:
            return False
        if found[2] != socket.gethostname():
            return True
        return _is_alive(int(found[1]))
    except (OSError, ValueError, OverflowError):
        return False


def _is_alive(process: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(process, 0)  # which asks, and kills nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return True


def _done(record: Record, status: dict[str, Any]) -> Any:
    """How many epochs have come to their end."""
    if len(record.history) and "epoch" in record.history:
        done = pd.to_numeric(record.history["epoch"], errors="coerce").max()
        if abs(done) < math.inf:
            return int(done)
    state = status.get("state")
    if state == "running":
        return 0
    epoch = status.get("epoch", "?")
    if state != "finished" and isinstance(epoch, int):
        return epoch - 1
    return epoch


def _best(record: Record, status: dict[str, Any]) -> Best:
    """The best value of the number that the config watches."""
    mode, _, watched = str(record.config.get("trainer.monitor", "off")).partition(" ")
    if mode not in ("min", "max") or watched not in record.history:
        return Best()
    try:
        return Best(float(status["best"][watched]), watched)
    except (KeyError, TypeError, ValueError):  # a run whose monitor has changed judges anew
        pass
    values = pd.to_numeric(record.history[watched], errors="coerce")
    finite = values.abs() < math.inf
    values = values[finite]
    if values.empty:
        return Best()
    if mode == "min":
        return Best(float(values.min()), watched)
    return Best(float(values.max()), watched)


def _tested(record: Record) -> dict[str, Any]:
    """The newest numbers of test.py on the test data.

    They are of the best checkpoint where there is one.
    """
    found: dict[str, Any] = {}
    try:
        best = run_folder.best(record.folder)
        for result in read_json(record.folder / "test.json")["results"]:
            if result["split"] != "test":
                continue
            if best is not None and result["checkpoint"] != best.name:
                continue
            if is_current(record.folder, result):
                metrics = result["metrics"]
                found = {f"test_{name}": value for name, value in metrics.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none, or another program's
        pass
    return found


def is_current(folder: Path, result: dict[str, Any]) -> bool:
    """Whether a result of test.py is of the checkpoint that is there now.

    It may be of one that has been replaced.
    """
    try:
        when = datetime.strptime(result["when"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
        changed = (folder / Path(result["checkpoint"]).name).stat().st_mtime
    except (OSError, ValueError, TypeError):
        return False
    return changed < when + 1


def _seconds(record: Record, status: dict[str, Any]) -> float:
    """How long a run has taken; NaN if nobody knows."""
    try:
        seconds = status.get("seconds", math.nan)
        if len(record.history) and "seconds" in record.history:
            seconds = record.history["seconds"].sum()
        return round(float(seconds), 1)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _commit(environment: dict[str, Any]) -> str:
    """The commit of the code, with a "+" if that had been changed."""
    commit = scalar(str(environment.get("git_commit") or ""))[:8]
    if commit and environment.get("git_dirty"):
        return f"{commit}+"
    return commit
