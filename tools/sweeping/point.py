"""One point of a sweep: a run of train.py in its own process, watched from its table of epochs."""

import csv
import fcntl
import math
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from machinery.files import ROOT, whole_lines
from machinery.telling import printable
from tools import children

#: Seconds between two looks at the table.
_EVERY = 0.2

#: Is shown each epoch and its watched value; True stops the point there.
Look = Callable[[int, float], bool]


def goes_on(_epoch: int, _value: float) -> bool:
    """Stops no point, whatever it is shown."""
    return False


class Outcome(NamedTuple):
    """How a point ended: "complete", "pruned" or "failed", its best value, and why it failed."""

    state: str
    value: float | None
    message: str = ""
    #: The best value of each seed, where a point is trained with several.
    values: tuple[float, ...] = ()

    @property
    def deviation(self) -> float | None:
        """The standard deviation of the values of several seeds."""
        if len(self.values) < 2:
            return None
        return statistics.stdev(self.values)


def together(outcomes: list[Outcome]) -> Outcome:
    """How a point ended that was trained with several seeds: its value is their mean.

    Args:
        outcomes: of each seed; only the last one may be none that is complete.
    """
    last = outcomes[-1]
    if len(outcomes) == 1 or last.state == "failed":
        return last
    values = tuple(each.value for each in outcomes if each.value is not None)
    return Outcome(last.state, statistics.fmean(values), last.message, values)


class Epoch(NamedTuple):
    """An epoch of a table, and the value of one number in it."""

    number: int
    value: float


def run_point(
    config: Path,
    settings: dict[str, Any],
    folder: Path,
    environment: dict[str, str],
    look: Look,
) -> Outcome:
    """Train a point, or go on with it where an earlier try has stopped.

    Args:
        settings: what it sets, by the keys of the config.
        folder: models/NAME/POINT, where it is to be.
        environment: variables for its process.
        look: is shown each epoch and its watched value; True to stop the point there.
    """
    monitor = settings["trainer.monitor"]
    watched = watched_name(monitor)
    save_dir = folder.parent.parent.parent
    table = save_dir / "log" / folder.parent.name / folder.name / "metrics.csv"
    printed = folder.parent / f".{folder.name}.txt"
    _wait_for(folder)
    words = ["-c", str(config), "--run_id", folder.name, "-r", "auto"]
    words += children.setting_words(settings)
    process = _start_training(words, environment, printed)
    with children.passing_on([process], at_second=signal.SIGKILL):
        stopped = _watch(process, table, watched, look)
    best = best_of([epoch.value for epoch in values(table, watched)], monitor)
    if stopped and process.returncode != 0:
        return Outcome("pruned", best)
    if process.returncode != 0 or best is None:
        return Outcome("failed", best, _why(printed, process.returncode, watched))
    printed.unlink()
    return Outcome("complete", best)


def _start_training(
    words: list[str], environment: dict[str, str], printed: Path
) -> subprocess.Popen[bytes]:
    """Start train.py.

    Args:
        words: of its command.
        environment: variables for its process.
        printed: the file that gets what it prints.
    """
    printed.parent.mkdir(parents=True, exist_ok=True)
    printed.unlink(missing_ok=True)
    with open(printed, "x") as file:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C comes from here
            **children.options(environment),
        )


def _watch(process: subprocess.Popen[bytes], table: Path, watched: str, look: Look) -> bool:
    """Let each epoch be looked at until the process has ended; whether it was stopped."""
    seen = 0
    ended = False
    while not ended:
        ended = _ends_soon(process)  # before the last look
        for epoch in values(table, watched):
            if epoch.number <= seen:
                continue
            seen = epoch.number
            is_to_stop = look(epoch.number, epoch.value)
            if is_to_stop and not ended:
                process.terminate()
                process.wait()
                return True
    return False


def _ends_soon(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_EVERY)
    except subprocess.TimeoutExpired:
        return False
    return True


def _why(printed: Path, code: int, watched: str) -> str:
    """Why a process has failed: the last error that it has told, else its exit code."""
    lines = printed.read_text(errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error")]
    if errors:
        return errors[-1].removeprefix("error: ")
    if code > 0:
        return f"exit code {code}"
    if code < 0:
        return f"killed by signal {-code}"
    return f"{watched} was never finite"


def point_name(number: int, repeat: int = 0) -> str:
    """The name of a point's run.

    Args:
        repeat: of its trainings with several seeds, from 0.
    """
    if repeat:
        return f"point-{number:04}-seed{repeat + 1}"
    return f"point-{number:04}"


def watched_name(monitor: str) -> str:
    """The number that "min NAME" or "max NAME" watches."""
    return monitor.partition(" ")[2]


def is_minimized(monitor: str) -> bool:
    """Whether less is better, by "min NAME" or "max NAME"."""
    return monitor.startswith("min ")


def best_of(found: list[float], monitor: str) -> float | None:
    """The best of some values, by "min NAME" or "max NAME"."""
    finite = [value for value in found if math.isfinite(value)]
    if not finite:
        return None
    if is_minimized(monitor):
        return min(finite)
    return max(finite)


def values(file: Path, name: str) -> list[Epoch]:
    """The epochs of a table, and the values of one number; none if it cannot be read."""
    try:
        rows = csv.DictReader(whole_lines(file))
        return [Epoch(int(row["epoch"]), float(row[name])) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):  # not there yet, or no table
        return []


def _wait_for(folder: Path) -> None:
    """Until no process of an earlier try, which is being stopped, owns the run."""
    has_told = False
    owner = "another process"
    while True:
        try:
            with open(folder / ".lock", "r+", errors="replace") as file:
                owner = file.read(200).strip()
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):
            if not has_told:
                what = f"{folder.name}: waiting until {owner} has saved it and ended"
                print(printable(what), flush=True)
                has_told = True
            time.sleep(_EVERY)
        except OSError:  # there is none, or train.py will tell
            return
