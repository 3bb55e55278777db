"""Averages over samples, and the monitor."""

import math

import pytest
import torch

import tiny
from machinery.errors import ConfigError
from machinery.update.watching import Monitor
from model.metric import accuracy, top_k_acc
from utils import MetricTracker


def test_averages_are_over_samples():
    tracker = MetricTracker("loss", "accuracy", "never")
    tracker.update("loss", 1.0, n=3)
    tracker.update("loss", torch.tensor(2.0), n=1)
    tracker.update("accuracy", torch.tensor([1.0, 0.0, 0.0]))
    assert tracker.result() == {"loss": 1.25, "accuracy": pytest.approx(1 / 3)}
    assert tracker.avg("loss") == 1.25 and math.isnan(tracker.avg("never"))
    assert tracker.since_last() == tracker.result()
    tracker.update("loss", torch.tensor(5.0), n=2)
    assert tracker.since_last() == {"loss": 5.0}
    again = MetricTracker()
    again.load_state_dict(tracker.state_dict())
    again.update("loss", torch.tensor(1.0))
    tracker.update("loss", torch.tensor(1.0))
    assert again.result() == tracker.result() and again.since_last() == tracker.since_last()
    tracker.reset()
    assert tracker.result() == {}
    with pytest.raises(
        ConfigError, match=r"accuracy: expected one value, or one for each.*\[2, 2\]"
    ):
        tracker.update("accuracy", torch.ones(2, 2))


def test_sums_are_float64():
    tracker = MetricTracker()
    for _ in range(3):
        tracker.update("x", torch.tensor(0.1), n=1)
    assert tracker.result()["x"] == float(torch.tensor(0.1))


def test_the_classic_tracker_writes():
    written = []

    class Writer:
        def add_scalar(self, tag, value):
            written.append((tag, value))

    MetricTracker("loss", writer=Writer()).update("loss", 0.5)
    assert written == [("loss", 0.5)]


def test_metrics_give_one_value_a_sample():
    output = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.15, 0.05]])
    assert accuracy(output, torch.tensor([1, 1])).tolist() == [1, 0]
    assert top_k_acc(output, torch.tensor([2, 1]), k=2).tolist() == [0, 1]


def test_a_tie_is_no_improvement():
    for mode, better in (("min", 0.4), ("max", 0.6)):
        monitor = Monitor(f"{mode} loss", None)
        judged = [monitor.update(e, {"loss": v}) for e, v in enumerate([0.5, 0.5, better], 1)]
        assert judged == [True, False, True] and monitor.best_epoch == 3


def test_monitor_wants_strict_finite_improvement():
    monitor = Monitor("max accuracy", 2)
    assert [monitor.update(e, {"accuracy": v}) for e, v in enumerate([0.5, 0.5, math.nan], 1)] == [
        True,
        False,
        False,
    ]
    assert monitor.exhausted and monitor.best_epoch == 1
    assert not Monitor("min loss", None).update(1, {"loss": math.nan})
    assert not Monitor("max loss", None).update(1, {"loss": math.inf})
    assert not Monitor("off", 1).update(1, {}) and not Monitor("off", 1).exhausted
    later = Monitor("min los", 2)
    assert not later.update(1, {"loss": 1.0}) and later.update(2, {"los": 1.0})


@pytest.mark.parametrize("shape", [(1,), (4,), (5, 2), (5, 1)])
def test_a_value_of_another_shape_is_an_error(shape):
    tracker = MetricTracker("x")
    with pytest.raises(
        ConfigError, match=r"x: expected one value, or one for each of 5 samples, found a tensor \["
    ):
        tracker.update("x", torch.ones(shape), 5)
    tracker.update("x", torch.arange(5.0), 5)
    tracker.update("x", torch.tensor(1.0), 5)
    assert tracker.avg("x") == 1.5
    tracker.update("x", torch.ones(7))  # the classic call, without a number of samples
    assert tracker.count("x") == 17


class EverySecond(tiny.Trainer):
    """Validates after the second epoch, the fourth, and so on."""

    def _train_epoch(self, epoch):
        loader = self.valid_data_loader
        if epoch % 2:
            self.valid_data_loader = None
        log = super()._train_epoch(epoch)
        self.valid_data_loader = loader
        return log


def test_an_epoch_without_the_number_that_judges_is_not_judged(tmp_path, monkeypatch):
    plateau = {"type": "ReduceLROnPlateau", "args": {"patience": 0}}
    config = tiny.settings(tmp_path, lr_scheduler=plateau, trainer__epochs=9, trainer__early_stop=2)
    trainer = tiny.build(config, trainer_class=EverySecond)
    judged = []
    kind = type(trainer.lr_scheduler)
    step = kind.step

    def noted(scheduler, value):
        judged.append(value)
        step(scheduler, value)

    monkeypatch.setattr(kind, "step", noted)
    trainer._valid_epoch = lambda epoch: {"loss": 1.0 + epoch}
    trainer.train()
    # The second epoch is the best; the fourth and the sixth are not, and then it stops.
    assert judged == [3.0, 5.0, 7.0]
    assert trainer.epoch == 6 and trainer.monitor.best_epoch == 2


@pytest.mark.parametrize("error", [ValueError("never"), SystemExit(0)])
def test_a_metric_that_cannot_forget_is_named(error):
    class Stubborn:
        __name__ = "stubborn"

        def reset(self):
            raise error

    with pytest.raises(type(error)) as caught:
        MetricTracker(objects=[Stubborn()])
    assert caught.value.__notes__ == ["in the metric stubborn"]
