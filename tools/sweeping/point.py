"""One point of a sweep: a run of train.py in a process of its own, watched from its table of epochs."""

import contextlib
import csv
import ctypes
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from machinery.files import ROOT
from machinery.telling import printable

#: Seconds between two looks at the table.
_EVERY = 0.2


class Outcome(NamedTuple):
    """How a point ended: "complete", "pruned" or "failed", its best value, and why it failed."""

    state: str
    value: float | None
    message: str = ""


def run_point(
    config: Path,
    settings: dict[str, Any],
    folder: Path,
    environment: dict[str, str],
    look: Callable[[int, float], bool],
) -> Outcome:
    """Train a point, or go on with it where an earlier try has stopped.

    Args:
        settings: what it sets, by the keys of the config.
        folder: models/NAME/POINT, where it is to be.
        environment: variables for its process.
        look: is shown each epoch and its watched value; True to stop the point there.
    """
    monitor, log = settings["trainer.monitor"], folder.parent.parent.parent / "log" / folder.parent.name / folder.name
    words = ["-c", str(config), "--run_id", folder.name, "-r", "auto"]
    words += [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    _wait_for(folder)
    printed = folder.parent / f".{folder.name}.txt"
    printed.parent.mkdir(parents=True, exist_ok=True)
    printed.unlink(missing_ok=True)
    with open(printed, "x") as file:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C comes from here
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
    seen, stopped = 0, False
    with _passing_on(process):
        ended = False
        while not ended:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_EVERY)
            ended = process.poll() is not None  # before the last look
            for epoch, value in values(log / "metrics.csv", monitor.split()[1]):
                if epoch > seen and not stopped:
                    seen = epoch
                    if look(epoch, value) and not ended:
                        stopped = True
                        process.terminate()
    best = best_of([value for _, value in values(log / "metrics.csv", monitor.split()[1])], monitor)
    if stopped and process.returncode != 0:
        return Outcome("pruned", best)
    if process.returncode != 0 or best is None:
        lines = [line for line in printed.read_text(errors="replace").splitlines() if line.startswith("error")]
        code = process.returncode
        why = f"exit code {code}" if code > 0 else f"killed by signal {-code}"
        why = why if code else f"{monitor.split()[1]} was never finite"
        why = lines[-1].removeprefix("error: ") if lines else why
        return Outcome("failed", best, why)
    printed.unlink()
    return Outcome("complete", best)


def best_of(found: list[float], monitor: str) -> float | None:
    """The best of some values, by "min NAME" or "max NAME"."""
    finite = [value for value in found if math.isfinite(value)]
    return (min if monitor.startswith("min ") else max)(finite) if finite else None


def values(file: Path, name: str) -> list[tuple[int, float]]:
    """The epochs of a table, and the values of one number."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(file, newline="") as rows:
        return [(int(row["epoch"]), float(row[name])) for row in csv.DictReader(rows)]
    return []


def _wait_for(folder: Path) -> None:
    """Until no process of an earlier try, which is being stopped, owns the run."""
    told, owner = "", "another process"
    while True:
        try:
            with open(folder / ".lock", "r+", errors="replace") as file:
                owner = file.read(200).strip()
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except (BlockingIOError, PermissionError):
            if not told:
                told = printable(f"{folder.name}: waiting until {owner} has saved it and ended")
                print(told, flush=True)
            time.sleep(_EVERY)
        except OSError:  # there is none, or train.py will tell
            return


def die_with_parent() -> None:
    """Let a process that is being started end when this one does, also by a kill."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: it saves and leaves


@contextlib.contextmanager
def _passing_on(process: "subprocess.Popen[Any]") -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM stop the process; this one ends once that has saved. A second one kills it."""
    asked: list[tuple[int, float]] = []

    def stop(signum: int, _frame: Any) -> None:
        asked.append((signum, time.monotonic()))
        # Within a second it may be the same one, for a whole group. No wait here: the code that was interrupted may
        # hold the lock of one.
        (process.kill if asked[-1][1] > asked[0][1] + 1 else process.terminate)()

    both = [signum for signum in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(signum) is not signal.SIG_IGN]
    before = {signum: signal.signal(signum, stop) for signum in both}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    if asked:
        raise SystemExit(130 if asked[0][0] == signal.SIGINT else 143)
