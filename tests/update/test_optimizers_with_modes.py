"""Optimizers with train() and eval(), such as schedule-free ones, train other weights than those
that are judged and saved."""

import contextlib
import os
import signal

import pytest
import torch

import ranks
import tiny
from machinery.checkpoints import file as checkpoint
from machinery.checkpoints.run_folder import newest_whole
from machinery.errors import Stopped
from machinery.launch import Launch
from machinery.update.runtime import unwrap
from parse_config import ConfigParser
from trainer import Trainer


class TwoPoints(torch.optim.Optimizer):
    """Steps at z, trains between z and their average x, and gives x (arXiv:2405.15682)."""

    def __init__(self, params, lr=0.1, beta=0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "train_mode": False, "k": 0})

    @torch.no_grad()
    def _to(self, training):
        for group in self.param_groups:
            if group["train_mode"] == training:
                continue
            weight = 1 - group["beta"] if training else 1 - 1 / group["beta"]
            for p in group["params"]:
                if "z" in self.state[p]:
                    p.lerp_(self.state[p]["z"], weight)
            group["train_mode"] = training

    def train(self):
        self._to(True)

    def eval(self):
        self._to(False)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            assert group["train_mode"], "train() was not called"
            group["k"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.clone())
                p.lerp_(z, 1 / group["k"])
                p.add_(p.grad, alpha=group["lr"] * (group["beta"] * (1 - 1 / group["k"]) - 1))
                z.sub_(p.grad, alpha=group["lr"])


def settings(path, **changes):
    arch = {"type": "torch.nn.Linear", "args": {"in_features": 6, "out_features": 3}}
    more = {"arch": arch, "lr_scheduler": None, "trainer__epochs": 3, **changes}
    return tiny.settings(path, **more)


def build(config, resume=None, kind=Trainer):
    trainer = tiny.build(config, resume=resume, trainer_class=kind)
    trainer.optimizer = TwoPoints(trainer.model.parameters())
    return trainer


def weights_of(trainer):
    return {name: value.clone() for name, value in unwrap(trainer.model).state_dict().items()}


def assert_equal(some, others):
    assert some.keys() == others.keys()
    for name, value in some.items():
        assert torch.equal(value, others[name]), name


def test_it_trains_as_a_loop_by_hand(tmp_path):
    """Its weights, and the validation loss, which is that of the weights that are saved."""
    trained = build(settings(tmp_path / "ours"))
    logs, report = [], trained._report
    trained._report = lambda epoch, log, seconds: (logs.append(log), report(epoch, log, seconds))
    trained.train()
    bare = build(settings(tmp_path / "bare"))
    loader, model, optimizer = bare.data_loader, bare.model, bare.optimizer
    for epoch, log in enumerate(logs, 1):
        optimizer.train()
        for data, target in loader.batches(epoch, 0, len(loader)):
            optimizer.zero_grad()
            bare.criterion(model(data), target).backward()
            optimizer.step()
        optimizer.eval()
        losses, count = 0, 0
        with torch.no_grad():
            for data, target in bare.valid_data_loader.batches(0, 0, len(bare.valid_data_loader)):
                losses += float(bare.criterion(model(data), target)) * len(target)
                count += len(target)
        assert log["val_loss"] == pytest.approx(losses / count, rel=1e-6)
    assert_equal(weights_of(trained), weights_of(bare))
    assert len(logs) == 3


class Stops(Trainer):
    """Is asked to stop in an update."""

    at = 0

    def _update(self, batches):
        super()._update(batches)
        if self.batches_done + 1 == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def train(config, resume=None, kind=Trainer):
    trainer = build(config, resume, kind)
    with contextlib.suppress(Stopped):
        trainer.train()
    return trainer


@pytest.mark.parametrize("at", [3, 11, 14])
def test_it_continues_exactly(tmp_path, monkeypatch, at):
    whole = train(settings(tmp_path / "whole"))
    monkeypatch.setattr(Stops, "at", at)
    stopped = train(settings(tmp_path / "part"), kind=Stops)
    assert stopped.epoch < 3
    again = train(settings(tmp_path / "part"), newest_whole(stopped.checkpoint_dir)[0])
    assert_equal(weights_of(whole), weights_of(again))
    state, expected = again.optimizer.state_dict(), whole.optimizer.state_dict()
    assert state["param_groups"] == expected["param_groups"]


class StopsInValidation(Trainer):
    """Is asked to stop in a validation."""

    def _forward(self, batch):
        if not self.model.training and self.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return super()._forward(batch)


def test_it_continues_exactly_from_within_a_validation(tmp_path):
    """The way to the weights in training and back would cost their last bits."""
    arch = {"arch": {"type": "TinyModel", "args": {"width": 99}}}
    whole = train(settings(tmp_path / "whole", **arch))
    stopped = train(settings(tmp_path / "part", **arch), kind=StopsInValidation)
    path = newest_whole(stopped.checkpoint_dir)[0]
    assert "epoch2-step" in path.name
    again = train(settings(tmp_path / "part", **arch), path)
    assert_equal(weights_of(whole), weights_of(again))
    assert tiny.rows(again) == tiny.rows(whole)


def test_what_is_tested_is_what_was_judged(tmp_path, monkeypatch):
    """Of an epoch's file, and of one inside an epoch, where the weights are those in training."""
    trainer = train(settings(tmp_path))
    judged = trainer.evaluate(trainer.valid_data_loader)
    tested = evaluated(settings(tmp_path), newest_whole(trainer.checkpoint_dir)[0])
    assert tested.evaluate(tested.valid_data_loader) == judged
    monkeypatch.setattr(Stops, "at", 14)
    stopped = train(settings(tmp_path / "part"), kind=Stops)
    inside = newest_whole(stopped.checkpoint_dir)[0]
    assert "step" in inside.name
    saved = checkpoint.load(inside)["state_dict"]
    assert_equal(saved, weights_of(stopped))  # saving has changed nothing
    with stopped.judged():
        expected = weights_of(stopped)
    tested = evaluated(settings(tmp_path / "part"), inside)
    with tested.judged():
        assert_equal(weights_of(tested), expected)
    with pytest.raises(AssertionError):
        assert_equal(saved, expected)


def test_a_new_run_from_within_an_epoch_is_told_that_these_are_others(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Stops, "at", 14)
    stopped = train(settings(tmp_path / "part"), kind=Stops)
    inside = newest_whole(stopped.checkpoint_dir)[0]
    for path, count in ((inside, 1), (inside.parent / "checkpoint-epoch1.pth", 0)):
        config = settings(tmp_path / "new", trainer__verbosity=1)
        build(ConfigParser(config, launch=Launch("fine-tune", checkpoint=path))).restore()
        assert capfd.readouterr().out.count("a file from after an epoch has those") == count


def evaluated(config, path):
    """A trainer that evaluates a checkpoint."""
    trainer = build(ConfigParser(config, launch=Launch("evaluate", checkpoint=path)))
    trainer.restore()
    return trainer


def test_the_weights_of_an_epoch_that_is_not_validated_are_those_to_judge(tmp_path):
    no_data = {"data_loader__args": {"validation_split": 0.0}, "trainer__monitor": "off"}
    trainer = train(settings(tmp_path, **no_data))
    state = checkpoint.load(newest_whole(trainer.checkpoint_dir)[0])
    assert not state["optimizer"]["param_groups"][0]["train_mode"]
    saved = state["state_dict"]
    trainer.optimizer.eval()
    assert_equal(saved, weights_of(trainer))


class Evaluates(Trainer):
    """Evaluates within an epoch."""

    def _after_update(self, batches):
        super()._after_update(batches)
        if self.step == 4:
            self.evaluate(self.valid_data_loader)


def test_training_goes_on_after_an_evaluation_in_an_epoch(tmp_path):
    some = train(settings(tmp_path / "some", trainer__epochs=1), kind=Evaluates)
    plain = train(settings(tmp_path / "plain", trainer__epochs=1))
    others = weights_of(plain)
    for name, value in weights_of(some).items():
        torch.testing.assert_close(value, others[name])


def trained_weights(config):
    return weights_of(train(config))


def test_two_processes_are_one(tmp_path):
    alone = ranks.run(tmp_path, 1, trained_weights, settings(tmp_path))[0]
    for weights in ranks.run(tmp_path, 2, trained_weights, settings(tmp_path)):
        for name, value in weights.items():
            torch.testing.assert_close(value, alone[name])
