"""The projects of the pages: how their commands are run, and what they have logged."""

import csv

import torchvision.datasets  # noqa: F401

import forked
from projects import script

NAMES = {"a": "Table_MLP", "b": "Folder_CNN", "c": "Digits_GAN"}


def changed(diff):
    """The lines that a diff adds or removes."""
    return [
        line
        for line in diff.splitlines()
        if line[:1] in ("+", "-") and line[:4] not in ("+++ ", "--- ")
    ]


def run(folder, *words, code=0, output=None):
    """Like `python words`, by a fork; returns what it printed."""
    output = output or folder.parent / "output.txt"
    output.unlink(missing_ok=True)
    ended = forked.finish(forked.start(script, folder, words, output=output))
    assert ended == code, output.read_text()
    return output.read_text()


def runs(task, run_id="RUN", name=None):
    return f"saved/models/{name or NAMES[task]}/{run_id}"


def log_of(folder, task, run_id="RUN", name=None):
    """The rows of metrics.csv, without what the clock says."""
    with open(
        folder / runs(task, run_id, name).replace("models", "log") / "metrics.csv", newline=""
    ) as file:
        rows = list(csv.DictReader(file))
    return [
        {key: float(row[key]) for key in row if key not in ("seconds", "samples/s")} for row in rows
    ]
