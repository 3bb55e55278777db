"""What surrounds the batches of an epoch in a trainer of one's own, where a run is continued."""

import numpy as np
import pytest
import torch

import tiny
from machinery.checks.own_values import OwnValues
from tiny import interrupted


class Drawing(tiny.Trainer):
    """Draws after the epoch, and learns from it."""

    def _train_epoch(self, epoch):
        log = super()._train_epoch(epoch)
        with torch.no_grad():
            self.model.fc1.weight += torch.randn(()) + np.random.rand()
        return log


@pytest.mark.parametrize("after", [5, 11])
def test_a_draw_after_the_epoch_is_the_same_after_a_stop_inside_it(tmp_path, after):
    unbroken = tiny.train(tiny.settings(tmp_path / "whole"), trainer_class=Drawing)
    config = tiny.settings(tmp_path / "parts")
    path = interrupted(config, after, cls=(Drawing,))
    assert "step" in path.name
    resumed = tiny.train(config, resume=path, trainer_class=Drawing)
    assert resumed.start_epoch == 1 and tiny.digest(resumed.model) == tiny.digest(unbroken.model)


def test_so_it_is_after_the_last_update_of_an_epoch_that_is_not_validated(tmp_path):
    settings = {"trainer__monitor": "off", "data_loader__args": {"validation_split": 0.0}}
    unbroken = tiny.train(tiny.settings(tmp_path / "whole", **settings), trainer_class=Drawing)
    config = tiny.settings(tmp_path / "parts", **settings)
    path = interrupted(config, 13, cls=(Drawing,))
    assert "step13" in path.name  # all of it
    resumed = tiny.train(config, resume=path, trainer_class=Drawing)
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)


class Counting(tiny.Trainer):
    """Counts in plain attributes, of which one is set by the constructor alone."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen, self.temperature, self.centres = 0, 0.5, torch.zeros(3)

    def _forward(self, batch):
        self.seen += len(batch[0])
        self.last = len(batch[0])  # made on the way, and again where it goes on
        self.centres = self.centres + 1
        return super()._forward(batch)


def test_a_counter_that_no_checkpoint_holds_is_told_once(tmp_path, capfd):
    tiny.train(tiny.settings(tmp_path), trainer_class=Counting)
    told = "no checkpoint holds what has changed of the trainer: seen, centres; a continued run"
    assert capfd.readouterr().out.count(told) == 1
    tiny.train(tiny.settings(tmp_path / "plain"))
    assert "no checkpoint holds" not in capfd.readouterr().out


class Saved:
    """A counter as it is told to be written."""

    def __init__(self):
        self.seen = 0

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


class CountingRight(tiny.Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.counter = Saved()

    def _update(self, batches):
        super()._update(batches)
        self.counter.seen += len(batches)


def test_one_with_a_state_is_not_told_and_goes_on(tmp_path, capfd):
    first = tiny.train(tiny.settings(tmp_path, trainer__epochs=1), trainer_class=CountingRight)
    again = tiny.train(
        tiny.settings(tmp_path, trainer__epochs=2),
        resume=first._checkpoints.newest,
        trainer_class=CountingRight,
    )
    assert again.counter.seen == 2 * first.counter.seen == 22
    assert "no checkpoint holds" not in capfd.readouterr().out


class Decaying(tiny.Trainer):
    """Changes a saved state before its batches, once more where it goes on inside the epoch."""

    def _train_epoch(self, epoch):
        self.optimizer.param_groups[0]["weight_decay"] += 0.5
        return super()._train_epoch(epoch)


class Setting(tiny.Trainer):
    """Sets a value that depends on the epoch alone, and was there before."""

    def _train_epoch(self, epoch):
        self.optimizer.param_groups[0]["weight_decay"] = 0
        return super()._train_epoch(epoch)


@pytest.mark.parametrize("kind, told", [(Decaying, 1), (Setting, 0), (Drawing, 0)])
def test_what_is_done_again_inside_an_epoch_is_told(tmp_path, capfd, kind, told):
    interrupted(tiny.settings(tmp_path), 5, cls=(kind,))
    said = "_train_epoch changes optimizer before its first batch"
    assert capfd.readouterr().out.count(said) == told


def test_nothing_is_told_of_a_trainer_that_is_the_templates(tmp_path, capfd):
    tiny.train(tiny.settings(tmp_path, trainer__save_step=2))
    said = capfd.readouterr().out
    assert "before its first batch" not in said and "no checkpoint holds" not in said


def test_large_values_and_objects_are_left_alone():
    values = OwnValues(["known"])
    attributes = {"known": 1, "large": torch.zeros(2_000_000), "network": torch.nn.Linear(1, 1)}
    values.begin(attributes)
    assert values._values({**attributes, "small": [1, {"a": 2.0}]}).keys() == {"small"}
