"""Configs of classic projects, as their scripts read them: what they say otherwise than ours."""

import argparse
import json
import subprocess
import sys
import types

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import tiny
from machinery.errors import ConfigError
from parse_config import ConfigParser


def config_of(folder, monkeypatch, values, partial=True, **settings):
    """The ConfigParser that a script makes; not `partial`: the template's own."""
    config = tiny.settings(folder, **settings)
    for key, value in values.items():
        section = config
        *above, last = key.split(".")
        for name in above:
            section = section[name]
        section[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(sys, "argv", ["train.py", "-c", str(folder / "config.json")])
    return ConfigParser.from_args(argparse.ArgumentParser(), partial=partial)


#: A key, its value, what it means here, and a piece of the line that says so.
EASED = [
    ("trainer.early_stop", -1, None, "-1 is no patience"),
    ("trainer.early_stop", False, None, "false is no patience"),
    ("trainer.save_period", -1, 1, "-1 saves every epoch, as in the classic"),
    ("trainer.save_period", -2, 2, "-2 saves epochs that 2 divides"),
    ("trainer.tensorboard", 0, False, "0 counts as false"),
    ("name", "", "unnamed", '"" names no folder'),
    ("name", "a/b", "a-b", "the runs are in a-b"),
    ("n_gpu", "1,2", 2, '"1,2" asks for 2'),
    ("n_gpu", [3], 1, "a list asks for 1"),
    ("n_gpu", -1, 0, "-1 asks for none"),
    ("metrics", {"accuracy": {"k": 1}}, [], "none of the values that this template knows"),
    ("loss", ["a", "b"], None, "none of the values that this template knows"),
    ("trainer.log_step", "often", 50, "none of the values that this template knows"),
]


@pytest.mark.parametrize(("key", "value", "means", "told"), EASED)
def test_values_as_the_classic_takes_them(tmp_path, monkeypatch, capfd, key, value, means, told):
    config = config_of(tmp_path, monkeypatch, {key: value})
    found = config.settings
    held = config.config
    for name in key.split("."):
        found = getattr(found, name)
        held = held[name]
    assert found == means and held == value  # the script reads what it has written
    line = next(line for line in capfd.readouterr().out.splitlines() if told in line)
    assert f": {key}: " in line and "config.json:" in line
    with pytest.raises(ConfigError, match=key):
        config_of(tmp_path, monkeypatch, {key: value}, partial=False)


def test_numbers_that_are_whole(tmp_path, monkeypatch):
    config = config_of(tmp_path, monkeypatch, {"trainer.early_stop": 10.0})
    assert config.settings.trainer.early_stop == 10


SLIPS = ["no_GPUs", "n_gpus", "SEED", "dataloader", "log_step", "lr_schedulers", "arch.arg"]
SLIPS += ["trainer.log_verbosity", "trainer.sync_batch_norm", "trainer.no_epochs"]


@pytest.mark.parametrize("key", SLIPS)
def test_a_key_of_ones_own_that_looks_like_a_slip(tmp_path, monkeypatch, capfd, key):
    config = config_of(tmp_path, monkeypatch, {key: 5})
    assert config["name"] == "Tiny"
    told = capfd.readouterr().out
    try:
        config_of(tmp_path, monkeypatch, {key: 5}, partial=False)
    except ConfigError as error:
        assert f"{key} is unknown: did you mean" in str(error)
        assert f"{key} is a key of your own: only your code reads it" in told


def test_what_the_template_needs_is_still_asked_for(tmp_path, monkeypatch):
    for key, value in (
        ("trainer.epochs", "3"),
        ("trainer.monitor", "min"),
        ("trainer.save_period", 0),
        ("name", 5),
        ("trainer.verbosity", 3),
        ("metrics", ["accuracy", {"type": "accuracy", "name": 5}]),
    ):
        with pytest.raises(ConfigError, match=key):
            config_of(tmp_path, monkeypatch, {key: value})


class Vocab:
    """No network, no loader, and nothing that is called."""

    def __init__(self, words, size=3):
        self.words = words
        self.size = size


class Points(Dataset):
    def __init__(self, n):
        self.n = n


class Loading:
    """Makes loaders, and is none."""

    def __init__(self, batch_size):
        data = TensorDataset(torch.arange(5))
        self.train, self.valid = (DataLoader(data, batch_size) for _ in range(2))


def module(**more):
    """A module of the project's, with what it defines and imports."""
    made = types.ModuleType("data_loader.data_loaders")
    vars(made).update(Vocab=Vocab, Points=Points, Loading=Loading, DataLoader=DataLoader, **more)
    return made


def test_sections_of_ones_own_are_of_any_class(tmp_path, monkeypatch):
    own = {
        "vocab": {"type": "Vocab", "args": {"words": ["a"]}},
        "dataset": {"type": "Points", "args": {"n": 4}},
        "train_loader": {"type": "DataLoader", "args": {"batch_size": 2}},
        "vocab2": {"type": "Vocba", "args": {}},
        "vocab3": {"type": "Vocab", "args": {"word": ["a"]}},
        "shell": {"type": "Popen", "args": {"args": "true"}},
    }
    for partial in (True, False):
        config = config_of(tmp_path, monkeypatch, own, partial)
        assert config.init_obj("vocab", module(), size=2).size == 2
        assert config.init_obj("dataset", module()).n == 4
        loader = config.init_obj("train_loader", module(), Points(3))
        assert type(loader) is DataLoader
        with pytest.raises(ConfigError, match="no vocab2 'Vocba': did you mean 'Vocab'"):
            config.init_obj("vocab2", module())
        with pytest.raises(ConfigError, match="did you mean 'words'"):
            config.init_obj("vocab3", module())
        with pytest.raises(ConfigError, match="no shell 'Popen'"):
            config.init_obj("shell", module(Popen=subprocess.Popen))


class Around(nn.Module):
    """Passes its options to a part of it, and not to its base."""

    def __init__(self, width=3, **options):
        super().__init__()
        self.inner = nn.Linear(width, width, **options)


class Beneath(Around):
    def __init__(self, depth=1, **options):
        super().__init__(**options)


class Reading(nn.Module):
    """Takes some of its options by name."""

    def __init__(self, **options):
        super().__init__()
        self.inner = nn.Linear(2, options.get("out", 1), bias=options.pop("bias", True))


class Bare(nn.Module):
    def __init__(self, width=3):
        super().__init__()


class OnBare(Bare):
    def __init__(self, depth=1, **options):
        super().__init__(**options)


def test_options_that_are_for_a_part_of_a_network(tmp_path, monkeypatch):
    networks = module(Around=Around, Beneath=Beneath, OnBare=OnBare, Reading=Reading)
    for partial in (True, False):
        for name in ("Around", "Beneath"):
            section = {"type": name, "args": {"width": 2, "bias": False}}
            config = config_of(tmp_path, monkeypatch, {"arch": section}, partial)
            assert config.init_obj("arch", networks).inner.bias is None
        section = {"type": "Reading", "args": {"out": 2, "bias": False}}
        config = config_of(tmp_path, monkeypatch, {"arch": section}, partial)
        assert config.init_obj("arch", networks).inner.bias is None
        section = {"type": "OnBare", "args": {"bias": False}}
        config = config_of(tmp_path, monkeypatch, {"arch": section}, partial)
        with pytest.raises(ConfigError, match="OnBare has no argument 'bias'"):
            config.init_obj("arch", networks)


def test_torchs_own_loader(tmp_path, monkeypatch):
    section = {"type": "DataLoader", "args": {"batch_size": 2}}
    for partial in (True, False):
        config = config_of(tmp_path, monkeypatch, {"data_loader": section}, partial)
        assert type(config.init_obj("data_loader", module(), Points(3))) is DataLoader


def test_a_part_of_another_base_in_a_known_section(tmp_path, monkeypatch):
    section = {"type": "Loading", "args": {"batch_size": 2}}
    config = config_of(tmp_path, monkeypatch, {"data_loader": section})
    assert len(config.init_obj("data_loader", module()).valid) == 3
    strict = config_of(tmp_path, monkeypatch, {"data_loader": section}, partial=False)
    with pytest.raises(ConfigError, match="no data loader 'Loading'"):
        strict.init_obj("data_loader", module())
    section["type"] = "Popen"
    config = config_of(tmp_path, monkeypatch, {"data_loader": section})
    with pytest.raises(ConfigError, match="no data loader 'Popen'"):
        config.init_obj("data_loader", module(Popen=subprocess.Popen))
