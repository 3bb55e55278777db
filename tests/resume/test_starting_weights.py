"""A checkpoint is enough: what only gave starting weights is not needed any more."""

import copy

import pytest
import torch

import tiny
from machinery.errors import CheckpointError, ConfigError
from machinery.launch import read_run
from machinery.launch.launch import Launch
from parse_config import ConfigParser


class Started(tiny.TinyModel):
    """Begins with the weights of a file."""

    def __init__(self, weights=None, width=12):
        super().__init__(width, dropout=0.0, norm=False)
        if weights is not None:
            self.load_state_dict(torch.load(weights, weights_only=True))


@pytest.fixture(autouse=True)
def model(monkeypatch):
    monkeypatch.setattr(tiny, "Started", Started, raising=False)


def config_of(tmp_path, key, epochs=2):
    file = tmp_path / "start.pth"
    if not file.exists():
        torch.save(Started().state_dict(), file)
    arch = {"type": "Started", key: {"weights": str(file)}}
    return tiny.settings(tmp_path / key, arch=arch, trainer__epochs=epochs), file


def test_arguments_that_shape_the_network_are_told(tmp_path):
    config, _ = config_of(tmp_path, "args")
    config["arch"] = {"type": "Started", "starting_args": {"width": 9}}
    path = tiny.newest(tiny.train(config).checkpoint_dir)
    launch = Launch("continue", checkpoint=path)
    config["trainer"]["epochs"] = 4
    with pytest.raises(CheckpointError, match=r"arch\.starting_args are left out here"):
        tiny.train(ConfigParser(config, launch=launch))


def test_starting_weights_are_not_needed_to_go_on(tmp_path):
    config, file = config_of(tmp_path, "starting_args")
    unbroken = tiny.train(config)
    again, _ = config_of(tmp_path, "starting_args", 1)
    first = tiny.train(again)
    again["trainer"]["epochs"] = 2
    file.unlink()
    resumed = tiny.train(again, resume=first.checkpoint_dir / "checkpoint-epoch1.pth")
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)


def test_they_give_the_start(tmp_path):
    config, file = config_of(tmp_path, "starting_args")
    model = tiny.build(config).model
    saved = torch.load(file, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())


def test_an_evaluation_does_not_ask_for_them(tmp_path):
    config, file = config_of(tmp_path, "starting_args", 1)
    folder = tiny.train(config).checkpoint_dir
    file.unlink()
    checked, launch = read_run(folder)
    assert not launch.begins
    ConfigParser(checked, launch=launch).init_obj("arch", tiny)


def test_a_file_that_is_gone_is_told_with_the_way_out(tmp_path):
    config, file = config_of(tmp_path, "args", 1)
    trained = tiny.train(config)
    file.unlink()
    checkpoint = trained.checkpoint_dir / "checkpoint-epoch1.pth"
    with pytest.raises(ConfigError, match=r"--set arch\.args\.NAME=null"):
        tiny.build(config, resume=checkpoint)
    without = copy.deepcopy(config)
    without["arch"]["args"]["weights"] = None
    tiny.build(without, resume=checkpoint).restore()
    with pytest.raises(ConfigError) as found:  # a new run needs it
        tiny.build(config)
    assert "NAME=null" not in str(found.value)


def test_an_argument_that_a_restored_network_would_lack_is_told_at_the_start(tmp_path):
    config = tiny.settings(tmp_path, arch={"type": "Needing", "starting_args": {"weights": "x"}})
    parser = ConfigParser(config)
    with pytest.raises(ConfigError, match="weights"):
        parser.check(arch=Modules)


class Needing(tiny.TinyModel):
    def __init__(self, weights):
        super().__init__()


class Modules:
    """Where the network is looked up."""

    Needing = Needing


def test_what_begins_is_a_new_run():
    assert Launch("train").begins and Launch("fine-tune").begins
    assert not Launch("continue").begins and not Launch("evaluate").begins
