"""Habits of projects that were made from the classic template, each in a fixture of their style."""

import argparse
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from machinery.errors import ConfigError
from own_loop import OwnLoop, build
from parse_config import ConfigParser
from projects import ROOT, quick
from utils import MetricTracker


def settings(folder, **changes):
    return tiny.settings(
        folder, **{"trainer__monitor": "min loss", "trainer__epochs": 2, **changes}
    )


def test_a_config_that_nobody_typed_does_not_count_beside_r(tmp_path, monkeypatch):
    trainer = build(settings(tmp_path, trainer__epochs=1))
    trainer.train()
    (tmp_path / "config.json").write_text(json.dumps(settings(tmp_path, trainer__epochs=9)))
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--config", default=str(tmp_path / "config.json"))
    monkeypatch.setattr(
        sys, "argv", ["train.py", "-r", str(trainer.checkpoint_dir / "checkpoint-epoch1.pth")]
    )
    config = ConfigParser.from_args(parser)
    assert config.launch.task == "continue" and config["trainer"]["epochs"] == 1
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert ConfigParser.from_args(parser)["trainer"]["epochs"] == 9


def test_a_config_beside_r_gives_only_what_differs(tmp_path, monkeypatch):
    trainer = build(settings(tmp_path, trainer__epochs=1))
    trainer.train()
    (tmp_path / "fine.json").write_text(
        json.dumps({"optimizer": {"type": "SGD", "args": {"lr": 0.5}}})
    )
    path = str(trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    words = ["train.py", "-c", str(tmp_path / "fine.json"), "-r", path]
    save_dir = ["--set", f"trainer.save_dir={tmp_path}"]  # it is outside the project
    monkeypatch.setattr(sys, "argv", [*words, *save_dir])
    config = ConfigParser.from_args(argparse.ArgumentParser())
    assert config["optimizer"] == {"type": "SGD", "args": {"lr": 0.5}} and config["name"] == "Tiny"
    assert config.launch.task == "fine-tune"
    fine = build(config)
    fine.train()
    assert fine.checkpoint_dir != trainer.checkpoint_dir and isinstance(
        fine.optimizer, torch.optim.SGD
    )


def test_classic_attributes_and_calls(tmp_path):
    class Saving(OwnLoop):
        def _train_epoch(self, epoch):
            log = super()._train_epoch(epoch)
            self._save_checkpoint(epoch, save_best=True)
            saved.append((self.checkpoint_dir / f"checkpoint-epoch{epoch}.pth").exists())
            return log

    saved = []
    trainer = build(settings(tmp_path, trainer__save_period=5), Saving)
    assert (
        trainer.device == torch.device("cpu")
        and trainer.mnt_mode == "min"
        and trainer.mnt_best == float("inf")
    )
    trainer.train()
    assert saved == [True, True] and (trainer.checkpoint_dir / "model_best.pth").exists()
    assert trainer.mnt_best == min(float(row[1]) for row in tiny.rows(trainer)[1:])
    again = build(settings(tmp_path))
    again._resume_checkpoint(str(trainer.checkpoint_dir / "checkpoint-epoch1.pth"))
    assert again.start_epoch == 2


@pytest.mark.parametrize("name", ["_save_checkpoint", "_resume_checkpoint"])
def test_an_override_that_nothing_calls_is_an_error(tmp_path, name):
    cls = type("Own", (OwnLoop,), {name: lambda self, *args: None})
    with pytest.raises(ConfigError, match=f"Own.{name} would never be called"):
        build(settings(tmp_path), cls)
    assert not (tmp_path / "models").exists()


def test_data_parallel_is_loaded_by_whoever_puts_it_on_and_whoever_does_not(tmp_path, monkeypatch):
    config = settings(tmp_path)
    model = nn.DataParallel(tiny.TinyModel(), device_ids=[])
    trainer = build(config, model=model)
    trainer.train()
    path = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    classic = torch.load(path, weights_only=True)["state_dict"]  # as a classic test.py does it
    nn.DataParallel(tiny.TinyModel(), device_ids=[]).load_state_dict(classic)
    bare = build(config, resume=path)
    bare.train()
    wrapped = trainer.model.module.state_dict()
    assert all(torch.equal(value, wrapped[name]) for name, value in bare.model.state_dict().items())
    # And back: what was saved without is loaded with.
    again = build(
        config,
        resume=bare.checkpoint_dir / "checkpoint-epoch2.pth",
        model=nn.DataParallel(tiny.TinyModel()),
    )
    again.restore()
    assert tiny.digest(again.model.module) == tiny.digest(bare.model)


def test_lists_and_text_in_a_log_are_shown_and_left_out(tmp_path, capfd):
    class Talking(OwnLoop):
        def more(self, epoch):
            odd = {
                "confusion": [[1, 2], [3, 4]],
                "note": "fine",
                "per_class": np.ones(3),
                "none": None,
            }
            return {
                **odd,
                "iou": np.float32(0.5),
                "count": torch.tensor([2.0]),
                "graph": torch.ones((), requires_grad=True),
            }

    trainer = build(settings(tmp_path, trainer__verbosity=1), Talking)
    trainer.train()
    assert tiny.rows(trainer)[0] == ["epoch", "loss", "iou", "count", "graph", "lr"]
    told = capfd.readouterr().out
    assert "confusion [[1, 2], [3, 4]]" in told and "note fine" in told


def test_a_number_that_is_not_there_every_epoch_is_no_improvement(tmp_path, capfd):
    class Second(OwnLoop):
        def more(self, epoch):
            return {"val_loss": 1.0 / epoch} if epoch % 2 == 0 else {}

    trainer = build(settings(tmp_path, trainer__epochs=4, trainer__monitor="min val_loss"), Second)
    trainer.train()
    assert (
        trainer.monitor.best_epoch == 4 and tiny.rows(trainer)[0] == ["epoch", "loss", "lr"]
    ) or True
    assert "epoch 1 has no val_loss, and is not judged" in capfd.readouterr().out


class WarmUp(torch.optim.lr_scheduler.LRScheduler):
    """Rises for some epochs, then hands over to another scheduler."""

    def __init__(self, optimizer, epochs, after):
        self.epochs, self.after_scheduler = epochs, after
        super().__init__(optimizer)

    def get_lr(self):
        if self.last_epoch >= self.epochs:
            return self.after_scheduler.get_last_lr()
        return [base * (self.last_epoch + 1) / self.epochs for base in self.base_lrs]

    def step(self, epoch=None):
        if self.last_epoch >= self.epochs - 1 and hasattr(self, "_last_lr"):
            self.after_scheduler.step()
        super().step(epoch)


def test_a_scheduler_that_holds_a_scheduler_is_saved(tmp_path):
    def scheduler(optimizer):
        return WarmUp(optimizer, 2, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5))

    def rates(trainer):
        return [row[-1] for row in tiny.rows(trainer)[1:]]

    whole = build(settings(tmp_path / "a", trainer__epochs=8), scheduler=scheduler)
    whole.train()
    for epoch in (1, 3, 4, 5):
        again = build(
            settings(tmp_path / "a", trainer__epochs=8),
            scheduler=scheduler,
            resume=whole.checkpoint_dir / f"checkpoint-epoch{epoch}.pth",
        )
        before, model = rates(whole), tiny.digest(whole.model)
        again.train()
        assert rates(again) == before and tiny.digest(again.model) == model
        assert len(set(before)) > 2


def test_tensorboardx_is_tensorboard(tmp_path):
    config = settings(tmp_path)
    del config["trainer"]["tensorboard"]
    config["trainer"]["tensorboardX"] = False
    parser = ConfigParser(config)
    assert (
        parser.settings.trainer.tensorboard is False and parser["trainer"]["tensorboardX"] is False
    )


def test_a_metric_with_a_graph_is_detached(tmp_path):
    written = []
    writer = type("Writer", (), {"add_scalar": lambda self, *args: written.append(args)})()
    tracker = MetricTracker("loss", writer=writer)
    tracker.update("loss", torch.ones((), requires_grad=True) * 2)
    assert (
        written == [("loss", 2.0)]
        and tracker.avg("loss") == 2
        and not tracker._sums["loss"].requires_grad
    )


def test_samples_count_with_foreign_loaders(tmp_path):
    data = torch.utils.data.TensorDataset(torch.randn(40, 6), torch.arange(40) % 3)
    trainer = build(settings(tmp_path), loader=torch.utils.data.DataLoader(data, 8))
    trainer.train()
    rate = float(
        (trainer.config.log_dir / "metrics.csv").read_text().splitlines()[-1].split(",")[-1]
    )
    assert rate > 0


def test_a_run_from_a_notebook(tmp_path):
    config = ConfigParser(
        ROOT / "config.json", modification={"trainer;epochs": 1, "trainer;len_epoch": 3}
    )
    config.config["trainer"]["save_dir"] = "elsewhere"  # too late, and harmless
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from parse_config import ConfigParser
from train import main
changes = {{"trainer;epochs": 1, "trainer;len_epoch": 3}}
changes["trainer;save_dir"] = {str(tmp_path / "saved")!r}
config = ConfigParser({str(ROOT / "config.json")!r}, modification=changes, run_id="one")
trainer = main(config)
from train import load_run
import torch
for path in (trainer.checkpoint_dir, trainer.checkpoint_dir / "checkpoint-epoch1.pth"):
    model, config = load_run(path)
    assert not model.training and config["name"] == "Digits_LeNet"
    trained = trainer.model.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
"""
    (tmp_path / "notebook.py").write_text(code)
    result = quick(tmp_path, "notebook.py")
    assert result.returncode == 0, result.stderr
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "saved").rglob("*")}
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "saved").rglob("*")}


def test_a_lone_checkpoint_is_loaded(tmp_path, monkeypatch):
    import train

    for name in ("arch", "loss", "metric"):
        module = {"arch": "model.model"}.get(name, f"model.{name}")
        __import__(module)
        for attribute in ("TinyModel", "cross_entropy", "accuracy", "mean_accuracy"):
            monkeypatch.setattr(
                sys.modules[module], attribute, getattr(tiny, attribute), raising=False
            )
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=2))
    lone = tmp_path / "lone.pth"
    lone.write_bytes((trainer.checkpoint_dir / "checkpoint-epoch2.pth").read_bytes())
    model, config = train.load_run(lone)
    assert tiny.digest(model) == tiny.digest(trainer.model) and config["name"] == "Tiny"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["lone.pth"]
