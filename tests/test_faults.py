"""What can go wrong in a run: the message, the exit code, and what is left."""

import errno
import json
import logging
import logging.handlers
import re
import shutil
from collections import namedtuple
from functools import partial

import pytest
import torch

import tiny
from examples.ema import EMATrainer
from logger.logger import setup_console
from machinery.checkpoints import environment, file as checkpoint, run_folder
from machinery.checkpoints.restoring import Position
from machinery.errors import CheckpointError, ConfigError, DataError, NonFiniteError, StorageError
from machinery.update.runtime import prepare_device

Usage = namedtuple("Usage", "total used free")


def failing(error, epoch):
    """torch.save that fails from some epoch on."""
    save = torch.save

    def fail(state, *args, **kwargs):
        if state["epoch"] >= epoch:
            raise error
        save(state, *args, **kwargs)

    return fail


def status(trainer):
    return json.loads((trainer.checkpoint_dir / "status.json").read_text())


@pytest.mark.parametrize("number, words", [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file")])
def test_a_disk_that_is_full_or_read_only(tmp_path, monkeypatch, number, words):
    import os

    trainer = tiny.build(tiny.settings(tmp_path))
    monkeypatch.setattr(torch, "save", failing(OSError(number, os.strerror(number)), epoch=2))
    with pytest.raises(StorageError) as caught:
        trainer.train()
    assert re.fullmatch(
        rf"could not write .*/checkpoint-epoch2.pth: {words}.* "
        r"\(needs about \d+ MB, \d+ MB free\); checkpoint-epoch1.pth is intact",
        str(caught.value),
    )
    assert caught.value.exit_code == 6
    names = {path.name for path in trainer.checkpoint_dir.glob("*.pth*")}
    assert names == {"checkpoint-epoch1.pth", "model_best.pth"}
    assert (status(trainer)["state"], status(trainer)["exit_code"]) == ("failed", 6)


def test_a_run_folder_that_is_removed_is_made_again(tmp_path, messages):
    class Removing(tiny.Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                shutil.rmtree(tmp_path)
            return super()._train_epoch(epoch)

    trainer = tiny.train(tiny.settings(tmp_path), trainer_class=Removing)
    names = {path.name for path in trainer.checkpoint_dir.iterdir()}
    assert {"config.json", "environment.json", "status.json", "checkpoint-epoch2.pth", "checkpoint-epoch3.pth"} <= names
    assert "is gone: making it again" in messages()
    assert len(tiny.rows(trainer)) == 3  # the header and the two epochs since


def test_logs_that_cannot_be_written_warn_once_and_training_goes_on(tmp_path, monkeypatch, messages):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__tensorboard=True))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    import torch.utils.tensorboard

    monkeypatch.setattr(torch.utils.tensorboard.SummaryWriter, "add_scalar", full)
    monkeypatch.setattr(type(trainer._metrics), "_rewrite", full)
    monkeypatch.setattr(logging.handlers.RotatingFileHandler, "shouldRollover", full)
    trainer.train()
    assert trainer.epoch == 3
    text = messages()
    assert text.count("TensorBoard is off from here on, training goes on: OSError") == 1
    assert text.count("MetricsFile is off from here on, training goes on: OSError") == 1
    assert text.count("info.log cannot be written, training goes on") == 1


def damaged(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"state_dict") + 2] ^= 8  # in the pickle, whose bytes then say something else
    path.write_bytes(content)


def test_damage_names_the_file_the_record_and_what_is_whole(tmp_path, monkeypatch, messages):
    (tmp_path / "config.json").write_text(json.dumps(tiny.settings(tmp_path)))
    folder = tiny.train(tiny.settings(tmp_path, trainer__monitor="off")).checkpoint_dir
    damaged(folder / "checkpoint-epoch3.pth")
    with pytest.raises(CheckpointError) as caught:
        tiny.command_line("-r", folder / "checkpoint-epoch3.pth")
    assert re.search(r"checkpoint-epoch3.pth is damaged: .*\(record .*\)", str(caught.value))
    assert "whole checkpoints beside it: checkpoint-epoch2.pth, checkpoint-epoch1.pth" in str(caught.value)
    assert caught.value.exit_code == 4
    # Of the folder, the newest whole one is taken, and that is told.
    assert tiny.command_line("-r", folder).resume == folder / "checkpoint-epoch2.pth"
    assert "falling back to checkpoint-epoch2.pth: 1 epoch to do again" in messages()
    damaged(folder / "checkpoint-epoch2.pth")
    damaged(folder / "checkpoint-epoch1.pth")
    with pytest.raises(CheckpointError, match="no whole checkpoint") as caught:
        tiny.command_line("-r", folder)
    assert str(caught.value).count("is damaged") == 3


def test_a_checkpoint_outside_a_run_folder_cannot_be_continued(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(folder / "model_best.pth", tmp_path / "elsewhere" / "x.pth")
    with pytest.raises(CheckpointError, match=r"is not in a run folder.*-c CONFIG -r"):
        tiny.command_line("-r", tmp_path / "elsewhere" / "x.pth")


def test_a_gpus_checkpoint_loads_on_the_cpu(tmp_path, monkeypatch):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1))
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        trainer.train()
    assert b"cuda:0" in (trainer.checkpoint_dir / "checkpoint-epoch1.pth").read_bytes()
    again = tiny.train(tiny.settings(tmp_path), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    assert again.epoch == 3


def test_more_gpus_than_there_are(monkeypatch, messages):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    setup_console()
    assert prepare_device(2) == (torch.device("cpu"), [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert prepare_device(2) == (torch.device("cuda:0"), [0])
    text = messages()
    assert "n_gpu is 2, but 0 can be used: training on the CPU" in text
    assert "n_gpu is 2, but 1 can be used: training on what there is" in text


class Spoilt(tiny.Points):
    def __getitem__(self, i):
        if i == 57:
            raise ValueError("not an image")
        return super().__getitem__(i)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_sample_is_named(tmp_path, workers):
    class Spoiling(tiny.Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                self.data_loader._passes.fetcher.dataset = Spoilt(103)
            return super()._train_epoch(epoch)

    config = tiny.settings(tmp_path, data_loader__args={"num_workers": workers, "validation_split": 0.0})
    config["trainer"]["monitor"] = "off"
    trainer = tiny.build(config, trainer_class=Spoiling)
    with pytest.raises(DataError) as caught:
        trainer.train()
    text = str(caught.value)
    assert (
        "ValueError: not an image\n  in sample 57" in text
        and "test_faults.py:" in text
        and 'raise ValueError("not' in text
    )
    assert text.endswith("checkpoint-epoch1.pth") and caught.value.exit_code == 3


def test_a_batch_of_one_with_batchnorm_names_drop_last(tmp_path):
    config = tiny.settings(tmp_path, data_loader__args={"n": 97, "validation_split": 0.0}, trainer__monitor="off")
    with pytest.raises(DataError, match=r"a batch of one sample cannot pass BatchNorm: set data_loader.args.drop_last"):
        tiny.train(config)
    config["data_loader"]["args"]["drop_last"] = True
    assert tiny.train(config).epoch == 3


class Breaking(tiny.Trainer):
    """The loss is NaN in one update."""

    at, count, scale = 20, 0, float("nan")

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        self.count += self.model.training
        return loss * (self.scale if self.count == self.at and self.model.training else 1.0), output, target


def finite(folder):
    for path in folder.glob("*.pth"):
        values = checkpoint.load(path)["state_dict"].values()
        assert all(torch.isfinite(value).all() for value in values), path
    return sorted(path.name for path in folder.glob("*.pth"))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__save_step=2), trainer_class=Breaking)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    assert caught.value.exit_code == 5
    # Update 20 is the ninth of epoch 2; the losses are read before saving and every log_step.
    message = r"the loss became nan in epoch 2, step 9 \(lr 0.01, last finite loss \d\.\d+\)\n  resume: "
    assert re.match(message, str(caught.value)), caught.value
    assert "checkpoint-epoch2-step8.pth" in finite(trainer.checkpoint_dir)
    assert status(trainer)["state"] == "failed"


def test_the_losses_are_looked_at_before_a_stop_saves(tmp_path):
    class Stopping(Breaking):
        def _after_update(self, batches):
            if self.count == self.at:
                self.stop.signum = 15
            super()._after_update(batches)

    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Stopping)
    with pytest.raises(NonFiniteError):
        trainer.train()
    assert finite(trainer.checkpoint_dir) == ["checkpoint-epoch1.pth", "model_best.pth"]


def test_skipping_a_step_leaves_the_moments_alone(tmp_path, messages):
    class Looking(Breaking):
        def _update(self, batches):
            before = tiny.digest(self.model), repr(self.optimizer.state_dict())
            super()._update(batches)
            if self.count == self.at:
                assert (tiny.digest(self.model), repr(self.optimizer.state_dict())) == before

    trainer = tiny.train(tiny.settings(tmp_path, trainer__on_nan="skip"), trainer_class=Looking)
    assert "step 8 of epoch 2 skipped: the loss is not finite" in messages()
    assert trainer.epoch == 3 and finite(trainer.checkpoint_dir)


def test_ignoring_is_left_to_the_user(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__on_nan="ignore"), trainer_class=Breaking)
    assert trainer.epoch == 3
    assert trainer.monitor.best_epoch == 1  # NaN is never best


def test_a_monitored_value_that_is_not_finite(tmp_path, messages):
    class Blind(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {**super()._valid_epoch(epoch), "loss": float("nan") if epoch == 2 else 1.0}

    trainer = tiny.build(tiny.settings(tmp_path / "stop"), trainer_class=Blind)
    with pytest.raises(NonFiniteError, match=r"val_loss became nan in epoch 2 \(lr 0.0?1?.*\n  resume: "):
        trainer.train()
    assert finite(trainer.checkpoint_dir) == ["checkpoint-epoch1.pth", "model_best.pth"]
    trainer = tiny.train(tiny.settings(tmp_path / "ignore", trainer__on_nan="ignore"), trainer_class=Blind)
    assert trainer.monitor.best_epoch == 1


DECISIVE = ["python", "torch", "numpy", "device", "threads", "processes", "cpu_capability", "git_commit", "git_dirty"]
DECISIVE += ["data"]


@pytest.mark.parametrize("field", DECISIVE)
def test_another_environment_is_named_on_resume(tmp_path, messages, field):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    path = folder / "checkpoint-epoch1.pth"
    state = checkpoint.load(path)
    assert json.loads((folder / "environment.json").read_text())[-1] == state["environment"]
    old = state["environment"][field]
    state["environment"][field] = "other"
    checkpoint.save(state, path)
    tiny.build(tiny.settings(tmp_path), resume=path).restore()
    how = "" if field == "data" else " in the last bits"
    assert f"the continued run may differ{how}: {field} other -> {old}" in messages()


def test_a_run_describes_itself(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    (told,) = json.loads((trainer.checkpoint_dir / "environment.json").read_text())
    assert set(DECISIVE) | set(environment.ASIDE) == set(told)
    state = checkpoint.load(trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    assert state["progress"]["samples"] == 83 and state["progress"]["seed"] == 123
    assert state["config"] == trainer.config.config


def test_two_runs_in_one_second_have_two_folders(tmp_path):
    folders = {run_folder.create(tmp_path / "models", None) for _ in range(3)}
    assert len(folders) == 3


def test_a_newer_format_names_both(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    path = folder / "checkpoint-epoch1.pth"
    checkpoint.save({**checkpoint.load(path), "format_version": 7}, path)
    with pytest.raises(CheckpointError, match="has format 7, this code reads up to 1"):
        checkpoint.load(path)


def test_stale_temporary_files_are_swept(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    (folder / "checkpoint-epoch2.pth.999.tmp").write_bytes(b"torn")
    tiny.train(tiny.settings(tmp_path), resume=folder / "checkpoint-epoch1.pth")
    assert not list(folder.glob("*.tmp"))


def test_a_skipped_batch_leaves_no_trace(tmp_path):
    class Poisoned(tiny.Points):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return (x * float("nan") if i == 50 and self.noise else x), y

    trainer = tiny.build(
        tiny.settings(
            tmp_path, trainer__on_nan="skip", data_loader__args={"validation_split": 0.0}, trainer__monitor="min loss"
        )
    )
    trainer.data_loader._passes.fetcher.dataset = Poisoned(103)
    trainer.train()
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.state_dict().values())
    assert trainer.monitor.best_epoch > 0 and "nan" not in str(tiny.rows(trainer))


def test_weights_that_are_not_finite_never_become_a_file(tmp_path, monkeypatch):
    class Steep(tiny.Trainer):
        """A finite loss whose gradient is not, in the last update of the first epoch."""

        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            if self.model.training and self.step == 10:
                loss = loss + torch.sqrt((output - output).abs().sum())
            return loss, output, target

    trainer = tiny.build(tiny.settings(tmp_path, trainer__monitor="min loss"), trainer_class=Steep)
    with pytest.raises(NonFiniteError, match=r"weights became NaN or infinite by epoch 1 .*: fc1.weight"):
        trainer.train()
    assert not list(trainer.checkpoint_dir.glob("*.pth"))


class Rooted(tiny.Trainer):
    """A finite loss whose gradient is NaN, in the updates `spoilt` of the run."""

    spoilt = frozenset({3, 14})
    count = 0

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        if self.model.training:
            self.count += 1
            if self.spoilt is None or self.count in self.spoilt:
                loss = loss + torch.sqrt((output * 0).sum())
        return loss, output, target


class RootedEMA(Rooted, EMATrainer):
    pass


@pytest.mark.parametrize(
    "kind, changes",
    [
        (Rooted, {}),
        (Rooted, {"trainer__clip_grad_norm": 0.1}),
        (Rooted, {"trainer__accumulate": 3}),
        (Rooted, {"trainer__precision": "bf16"}),
        (RootedEMA, {}),
    ],
)
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(tmp_path, messages, kind, changes):
    class Looking(kind):
        skipped = 0

        def _update(self, batches):
            before = tiny.digest(self.model), repr(self.optimizer.state_dict())
            first = self.count + 1
            super()._update(batches)
            after = tiny.digest(self.model), repr(self.optimizer.state_dict())
            spoilt = not self.spoilt.isdisjoint(range(first, self.count + 1))
            assert (before == after) == spoilt
            self.skipped += spoilt

    trainer = tiny.train(tiny.settings(tmp_path, trainer__on_nan="skip", **changes), trainer_class=Looking)
    assert trainer.skipped == 2 and messages().count("skipped: the loss is not finite, or a gradient") == 2
    assert "checkpoint-epoch3.pth" in finite(trainer.checkpoint_dir)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("plateau", [False, True])
def test_an_epoch_that_learns_nothing_ends_the_run(tmp_path, precision, plateau):
    changes = {"trainer__precision": precision, "data_loader__args": {"batch_size": 2}}
    changes["arch__args"] = {"norm": False}
    if plateau:
        changes["lr_scheduler"] = {"type": "ReduceLROnPlateau"}
        changes["data_loader__args"]["validation_split"] = 0
        changes["trainer__monitor"] = "off"
    kind = type("Always", (Rooted,), {"spoilt": None})
    trainer = tiny.build(tiny.settings(tmp_path, trainer__on_nan="skip", **changes), trainer_class=kind)
    with pytest.raises(NonFiniteError, match="epoch 1 learnt nothing: each update had a loss or gradients"):
        trainer.train()
    assert not finite(trainer.checkpoint_dir)


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("what", ["criterion.centres", "optimizer state 0", "fc1.weight"])
def test_nothing_trained_that_is_not_finite_is_saved(tmp_path, policy, what):
    class Centred(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.centres = torch.nn.Parameter(torch.zeros(3))
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

        def forward(self, output, target):
            return tiny.cross_entropy(output + self.centres, target)

    trainer = tiny.build(tiny.settings(tmp_path, trainer__on_nan=policy))
    trainer.criterion = Centred()
    trainer.optimizer.add_param_group({"params": [trainer.criterion.centres], "initial_lr": 0.01})
    trainer._forward = partial(_forward_of, trainer)
    trainer.train()
    assert finite(trainer.checkpoint_dir)  # though the mask is infinite
    with torch.no_grad():
        if what == "fc1.weight":
            trainer.model.fc1.weight[0, 0] = torch.inf
        elif what == "criterion.centres":
            trainer.criterion.centres[1] = torch.nan
        else:
            trainer.optimizer.state[trainer.model.fc1.weight]["exp_avg"][0, 0] = torch.inf
    named = what.replace("0", "[0-9]+")
    with pytest.raises(NonFiniteError, match=f"weights became NaN or infinite by epoch 9 .*: {named}"):
        trainer._save_checkpoint(9)
    trainer._checkpoints.check_finite(trainer._held(), Position(9, None, 0.1, False), "ignore")


def _forward_of(trainer, batch):
    output = trainer.model(batch[0])
    return trainer.criterion(output, batch[1]), output, batch[1]


def test_a_stop_is_no_exception_that_code_on_its_way_catches():
    from machinery.errors import Stopped

    assert not issubclass(Stopped, Exception)


def test_loss_terms_must_be_those_of_forward(tmp_path):
    class Two(tiny.Trainer):
        loss_terms = ("loss", "kl")

        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            return {"loss": loss, "l1": loss}, output, target

    with pytest.raises(ConfigError, match="loss_terms says loss, kl, but _forward returns loss, l1"):
        tiny.train(tiny.settings(tmp_path), trainer_class=Two)


def test_a_run_that_starts_again_in_its_folder_starts_its_table_again(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny.settings(tmp_path)))
    auto = ["-c", tmp_path / "config.json", "--run_id", "one", "-r", "auto"]
    folder = tiny.train(tiny.command_line(*auto)).checkpoint_dir
    for path in folder.glob("*.pth"):
        path.unlink()
    assert [row[0] for row in tiny.rows(tiny.train(tiny.command_line(*auto)))] == ["epoch", "1", "2", "3"]
