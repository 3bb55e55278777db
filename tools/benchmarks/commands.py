"""Whole commands, from the start of Python: train.py against a loop that trains the same.

That loop is tools/bare_loop.py.
"""

import csv
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path

from machinery.files import ROOT
from tools.benchmarks.loops import Case

#: The test digits judge the epochs on both sides.
_TESTED = (
    'valid_data_loader={"type": "DigitsDataLoader", "args": {"training": false, "shuffle": false}}'
)
_BARE = "tools/bare_loop.py"


def seconds(*command: str) -> float:
    """How long a Python program runs."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - started


def template(folder: Path, *settings: str) -> list[str]:
    """The command with the template's own config."""
    command = ["train.py", "-c", "config.json"]
    for setting in (f"trainer.save_dir={folder}", _TESTED, *settings):
        command += ["--set", setting]
    return command


def start(folder: Path, what: str, other: Sequence[str]) -> Case:
    """From the command to the end of the first step, beside another Python program.

    Args:
        what: the other does.
        other: its command.
    """
    one = ("trainer.epochs=1", "trainer.len_epoch=1", "trainer.tensorboard=false")
    ours = partial(seconds, *template(folder, *one))
    return Case(f"start to step 1, beside {what}", "start", ours, partial(seconds, *other))


def whole(folder: Path, epochs: int) -> Case:
    """The README's first command."""
    ours = partial(seconds, *template(folder, f"trainer.epochs={epochs}"))
    bare = partial(seconds, _BARE, "--epochs", str(epochs))
    return Case(f"train.py -c config.json, {epochs} epochs", "run", ours, bare)


def accuracy(folder: Path, target: float) -> Case:
    """From the command to an accuracy on the test digits; each run of a side has another seed."""
    our_seeds = count(1)
    bare_seeds = count(1)

    def ours() -> float:
        seed = next(our_seeds)
        run_id = f"accuracy{seed}"
        command = template(folder, f"seed={seed}", "trainer.verbosity=0")
        spent = seconds(*command, "--run_id", run_id)
        after = _seconds_after(target, folder / "log" / "Digits_LeNet" / run_id / "metrics.csv")
        if after is None:
            raise RuntimeError(f"seed {seed} did not reach {target}")
        return spent - after

    def bare() -> float:
        return seconds(_BARE, "--until", str(target), "--seed", str(next(bare_seeds)))

    return Case(f"start to {target} on the test digits", "run", ours, bare)


def _seconds_after(target: float, file: Path) -> float | None:
    """How long the epochs took after the one that reached an accuracy; None if none did."""
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    for number, row in enumerate(rows, 1):
        if float(row["val_accuracy"]) >= target:
            return sum(float(later["seconds"]) for later in rows[number:])
    return None
