"""A classic project (config, loaders, model, trainer with its own loop, train.py) runs
unchanged."""

import csv
import shutil

import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401

from machinery.checkpoints import file as checkpoint
from projects import ROOT, SHARED, command, copy_template, quick

CLASSIC = ROOT / "tests" / "classic_project"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_template(tmp_path_factory.mktemp("classic") / "project", SHARED)
    shutil.copytree(CLASSIC, folder, dirs_exist_ok=True)
    result = command(
        folder, "train.py", "-c", "config.json", "--lr", "0.02", python=["-W", "error"]
    )
    assert result.returncode == 0, result.stderr
    return folder, result


def run_folder(folder):
    (run,) = (folder / "saved" / "models" / "Classic_Rings").iterdir()
    return run


def rows(run):
    path = run.parent.parent.parent / "log" / run.parent.name / run.name / "metrics.csv"
    with open(path, newline="") as file:
        return [
            {k: v for k, v in row.items() if k not in ("seconds", "samples/s")}
            for row in csv.DictReader(file)
        ]


def test_it_trains_and_validates_once_an_epoch(project):
    folder, _ = project
    run = run_folder(folder)
    table = rows(run)
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    assert float(table[-1]["val_hit_rate"]) > 0.6
    assert float(table[-1]["val_loss"]) < float(table[0]["val_loss"])
    state = checkpoint.load(run / "checkpoint-epoch3.pth")
    # Stepped three times, once an epoch: 0.02 falls tenfold after two epochs.
    assert state["states"]["lr_scheduler"]["last_epoch"] == 3
    assert state["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.002)
    assert {"arch", "epoch", "state_dict", "optimizer", "monitor_best", "config"} <= set(state)
    assert (run / "model_best.pth").exists()
    assert list((folder / "saved" / "log" / "Classic_Rings" / run.name).glob("*/events.*"))


def test_it_resumes_exactly_at_an_epoch_edge(project):
    folder, _ = project
    run = run_folder(folder)
    expected = checkpoint.load(run / "checkpoint-epoch3.pth")["state_dict"], rows(run)
    result = quick(folder, "train.py", "-r", run / "checkpoint-epoch1.pth")
    assert result.returncode == 0, result.stderr
    again = checkpoint.load(run / "checkpoint-epoch3.pth")["state_dict"]
    assert all(torch.equal(value, again[name]) for name, value in expected[0].items())
    assert rows(run) == expected[1]


def test_a_bad_name_is_told(project):
    folder, _ = project
    text = (folder / "config.json").read_text().replace('"RingModel"', '"RingModle"')
    (folder / "bad.json").write_text(text)
    result = quick(folder, "train.py", "-c", "bad.json")
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "did you mean 'RingModel'?" in result.stderr


HELPERS = """
import torch
import numpy as np

SHARED = [1, 2]


def helper():
    return 5


def inf_loop(data_loader):
    while True:
        yield from data_loader


def prepare_device(n_gpu):
    print("my own")
    return torch.device("cpu"), []


class MetricTracker:
    def __init__(self, *keys, writer=None):
        self.values = {key: [] for key in keys}

    def reset(self):
        for values in self.values.values():
            values.clear()

    def update(self, key, value, n=1):
        self.values[key].append(float(value))

    def result(self):
        return {key: float(np.mean(values)) for key, values in self.values.items() if values}
"""


@pytest.mark.parametrize("names", ["helper, SHARED, inf_loop, np", "*"])
@pytest.mark.parametrize("package", [None, "from .util import *\nfrom .more import extra\n"])
def test_helpers_of_the_project_s_own(tmp_path, names, package):
    """From utils/util.py by any name, and also where utils/ is wholly the project's own."""
    folder = copy_template(tmp_path / "project", SHARED)
    shutil.copytree(CLASSIC, folder, dirs_exist_ok=True)
    if package is not None:
        shutil.rmtree(folder / "utils")
        (folder / "utils").mkdir()
        (folder / "utils" / "__init__.py").write_text(package)
        (folder / "utils" / "more.py").write_text("def extra():\n    return 6\n")
    (folder / "utils" / "util.py").write_text(HELPERS)
    text = (folder / "train.py").read_text()
    text = text.replace("from utils import prepare_device", f"from utils import {names}\n")
    text = text.replace("SEED = 123", "from utils import prepare_device\nSEED = 123")
    asked = (
        "    assert helper() == 5 and SHARED == [1, 2] and np.mean([1]) == 1\n    trainer.train()"
    )
    (folder / "train.py").write_text(text.replace("    trainer.train()", asked))
    result = quick(folder, "train.py", "-c", "config.json", "--set", "trainer.epochs=1")
    assert result.returncode == 0 and "my own" in result.stdout, result.stderr


def test_a_name_that_no_helper_has(tmp_path):
    import utils

    with pytest.raises(ImportError, match="cannot import name 'helpr'"):
        exec("from utils import helpr")
    assert not hasattr(utils, "_private") and {"inf_loop", "read_json"} <= set(utils.__all__)


def test_a_util_py_of_the_project_s_own_may_stay(tmp_path):
    folder = copy_template(tmp_path / "project", SHARED)
    shutil.copytree(CLASSIC, folder, dirs_exist_ok=True)
    (folder / "utils" / "util.py").write_text(
        "import torch\nfrom itertools import repeat\nfrom utils.metrics import MetricTracker\n\n"
        "def prepare_device(n_gpu_use):\n    print('my "
        "own')\n    return torch.device('cpu'), []\n\n"
        "def inf_loop(data_loader):\n    for loader in "
        "repeat(data_loader):\n        yield from loader\n\n"
        "def helper():\n    return 5\n"
    )
    text = (folder / "train.py").read_text()
    text = text.replace(
        "import prepare_device", "import prepare_device\nfrom utils.util import helper"
    )
    text = text.replace("    trainer.train()", "    assert helper() == 5\n    trainer.train()")
    (folder / "train.py").write_text(text)
    result = quick(folder, "train.py", "-c", "config.json")
    assert result.returncode == 0 and "my own" in result.stdout, result.stderr
    page = (ROOT / "docs" / "migrating.md").read_text()
    for name in ("tools/convert_checkpoint.py", "utils/util.py"):
        assert name in page and (ROOT / name).exists()
