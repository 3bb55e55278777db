"""The tasks of docs/own_tasks.md: each diff applies as it stands, is short, and trains, continues
and is tested."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401
from PIL import Image, ImageDraw

import tiny
from pages import changed, log_of, run, runs
from projects import ROOT, command, copy_template, quick

README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "own_tasks.md").read_text()
TASKS = dict(zip("abc", PAGE.split("\n## ")[1:4], strict=True))
EPOCHS = {"a": 20, "b": 12, "c": 2}
CLASSES = ["bar", "disc", "ring"]


def diff_of(task):
    (diff,) = re.findall(r"```diff\n(.*?)```", TASKS[task], re.S)
    return diff


def write_table(folder):
    """Numbers of uneven sizes, and rows that fill no last batch."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, n in (("train", 203), ("test", 57)):
        x = rng.normal(size=(n, 4)) * [1, 10, 0.1, 100] + [0, 50, 3, -200]
        y = 2 * x[:, 0] - x[:, 1] / 10 + np.sin(x[:, 3] / 100) + 0.3 * rng.normal(size=n) + 5
        rows = np.column_stack([x, y])
        np.savetxt(
            folder / f"{name}.csv", rows, "%.5g", delimiter=",", header="a,b,c,d,price", comments=""
        )


def write_shapes(folder):
    """Small pictures of three kinds, not the same number of each."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 30), ("val", 11), ("test", 9)):
        for more, kind in enumerate(CLASSES):
            (folder / part / kind).mkdir(parents=True)
            for i in range(n + more):
                image = Image.new("RGB", (40, 36), tuple(rng.integers(0, 80, 3).tolist()))
                (x, y), colour = (
                    rng.integers(3, 14, 2).tolist(),
                    tuple(rng.integers(150, 255, 3).tolist()),
                )
                draw, box = ImageDraw.Draw(image), (x, y, x + 20, y + 20)
                if kind == "bar":
                    draw.rectangle((x, y + 7, x + 20, y + 13), fill=colour)
                elif kind == "disc":
                    draw.ellipse(box, fill=colour)
                else:
                    draw.ellipse(box, outline=colour, width=3)
                image.save(folder / part / kind / f"{i}.png")


def applied(task, folder):
    """A copy of the template with the diff of a task, and its data."""
    copy_template(folder)
    words = ["git", "apply", "-v", "-"]
    result = subprocess.run(words, cwd=folder, input=diff_of(task), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "offset" not in result.stderr, f"the template has moved below the diff: {result.stderr}"
    if task == "a":
        write_table(folder / "data" / "table")
    if task == "b":
        write_shapes(folder / "data" / "shapes")
    return folder


class Trained(NamedTuple):
    """A task in a project, after a training and a test, and what they printed."""

    task: str
    folder: Path
    printed: str
    tested: str

    def result(self):
        (result,) = json.loads((self.folder / runs(self.task) / "test.json").read_text())["results"]
        return result


@pytest.fixture(scope="module", params=TASKS)
def trained(request, tmp_path_factory):
    task = request.param
    folder = applied(task, tmp_path_factory.mktemp(task) / "project")
    (config,) = re.findall(r"^python train\.py -c (.*)$", TASKS[task], re.M)
    assert "check passed" in run(folder, "train.py", "-c", config, "--check")
    assert not (folder / "saved").exists()
    words = ("--run_id", "RUN", "--set", f"trainer.epochs={EPOCHS[task]}")
    if task == "a":
        # From another folder, where data_dir is still the project's.
        result = quick(folder, "train.py", "-c", folder / config, *words, cwd=folder.parent)
        assert result.returncode == 0, result.stderr
        printed = result.stdout
    else:
        printed = run(folder, "train.py", "-c", config, *words)
    (test,) = re.findall(r"^python (test\.py -r .*)$", TASKS[task], re.M)
    return Trained(task, folder, printed, run(folder, *test.split()))


of_table, of_pictures, of_gan = (
    pytest.mark.parametrize("trained", [task], indirect=True) for task in TASKS
)


def test_each_is_under_forty_lines():
    said = re.findall(r"^## .*: (\d+) lines, (\d+) with blank ones$", PAGE, re.M)
    lines = [changed(diff_of(task)) for task in TASKS]
    counts = [(sum(bool(line[1:].strip()) for line in each), len(each)) for each in lines]
    assert said == [(str(full), str(with_blank)) for full, with_blank in counts]
    assert all(full < 40 for full, _ in counts), counts
    assert max(map(len, PAGE.splitlines())) <= 125 and len(PAGE.splitlines()) <= 620


def test_they_are_clean(trained):
    shutil.copy(ROOT / "pyproject.toml", trained.folder)
    for words in (["check"], ["format", "--check"]):
        result = command(trained.folder, "-m", "ruff", *words, "--no-cache", ".")
        assert result.returncode == 0, result.stdout


def test_it_prints_what_the_page_says(trained):
    (header,) = re.findall(r"^epoch .*$", TASKS[trained.task], re.M)
    assert header in trained.printed.splitlines()
    shown = re.findall(r"^(\w+ +)\d\.\d+$", TASKS[trained.task], re.M)
    assert shown == re.findall(r"^(\w+ +)\d\.\d+$", trained.tested, re.M)


def test_it_continues_exactly_and_is_tested(trained):
    before, last = log_of(trained.folder, trained.task), EPOCHS[trained.task]
    assert len(before) == last
    again = shutil.copytree(trained.folder, trained.folder.parent / "again")
    run(again, "train.py", "-r", f"{runs(trained.task)}/checkpoint-epoch{last - 1}.pth")
    assert log_of(again, trained.task) == before
    result = trained.result()
    assert result["samples"] == {"a": 57, "b": 30, "c": 1000}[trained.task]
    for name, value in result["metrics"].items():
        assert name in before[0] and f"val_{name}" in before[0] and f"{value:.4g}" in trained.tested


R2_BY_HAND = """
import json, torch
from data_loader.data_loaders import Table, TableLoader
from train import load_run
from utils import ROOT

model, config = load_run("saved/models/Table_MLP/RUN")
held_out = TableLoader(**config["data_loader"]["args"]).split_validation()
with torch.no_grad():
    test = Table(ROOT / "data/table/test.csv")
    for data in (held_out, [tuple(torch.stack(part) for part in zip(*test))]):
        y, output = (torch.cat(part).double() for part in zip(*((y, model(x)) for x, y in data)))
        print(len(y), float(1 - ((output - y) ** 2).sum() / ((y - y.mean()) ** 2).sum()))
"""


@of_table
def test_r2_is_that_of_the_whole_epoch(trained):
    lines = run(trained.folder, "-c", R2_BY_HAND).splitlines()[-2:]
    (held_out, by_hand), (tested, test_by_hand) = map(str.split, lines)
    assert (held_out, tested) == ("40", "57")
    best = max(row["val_r2"] for row in log_of(trained.folder, trained.task))
    assert best == pytest.approx(float(by_hand), abs=1e-6) and best > 0.7
    assert trained.result()["metrics"]["r2"] == pytest.approx(float(test_by_hand), abs=1e-6)


STOP = """
import os, runpy, signal, sys
from data_loader.data_loaders import Table

read, seen = Table.__getitem__, []

def stopping(self, index):
    seen.append(index)
    if len(seen) == 250:  # the second epoch: 160 samples and 40 of validation are an epoch
        os.kill(os.getpid(), signal.SIGTERM)
    return read(self, index)

Table.__getitem__ = stopping
sys.argv = "train.py -c table.json --run_id STOPPED --set trainer.epochs=3".split()
runpy.run_path("train.py", run_name="__main__")
"""


@of_table
def test_what_r2_has_counted_is_saved_inside_an_epoch(trained):
    assert "has no state_dict" not in run(trained.folder, "-c", STOP, code=143)
    stopped = trained.folder / runs(trained.task, "STOPPED")
    assert [*stopped.glob("checkpoint-epoch2-step*.pth")]
    run(trained.folder, "train.py", "-r", str(stopped))
    resumed, unbroken = (
        log_of(trained.folder, trained.task, "STOPPED"),
        log_of(trained.folder, trained.task),
    )
    assert resumed[-1]["epoch"] == 3 and resumed == unbroken[:3]


@of_table
def test_the_faster_dataset_gives_the_same_samples(trained):
    faster = shutil.copytree(
        trained.folder, trained.folder.parent / "faster", ignore=shutil.ignore_patterns("saved")
    )
    file = faster / "data_loader" / "data_loaders.py"
    before, middle, after = file.read_text().partition("\n\nclass TableLoader")
    (batch,) = re.findall(r"`(self\.rows\[indices.*)`", PAGE)
    file.write_text(
        f"{before}\n    def __getitems__(self, indices):\n        return {batch}\n{middle}{after}"
    )
    run(faster, "train.py", "-c", "table.json", "--run_id", "RUN", "--set", "trainer.epochs=2")
    pairs = zip(log_of(faster, trained.task), log_of(trained.folder, trained.task), strict=False)
    assert [a == pytest.approx(b, rel=1e-5) for a, b in pairs] == [True, True]


@of_pictures
def test_the_class_names_come_out(trained):
    (code,) = re.findall(r"```python\n(from data_loader.*?)```", TASKS["b"], re.S)
    train = trained.folder / "data" / "shapes" / "train"
    shutil.move(train, trained.folder.parent / "train")  # the names are the checkpoint's
    found = re.findall("|".join(CLASSES), run(trained.folder, "-c", code))
    shutil.move(trained.folder.parent / "train", train)
    truth = [name for more, name in enumerate(CLASSES) for _ in range(9 + more)]
    right = sum(a == b for a, b in zip(found, truth, strict=True)) / 30
    assert right == pytest.approx(trained.result()["metrics"]["accuracy"]) and right > 0.6


@of_pictures
def test_other_folders_than_the_class_names_are_told(trained):
    other = shutil.copytree(trained.folder, trained.folder.parent / "other")
    shutil.rmtree(other / "data" / "shapes" / "test" / "disc")
    told = run(other, "test.py", "-r", runs("b"), code=3)
    assert "has ['bar', 'ring'], the config says ['bar', 'disc', 'ring']" in told


@of_gan
def test_both_networks_of_the_gan_learn_and_are_saved(trained):
    files = [trained.folder / runs("c") / f"checkpoint-epoch{n}.pth" for n in (1, 2)]
    first, second = (torch.load(file, weights_only=True) for file in files)
    assert first["states"].keys() >= {"critic", "critic_optimizer"}
    for a, b in (
        (first["state_dict"], second["state_dict"]),
        (first["states"]["critic"], second["states"]["critic"]),
    ):
        assert a and all(not torch.equal(a[name], b[name]) for name in a)
    assert all(
        0 < value < 10
        for row in log_of(trained.folder, "c")
        for name, value in row.items()
        if name != "lr"
    )


def test_its_update_is_the_one_that_is_tested():
    method = re.search(r"(?m)^\+(    def _update.*\n(?:\+        .*\n)*)", diff_of("c"))
    tested = (ROOT / "tests" / "helpers" / "bending" / "gan.py").read_text()
    assert len(method[1].splitlines()) > 5 and method[1].replace("\n+", "\n") in tested


def test_the_readme_leads_there():
    assert "(docs/own_tasks.md)" in README


class Plain:
    """Names as an object with a state."""

    names = ()

    def state_dict(self):
        return {"names": list(self.names)}

    def load_state_dict(self, state):
        self.names = state["names"]


class Network(torch.nn.Module):
    """Names as a network's extra state."""

    names = ()

    def get_extra_state(self):
        return list(self.names)

    def set_extra_state(self, state):
        self.names = state


@pytest.mark.parametrize("task, plain", [("continue", ["a", "b"]), ("evaluate", ())])
def test_what_comes_back_at_a_test(tmp_path, task, plain):
    def build():
        trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1))
        trainer.plain, trainer.network = Plain(), Network()
        return trainer

    first = build()
    first.plain.names = first.network.names = ["a", "b"]
    first.train()
    again = build()
    again.config.launch.task, again.config.launch.checkpoint = (
        task,
        Path(first.checkpoint_dir) / "model_best.pth",
    )
    again.restore()
    assert (again.plain.names, again.network.names) == (plain, ["a", "b"])
