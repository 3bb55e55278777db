"""Training in float64, so that several processes can be compared with one to the last bits."""

import os
import signal

import pytest

import tiny
from machinery import distributed
from trainer import Trainer


class Exact(Trainer):
    """In float64, so that another order of sums shows in the last bits alone."""

    def __init__(self, model, *args, **kwargs):
        super().__init__(model.double(), *args, **kwargs)

    def _forward(self, batch):
        return super()._forward((batch[0].double(), batch[1]))


def train(config, resume=None, trainer_class=Exact):
    """Weights, the epochs' numbers, and how many samples the last epoch was over."""
    trainer = tiny.build(config, resume=resume, trainer_class=trainer_class)
    logs = []
    report = trainer._report
    trainer._report = lambda epoch, log, seconds: (logs.append(log), report(epoch, log, seconds))
    trainer.train()
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights, logs, trainer.valid_metrics.count("loss"), trainer.checkpoint_dir


def settings(folder, **changes):
    plain = {"arch__args": {"dropout": 0.0, "norm": False}, "trainer__epochs": 2}
    plain["optimizer"] = {"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9}}
    return tiny.settings(folder, **{**plain, **changes})


def furthest(first, second):
    """The largest difference of two sets of weights."""
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


class Stops(Exact):
    """The last process gets a SIGTERM after some updates of this process."""

    after = 0

    def _after_update(self, batches):
        self.after -= 1
        if self.after == 0 and distributed.rank() == distributed.size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        super()._after_update(batches)


def stopped(config, after, resume=None):
    """The newest checkpoint of a run that is stopped after some updates."""
    kind = type("Stops", (Stops,), {"after": after})
    trainer = tiny.as_train_py(config, resume, trainer_class=kind)
    with pytest.raises(tiny.Stopped):
        trainer.train()
    return tiny.newest(trainer.checkpoint_dir)
