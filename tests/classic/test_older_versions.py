"""What projects of older versions of the classic template take for granted."""

import argparse
import json
import logging
import sys

import pytest
import torch
from torch import nn

import tiny
from machinery.errors import ConfigError
from machinery.update import networks
from own_loop import OwnLoop, build
from parse_config import ConfigParser
from projects import ROOT  # noqa: F401  which puts the helpers on the path


def settings(folder, **changes):
    return tiny.settings(
        folder, **{"trainer__monitor": "min loss", "trainer__epochs": 2, **changes}
    )


def from_args(monkeypatch, folder, words, values=None, **options):
    """The ConfigParser that a script makes of a command line."""
    if values is not None:
        (folder / "config.json").write_text(json.dumps(values))
    monkeypatch.setattr(sys, "argv", ["train.py", *words])
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--config", default=str(folder / "config.json"))
    return ConfigParser.from_args(parser, **options)


def test_a_trainer_answers_to_older_names(tmp_path):
    class Older(OwnLoop):
        def more(self, epoch):
            assert self.loss is self.criterion
            assert self.metrics is self.metric_ftns and self.metric_fns is self.metric_ftns
            return {}

    class Own(OwnLoop):
        def more(self, epoch):
            self.metrics = epoch
            return {"own": self.metrics, "misspelt": hasattr(self, "metric_ftn")}

    build(settings(tmp_path), Older).train()
    trainer = build(settings(tmp_path), Own)
    with pytest.raises(AttributeError, match=r"'Own' object has no attribute 'mode_of'"):
        trainer.mode_of
    trainer.train()
    assert trainer.metrics == 2 and tiny.rows(trainer)[-1][2:4] == ["2.0", "0.0"]


def test_older_trainers_bring_the_model_to_the_gpu_themselves(tmp_path, monkeypatch):
    class Told(OwnLoop):
        def __init__(self, *parts, device="cpu"):
            super().__init__(*parts)

    class Open(OwnLoop):
        def __init__(self, *parts, **options):
            super().__init__(*parts, **options)

    def prepared(n_gpu):
        asked.append(n_gpu)
        return torch.device("meta"), [0]

    asked = []
    monkeypatch.setattr(networks, "prepare_device", prepared)
    for kind, n_gpu in ((OwnLoop, 2), (OwnLoop, 0), (Told, 2), (Open, 2)):
        values = settings(tmp_path, n_gpu=n_gpu)
        config = from_args(monkeypatch, tmp_path, [], values)
        model = tiny.TinyModel()
        trainer = build(config, kind, model=model)
        expected = "meta" if (kind, n_gpu) == (OwnLoop, 2) else "cpu"
        assert trainer.device.type == expected
        assert {each.device.type for each in model.parameters()} == {expected}
        trainer.config.run.close()
    assert asked == [2]
    values.pop("n_gpu")
    config = from_args(monkeypatch, tmp_path, [], values)
    assert build(config, OwnLoop, model=nn.Linear(3, 2)).device.type == "cpu"
    assert asked == [2]  # where the config says nothing of GPUs, so does nobody else


def test_the_default_config_counts_beside_r_where_it_is_typed(tmp_path, monkeypatch):
    trainer = build(settings(tmp_path, trainer__epochs=1))
    trainer.train()
    own = {**settings(tmp_path, trainer__epochs=9), "save_path": "pictures"}
    resume = ["-r", str(trainer.checkpoint_dir / "checkpoint-epoch1.pth")]
    path = str(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps(own))
    for words in (["-c", path], [f"--config={path}"], [f"-c{path}"], ["--conf", path]):
        config = from_args(monkeypatch, tmp_path, [*words, *resume])
        assert config["save_path"] == "pictures" and config["trainer"]["epochs"] == 9
    assert "save_path" not in from_args(monkeypatch, tmp_path, resume).config


def test_an_option_like_config_is_none(tmp_path, monkeypatch):
    trainer = build(settings(tmp_path, trainer__epochs=1))
    trainer.train()
    (tmp_path / "config.json").write_text(json.dumps(settings(tmp_path, trainer__epochs=9)))
    resume = str(trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    monkeypatch.setattr(sys, "argv", ["train.py", "--cutmix", "-r", resume])
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--config", default=str(tmp_path / "config.json"))
    parser.add_argument("-r", "--resume")
    parser.add_argument("-d", "--device")
    parser.add_argument("--cutmix", action="store_true")
    assert ConfigParser.from_args(parser.parse_args())["trainer"]["epochs"] == 1


MODES = [
    ("val_loss", "min", "min val_loss"),
    ("val_iou", "max", "max val_iou"),
    ("val_loss", "off", "off"),
]


@pytest.mark.parametrize(("name", "mode", "means"), MODES)
def test_a_mode_in_a_key_of_its_own(tmp_path, monkeypatch, capfd, name, mode, means):
    values = settings(tmp_path, trainer__monitor=name)
    values["trainer"]["monitor_mode"] = mode
    config = from_args(monkeypatch, tmp_path, [], values)
    assert config.settings.trainer.monitor == means
    assert config["trainer"]["monitor"] == name  # the script reads what it has written
    assert f'trainer.monitor: "{name}"' in capfd.readouterr().out
    with pytest.raises(ConfigError, match=r"trainer\.monitor: expected"):
        from_args(monkeypatch, tmp_path, [], values, partial=False)
    del values["trainer"]["monitor_mode"]
    with pytest.raises(ConfigError, match=r"trainer\.monitor: expected"):
        from_args(monkeypatch, tmp_path, [], values)


class Talking(tiny.TinyModel):
    def __init__(self, note: str = "", width: int = 3, **parts):
        super().__init__()
        self.note = note


def test_a_script_may_put_an_object_among_the_arguments(tmp_path, monkeypatch):
    """A logger that a loader is to write to, with an annotation or without."""
    values = settings(tmp_path)
    values["arch"] = {"type": "Talking", "args": {"width": 2}}
    config = from_args(monkeypatch, tmp_path, [], values)
    logger = logging.getLogger("project")
    config["arch"]["args"]["note"] = logger
    module = sys.modules[__name__]
    model = config.init_obj("arch", module)
    assert model.note is logger
    trainer = build(config, model=model)
    trainer.train()
    saved = json.loads((trainer.checkpoint_dir / "config.json").read_text())
    assert saved["arch"] == {"type": "Talking", "args": {"width": 2}}
    again = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    assert torch.load(again)["config"]["arch"] == saved["arch"]


def test_options_of_a_loader_go_by_name(tmp_path):
    from base import BaseDataLoader

    data = tiny.Points(10)
    with pytest.raises(ConfigError, match=r"found False; .* by name: pin_memory=True"):
        BaseDataLoader(data, 4, True, 0.2, 0, False)
    assert len(BaseDataLoader(data, 4, True, 0.2, 0, pin_memory=False)) == 2
