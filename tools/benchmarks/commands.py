"""Whole commands, from the start of Python: train.py against tools/bare_loop.py, which trains the same."""

import csv
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

from machinery.files import ROOT
from tools.benchmarks.loops import Case

#: The test digits judge the epochs on both sides.
TESTED = 'valid_data_loader={"type": "DigitsDataLoader", "args": {"training": false, "shuffle": false}}'


def seconds(*command: str) -> float:
    """How long a Python program runs."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, check=True)
    return time.perf_counter() - started


def template(folder: Path, *settings: str) -> list[str]:
    """The command with the template's own config."""
    changes = [part for setting in settings for part in ("--set", setting)]
    return ["train.py", "-c", "config.json", "--set", f"trainer.save_dir={folder}", "--set", TESTED, *changes]


def start(folder: Path, what: str, *other: str) -> Case:
    """From the command to the end of the first step, against another Python program."""
    one = template(folder, "trainer.epochs=1", "trainer.len_epoch=1", "trainer.tensorboard=false")
    return Case(f"start to first step, against {what}", "start", lambda: seconds(*one), lambda: seconds(*other))


def whole(folder: Path, epochs: int) -> Case:
    """The README's first command."""
    return Case(
        f"python train.py -c config.json, {epochs} epochs",
        "run",
        lambda: seconds(*template(folder, f"trainer.epochs={epochs}")),
        lambda: seconds("tools/bare_loop.py", "--epochs", str(epochs)),
    )


def accuracy(folder: Path, target: float) -> Case:
    """From the command to an accuracy on the test digits; each run of a side has another seed."""
    seeds = {"ours": count(1), "bare": count(1)}

    def ours() -> float:
        run_id = f"accuracy{next(seeds['ours'])}"
        command = template(folder, f"seed={run_id.removeprefix('accuracy')}", "trainer.verbosity=0")
        spent = seconds(*command, "--run_id", run_id)
        with (folder / "log" / "Digits_LeNet" / run_id / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        reached = next((k for k, row in enumerate(rows) if float(row["val_accuracy"]) >= target), None)
        if reached is None:
            raise RuntimeError(f"{run_id.replace('accuracy', 'seed ')} did not reach {target}")
        return spent - sum(float(row["seconds"]) for row in rows[reached + 1 :])

    def bare() -> float:
        return seconds("tools/bare_loop.py", "--until", str(target), "--seed", str(next(seeds["bare"])))

    return Case(f"start to {target} on the test digits", "run", ours, bare)
