"""A run begins with the weights that `arch.weights` names, and nothing needs the file later."""

import logging
import re

import pytest
import torch

import tiny
from machinery.checkpoints import foreign
from machinery.errors import ConfigError
from machinery.launch import Launch, read_run
from machinery.update.runtime import unwrap
from parse_config import ConfigParser
from trainer import Trainer


def weights():
    """Of the tiny model, from elsewhere."""
    with torch.random.fork_rng():
        torch.manual_seed(9)
        return tiny.TinyModel().state_dict()


def config_of(tmp_path, values=None, name="w.pth", **changes):
    torch.save(weights() if values is None else values, tmp_path / name)
    arch = {"type": "TinyModel", "weights": str(tmp_path / name)}
    return tiny.settings(tmp_path / "runs", **{"arch": arch, "trainer__verbosity": 1, **changes})


def test_a_run_begins_with_them(tmp_path, capfd):
    config = config_of(tmp_path, {f"model.{name}": value for name, value in weights().items()})
    model = tiny.build(config).model
    for name, value in unwrap(model).state_dict().items():
        assert torch.equal(value, weights()[name])
    said = capfd.readouterr().out
    assert f'weights from {tmp_path}/w.pth: 9, their names without "model."' in said
    assert not (tmp_path / "runs").exists() or not [*(tmp_path / "runs").rglob("*.pth")]


def test_info_log_tells_them(tmp_path):
    trainer = tiny.train(config_of(tmp_path, trainer__epochs=1))
    assert "weights from" in (trainer.config.log_dir / "info.log").read_text()


def test_they_train_as_those_of_r(tmp_path):
    config = config_of(tmp_path)
    named = tiny.train(config)
    del config["arch"]["weights"]
    launch = Launch("fine-tune", checkpoint=tmp_path / "w.pth")
    given = tiny.train(ConfigParser(config, launch=launch))
    fresh = tiny.train(config)
    assert tiny.digest(named.model) == tiny.digest(given.model) != tiny.digest(fresh.model)


def test_nothing_needs_them_later(tmp_path, capfd):
    config = config_of(tmp_path, trainer__epochs=2)
    unbroken = tiny.train(config)
    first = tiny.train({**config, "trainer": {**config["trainer"], "epochs": 1}})
    (tmp_path / "w.pth").unlink()
    capfd.readouterr()
    resumed = tiny.train(config, resume=first.checkpoint_dir / "checkpoint-epoch1.pth")
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)
    checked, launch = read_run(first.checkpoint_dir)
    tiny.build(ConfigParser(checked, launch=launch)).restore()
    assert "weights from" not in capfd.readouterr().out


def test_neither_does_r_auto(tmp_path):
    torch.save(weights(), tmp_path / "w.pth")
    arch = {"type": "TinyModel", "weights": str(tmp_path / "w.pth")}
    path = tiny.write_config(tmp_path, arch=arch, trainer__epochs=1)
    tiny.build(tiny.command_line("-c", path, "-r", "auto", "--run_id", "one")).train()
    (tmp_path / "w.pth").unlink()
    parser = tiny.command_line("-c", path, "-r", "auto", "--run_id", "one")
    assert parser.launch.continues
    tiny.build(parser)


def test_skip_leaves_some_out(tmp_path, capfd):
    values = weights() | {"fc2.weight": torch.ones(5, 12), "head.bias": torch.ones(2)}
    config = config_of(tmp_path, values)
    with pytest.raises(ConfigError) as caught:
        tiny.build(config)
    lines = str(caught.value).splitlines()
    assert re.match(r"config: arch\.weights: .*w\.pth does not fit the model:", lines[0])
    assert lines[1:3] == ["  unexpected: head.bias", "  wrong shape: fc2.weight [5, 12] -> [3, 12]"]
    assert not (tmp_path / "runs").exists()
    config["arch"]["skip"] = ["fc2.*", "head.*"]
    built = unwrap(tiny.build(config).model).state_dict()
    assert ": 7, 3 left out by arch.skip" in capfd.readouterr().out
    fresh = unwrap(tiny.build(tiny.settings(tmp_path / "runs")).model).state_dict()
    assert torch.equal(built["fc2.weight"], fresh["fc2.weight"])
    assert torch.equal(built["fc1.weight"], weights()["fc1.weight"])


def config_file(tmp_path, file):
    text = '{\n  "arch": {"type": "TinyModel",\n    "weights": "FILE"}\n}'
    above = tiny.write_config(tmp_path)
    path = tmp_path / "above.json"
    path.write_text(text.replace("FILE", str(file)).replace("{\n", f'{{\n"base": "{above}",\n', 1))
    return path


def test_a_file_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    def broken(path, *_):
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(foreign, "read", broken)
    with pytest.raises(ConfigError, match=r"arch\.weights: .* cannot be read: Input/output error"):
        tiny.build(config_of(tmp_path))


def test_tensors_without_numbers_are_told(tmp_path):
    values = weights() | {"fc1.bias": torch.ones(12, device="meta")}
    with pytest.raises(ConfigError, match=r"fc1\.bias float32 without numbers \(meta\) -> float32"):
        tiny.build(config_of(tmp_path, values))


@pytest.mark.parametrize("file", ["no.pth", "/", "~nobody_at_all/w.pth", 5000 * "a"])
def test_a_file_that_is_missing_is_told_before_anything_is_read(tmp_path, file):
    if file == "no.pth":
        file = tmp_path / file
    with pytest.raises(ConfigError, match=r"above\.json:4:5: arch\.weights: "):
        tiny.command_line("-c", config_file(tmp_path, file))
    assert not (tmp_path / "models").exists()


def test_it_is_relative_to_the_root_or_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = config_of(tmp_path)
    config["arch"]["weights"] = "~/w.pth"
    tiny.build(config)
    monkeypatch.setattr("machinery.config.checking.ROOT", tmp_path)
    monkeypatch.chdir("/")
    config["arch"]["weights"] = "w.pth"
    tiny.build(config)


class Code:
    def __reduce__(self):
        return (open, ("ran", "w"))


def test_no_code_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"arch\.weights: refused: .*globals"):
        tiny.build(config_of(tmp_path, {"state_dict": weights(), "x": Code()}))
    assert not (tmp_path / "ran").exists()


def test_those_of_r_come_first(tmp_path, capfd):
    other = {name: value + 1 for name, value in weights().items()}
    torch.save(other, tmp_path / "other.pth")
    config = config_of(tmp_path)
    (tmp_path / "w.pth").unlink()  # it is not even looked for
    launch = Launch("fine-tune", checkpoint=tmp_path / "other.pth")
    trainer = tiny.build(ConfigParser(config, launch=launch))
    trainer.restore()
    assert torch.equal(unwrap(trainer.model).fc1.weight, other["fc1.weight"])
    said = capfd.readouterr().out
    assert f"arch.weights is not read: the weights are those of {tmp_path}/other.pth" in said


@pytest.mark.parametrize("key", ["weights", "adapter"])
def test_a_network_that_is_built_without_is_refused(tmp_path, key):
    config = config_of(tmp_path, trainer__monitor="off")
    if key == "adapter":
        del config["arch"]["weights"]
        config["arch"]["adapter"] = {"type": "any"}
    parser = ConfigParser(config)
    parts = [tiny.TinyModel(), tiny.cross_entropy, [], torch.optim.SGD([torch.zeros(1)], 0.1)]
    with pytest.raises(ConfigError, match=rf"arch\.{key}: nothing has read it: config\.init_obj"):
        Trainer(*parts, parser, torch.device("cpu"), [(torch.ones(2, 6), torch.ones(2))])
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_s_config_that_names_a_file_reads_none(tmp_path, monkeypatch):
    """Not even one outside the project, for an evaluation or to go on."""
    config = config_of(tmp_path, trainer__epochs=1)
    trained = tiny.train(config)
    (tmp_path / "w.pth").unlink()
    read = []
    original = foreign.read
    monkeypatch.setattr(
        foreign,
        "read",
        lambda path, *args, **more: read.append(path) or original(path, *args, **more),
    )
    folder = trained.checkpoint_dir
    tiny.build(tiny.command_line("-r", folder / "checkpoint-epoch1.pth")).restore()
    checked, launch = read_run(folder)
    tiny.build(ConfigParser(checked, launch=launch)).restore()
    assert {path.parent for path in read} == {folder}


def test_check_reads_them(tmp_path):
    torch.save({"fc1.weight": torch.ones(3)}, tmp_path / "w.pth")
    parser = tiny.command_line("-c", config_file(tmp_path, tmp_path / "w.pth"), "--check")
    with pytest.raises(ConfigError, match=r"above\.json:4:5: arch\.weights: .* has no weight that"):
        tiny.build(parser)


def test_another_way_to_save_is_still_the_same_run(tmp_path):
    path = tiny.write_config(tmp_path, trainer__epochs=2)
    command = ["-c", path, "-r", "auto"]
    stopped = tiny.interrupted(tiny.command_line(*command), 14)
    parser = tiny.command_line(*command, "--set", "trainer.save=trained")
    assert parser.launch.continues and parser.launch.checkpoint == stopped


@pytest.mark.parametrize("verbosity", [0, 1])
def test_what_is_told_is_by_the_verbosity(tmp_path, capfd, verbosity):
    logging.getLogger("checkpoint").setLevel(logging.DEBUG)
    tiny.build(config_of(tmp_path, trainer__verbosity=verbosity))
    assert ("weights from" in capfd.readouterr().out) == bool(verbosity)
