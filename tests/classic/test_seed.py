"""The seed that a classic script sets, where its config has none, is that of the run."""

import json
import random
import shutil

import numpy as np
import pytest
import torch
import torch.utils.tensorboard
from torch import nn

import ranks
from machinery import distributed
from machinery.checkpoints import file as checkpoint
from machinery.config.scripts import Seeding, script_seed
from projects import ROOT, SHARED, copy_template, quick

CLASSIC = ROOT / "tests" / "classic_project"
MODEL = """
import random

import numpy as np
import torch
import torch.nn as nn
from base import BaseModel


class RingModel(BaseModel):
    def __init__(self, hidden=5):
        super().__init__()
        self.fc1 = nn.Linear(2, hidden)
        self.fc2 = nn.Linear(hidden, 1)
        # No checkpoint holds them: a resumed run has to draw them again.
        self.shift = float(np.random.rand())
        self.factors = [random.random(), float(torch.rand(()))]

    def forward(self, x):
        x = torch.relu(self.fc1(x + self.shift)) * self.factors[0]
        x = nn.functional.dropout(x, 0.1, training=self.training)
        return self.fc2(x).squeeze(1) * self.factors[1]
"""
NOTE = """
    torch.save({"weights": model.state_dict(), "own": [model.shift, *model.factors],
                "later": torch.rand(3)}, "initial.pth")
    device, device_ids"""
#: As the classic's own, which seeds nothing.
TEST = """
import argparse
import torch
import data_loader.data_loaders as module_data
import model.model as module_arch
from parse_config import ConfigParser

parser = argparse.ArgumentParser()
parser.add_argument("-r", "--resume", default=None)
parser.add_argument("-c", "--config", default=None)
parser.add_argument("-d", "--device", default=None)
config = ConfigParser.from_args(parser)
module_data.RingDataLoader(".", 64, validation_split=0.1, training=False, num_workers=0)
model = config.init_obj("arch", module_arch)
torch.save([model.shift, *model.factors], "tested.pth")
"""


def made(folder, seed, python_s_own=True, late=False):
    """A classic project whose script has a seed, for which nothing is in its config."""
    copy_template(folder, SHARED)
    shutil.copytree(CLASSIC, folder, dirs_exist_ok=True)
    (folder / "model" / "model.py").write_text(MODEL)
    (folder / "test.py").write_text(TEST)
    config = json.loads((folder / "config.json").read_text())
    config["data_loader"]["args"]["num_workers"] = 0
    config["trainer"] |= {"epochs": 2, "tensorboard": False}
    (folder / "config.json").write_text(json.dumps(config))
    reseeded(folder, seed, python_s_own, late)
    return folder


def reseeded(folder, seed, python_s_own=True, late=False):
    text = (CLASSIC / "train.py").read_text()
    lines = "torch.manual_seed(SEED)\nnp.random.seed(SEED)\n"
    assert lines in text
    seeds = lines
    if python_s_own:
        seeds += "import random\nrandom.seed(SEED)\n"
    text = text.replace("SEED = 123", f"SEED = {seed}")
    text = text.replace("    device, device_ids", NOTE, 1)
    if late:  # once it has read its config
        text = text.replace(lines, "")
        text = text.replace("def main(config):\n", "def main(config):\n" + indented(seeds))
    else:
        text = text.replace(lines, seeds)
    (folder / "train.py").write_text(text)


def indented(lines):
    return "".join(f"    {line}\n" for line in lines.splitlines())


def trained(folder, *words):
    result = quick(folder, "train.py", *(words or ("-c", "config.json")))
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def newest(folder):
    return max((folder / "saved" / "models" / "Classic_Rings").iterdir())


def final(folder, run=None):
    state = checkpoint.load((run or newest(folder)) / "checkpoint-epoch2.pth")["state_dict"]
    return {name: value.clone() for name, value in state.items()}


def same(a, b):
    return all(torch.equal(value, b[name]) for name, value in a.items())


def drawn_by_the_classic(seed):
    """What the classic template draws for the parts: loader first, then the model."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    np.random.seed(0)  # its split
    np.random.shuffle(np.arange(301))
    weights = {**nn.Linear(2, 5).state_dict(prefix="fc1.")}
    weights |= nn.Linear(5, 1).state_dict(prefix="fc2.")
    own = [float(np.random.rand()), random.random(), float(torch.rand(()))]
    return weights, own, torch.rand(3)


@pytest.mark.parametrize("late", [False, True])
def test_another_seed_of_the_script_is_another_run(tmp_path, late):
    finals = []
    for seed in (1, 2):
        folder = made(tmp_path / f"seed{seed}", seed, late=late)
        told = trained(folder)
        assert told.count(f"seed {seed}: that of the script") == 1
        initial = torch.load(folder / "initial.pth")
        weights, own, later = drawn_by_the_classic(seed)
        assert same(weights, initial["weights"])
        assert own == initial["own"] and torch.equal(later, initial["later"])
        finals.append(final(folder))
    assert not same(*finals)
    again = made(tmp_path / "again", 2, late=late)
    trained(again)
    assert same(final(again), finals[1])


def test_order_and_epochs_follow_it(tmp_path):
    """Also where the weights are the same."""
    finals = []
    for seed in (1, 2):
        folder = made(tmp_path / f"seed{seed}", seed)
        text = (folder / "train.py").read_text()
        fixed = "    torch.manual_seed(9); np.random.seed(9); import random; random.seed(9)\n"
        for param in ("model.fc1.weight", "model.fc1.bias", "model.fc2.weight", "model.fc2.bias"):
            fixed += f"    torch.nn.init.constant_({param}, 0.3)\n"
        fixed += "    model.shift, model.factors = 0.1, [1.0, 1.0]\n"
        text = text.replace("    logger.info(model)\n", fixed)
        (folder / "train.py").write_text(text)
        trained(folder)
        finals.append(final(folder))
    assert not same(*finals)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("python_s_own", [True, False])
@pytest.mark.parametrize("then", [1, 7])
def test_a_resumed_run_is_the_unbroken_one_whatever_the_seed_is_then(
    tmp_path, then, python_s_own, late
):
    folder = made(tmp_path / "project", 1, python_s_own, late)
    trained(folder)
    run = newest(folder)
    expected = final(folder, run)
    initial = torch.load(folder / "initial.pth")
    reseeded(folder, then, python_s_own, late)
    told = trained(folder, "-r", str(run / "checkpoint-epoch1.pth"))
    assert told.count("seed 1: the run has begun with it") == 1
    assert same(final(folder, run), expected)
    assert torch.load(folder / "initial.pth")["own"] == initial["own"]
    tested = quick(folder, "test.py", "-r", str(run / "model_best.pth"))
    assert tested.returncode == 0, tested.stderr
    assert torch.load(folder / "tested.pth") == initial["own"]


def test_a_seed_of_the_config_counts(tmp_path):
    finals = []
    for seed in (1, 2):
        folder = made(tmp_path / f"seed{seed}", seed)
        told = trained(folder, "-c", "config.json", "--set", "seed=5")
        assert "of the script" not in told
        finals.append(final(folder))
    assert same(*finals)
    resumed = quick(folder, "train.py", "-r", str(newest(folder)), "--set", "seed=6")
    assert resumed.returncode == 2 and "seed cannot be changed under way" in resumed.stderr


def test_a_run_that_has_begun_without_it_goes_on_without_it(tmp_path):
    """Such as one of an earlier version."""
    folder = made(tmp_path / "project", 1)
    trained(folder)
    run = newest(folder)
    content = dict(checkpoint.load(run / "checkpoint-epoch1.pth"))
    del content["progress"]["seeded_by_script"]
    content["progress"]["seed"] = 123
    checkpoint.save(content, run / "checkpoint-epoch1.pth")
    told = trained(folder, "-r", str(run / "checkpoint-epoch1.pth"))
    assert "of the script" not in told and "has begun with it" not in told
    saved = checkpoint.load(run / "checkpoint-epoch2.pth")["progress"]
    assert saved["seed"] == 123 and saved["seeded_by_script"] is False


def test_all_generators_are_seeded_that_the_script_has_not(tmp_path):
    def drawn():
        return float(torch.rand(())), float(np.random.rand()), random.random()

    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = drawn()
    for seeding in (Seeding(of_run=5), Seeding(of_script=True)):
        torch.manual_seed(5 if seeding.of_script else 6)
        np.random.seed(7)
        random.seed(8)
        assert script_seed(seeding) == 5 and drawn() == expected
    # Once that is done, what the script has drawn since stays drawn.
    assert script_seed(Seeding(of_script=True), before=5) == 5 and drawn() != expected


def test_several_runs_of_one_script_have_its_seed(tmp_path):
    folder = made(tmp_path / "project", 4)
    text = (folder / "train.py").read_text()
    start, end = text.index("    args = argparse"), text.index("    main(config)")
    again = indented(text[start:end] + "    main(config)\n")
    (folder / "train.py").write_text(text[:start] + "    for _ in range(2):\n" + again)
    told = trained(folder)
    assert told.count("seed 4: that of the script") == 2
    first, second = (folder / "saved" / "models" / "Classic_Rings").iterdir()
    assert same(final(folder, first), final(folder, second))


def test_processes_that_seed_themselves_apart_have_that_of_the_main_one(tmp_path):
    def each():
        torch.manual_seed(40 + distributed.rank())
        seed = script_seed(Seeding(of_script=True))
        return seed, torch.initial_seed(), float(torch.rand(())), random.random()

    first, second = ranks.run(tmp_path, 2, each)
    assert first == second and first[0] == 40
