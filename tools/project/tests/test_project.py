"""What config.json names works together, whatever it is: yours to keep, not to change.

It trains, goes on exactly where it was stopped, is tested, and is the same on two processes. What
these tests have to know of your task stands in test_mine.py.
"""

import argparse
import csv
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from running import ROOT, run, words
from test_mine import SHORT, TWO_PROCESSES

#: What the files of a run say of the machine.
CLOCK = ("seconds", "samples/s", "peak_gib")
#: The exit codes of data that cannot be read, and of what is refused before anything is done.
NO_DATA = 3
REFUSED = 2


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    """The command line of a short run of config.json; the tests that need it go without data."""
    folder = tmp_path_factory.mktemp("checked")
    settings = {
        "n_gpu": 0,
        "seed": 1,
        "trainer.epochs": 2,
        "trainer.len_epoch": 4 * accumulated(),
        "trainer.save_dir": str(folder),
        "trainer.save_period": 1,
        "trainer.early_stop": None,
        "trainer.tensorboard": False,
        "trainer.trackers": [],
        "trainer.timeout": 60,
        **SHORT,
    }
    found = ["-c", "config.json", *words(settings)]
    checked = run(folder, "train.py", *found, "--check")
    if checked.code == NO_DATA:
        pytest.skip(f"SHORT of test_mine.py could name data that is here: {checked.said}")
    said = f"config.json with SHORT of tests/test_mine.py: {checked.said}"
    assert checked.code == 0 and "check passed" in checked.said, said
    assert not (folder / "models").exists()
    return found


def accumulated():
    """How many batches make an update, as config.json says."""
    from parse_config import ConfigParser

    return ConfigParser(str(ROOT / "config.json")).settings.trainer.accumulate


@pytest.fixture(scope="module")
def whole(line, tmp_path_factory):
    """The folder of a run, and the steps that it took."""
    folder = tmp_path_factory.mktemp("whole")
    ended = run(folder, "train.py", *line, "--set", f"trainer.save_dir={folder}", "--run_id", "a")
    assert ended.code == 0, ended.said
    return run_in(folder), ended.steps


def run_in(folder: Path) -> Path:
    """The only run below a folder."""
    (found,) = folder.glob("models/*/a")
    return found


def newest(run_folder: Path) -> dict[str, Any]:
    """The content of the last checkpoint."""
    return torch.load(run_folder / "checkpoint-epoch2.pth", weights_only=True)


def rows(run_folder: Path) -> list[dict[str, str]]:
    """The numbers of each epoch."""
    place = run_folder.parent.parent.parent / "log" / run_folder.parent.name / run_folder.name
    with open(place / "metrics.csv", newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    for row in found:
        for name in CLOCK:
            row.pop(name, None)
    return found


def test_the_config_is_right_and_its_parts_fit(line):
    """Names, arguments and types of config.json are right; a batch can be trained on."""


def test_it_trains(whole):
    folder, steps = whole
    assert steps > 0 and len(rows(folder)) == 2
    for name, weight in newest(folder)["state_dict"].items():
        assert torch.isfinite(weight.float()).all(), name


def test_a_run_that_is_stopped_goes_on_exactly(whole, line, tmp_path):
    folder, steps = whole
    given = [*line, "--set", f"trainer.save_dir={tmp_path}", "--run_id", "a"]
    stopped = run(tmp_path, "train.py", *given, stop_after=steps // 2 + 1)
    assert stopped.code == 143, stopped.said
    part = run_in(tmp_path)
    assert not (part / "checkpoint-epoch2.pth").exists()
    ended = run(tmp_path, "train.py", "-r", part)
    assert ended.code == 0, ended.said
    assert rows(part) == rows(folder)
    first, second = newest(folder), newest(part)
    for key in ("state_dict", "optimizer", "states"):
        assert bits(second[key]) == bits(first[key]), key


def test_it_is_tested(whole):
    folder, _ = whole
    ended = run(folder, "test.py", "-r", folder)
    assert ended.code == 0, ended.said
    values = [float(value) for value in result_of(folder)["metrics"].values() if number(value)]
    assert result_of(folder)["samples"] > 0 and all(map(math.isfinite, values))


def result_of(folder: Path) -> dict[str, Any]:
    """What test.py has written."""
    from utils import read_json

    return read_json(folder / "test.json")["results"][-1]


def number(value: Any) -> bool:
    """Whether a value is one number; a metric may be a table."""
    return isinstance(value, int | float)


def test_two_processes_train_what_one_does(line, tmp_path):
    """Without dropout and statistics of a batch; what else differs, `TWO_PROCESSES` has to say."""
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        given = [*line, "--set", f"trainer.save_dir={folder}", "--run_id", "a"]
        ended = run(folder, "train.py", *given, processes=processes, still=True)
        if processes == 2 and ended.code == REFUSED:
            pytest.skip(f"two processes cannot train it: {ended.said}")
        assert ended.code == 0, ended.said
        found.append(rows(run_in(folder)))
    if TWO_PROCESSES == "equal":
        for one, two in zip(*found, strict=True):
            numbers = {name: float(value) for name, value in two.items() if value}
            assert numbers == pytest.approx(
                {name: float(value) for name, value in one.items() if value}, rel=1e-3, abs=1e-5
            )


def test_batches_and_outputs_have_the_same_shapes_everywhere(line, tmp_path, monkeypatch):
    from base import one_pass
    from parse_config import ConfigParser
    from train import OPTIONS, build

    monkeypatch.setattr(sys, "argv", ["train.py", *line])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    trainer = build(ConfigParser.from_args(argparse.ArgumentParser(), OPTIONS))
    loaders = [trainer.data_loader]
    if isinstance(trainer.valid_data_loader, dict):
        loaders += trainer.valid_data_loader.values()
    elif trainer.valid_data_loader is not None:
        loaders.append(trainer.valid_data_loader)
    described = []
    for loader in loaders:
        batch = trainer.runtime.move(next(iter(one_pass(loader, 1, 1))))
        with torch.no_grad(), trainer.judged():
            loss, output, target = trainer._forward(batch)
        for value in tensors(loss):
            assert value.ndim == 0 and torch.isfinite(value), "a loss is one finite number"
        described.append([kinds(part) for part in (batch, output, target)])
    for each in described:
        assert each == described[0], "training and validation are of other types"


def leaves(value: Any) -> list[Any]:
    """What a value holds that is no dict, list or tuple."""
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return [value]
    found = []
    for each in value:
        found += leaves(each)
    return found


def tensors(value: Any) -> list[torch.Tensor]:
    """The tensors in a value."""
    return [each for each in leaves(value) if isinstance(each, torch.Tensor)]


def bits(value: Any) -> list[Any]:
    """All that a value holds, to the last bit."""
    found = []
    for each in leaves(value):
        if isinstance(each, torch.Tensor):
            each = (each.dtype, each.shape, each.flatten().view(torch.uint8).numpy().tobytes())
        found.append(repr(each))
    return found


def kinds(value: Any) -> list[tuple[int, torch.dtype]]:
    """The number of dimensions and the type of each tensor in a value."""
    return [(each.ndim, each.dtype) for each in tensors(value)]
