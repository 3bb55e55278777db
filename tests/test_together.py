"""Any number of processes train the same model: the same batches, gradients, averages and decisions."""

import pytest
import ranks
import tiny

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


CASES = {
    "plain": {},
    "whole": {"data_loader__args": {"kind": "whole"}},
    "subset-whole": {"data_loader__args": {"kind": "subset-whole"}},
    "weighted": {"data_loader__args": {"kind": "weighted", "validation_split": 0.0}},
    "batches": {"data_loader__args": {"kind": "batches", "validation_split": 0.0}},
    "workers": {"data_loader__args": {"num_workers": 1}},
    "accumulate": {"trainer__accumulate": 3, "trainer__clip_grad_norm": 0.1},
    "empty parts": {"data_loader__args": {"n": 101, "validation_split": 20, "batch_size": 5}},
}


@pytest.mark.parametrize("case", CASES)
def test_two_and_three_processes_train_what_one_trains(tmp_path, case):
    changes = CASES[case]
    if "validation_split" in changes.get("data_loader__args", {}) and case != "empty parts":
        changes = {**changes, "trainer__monitor": "min loss"}
    alone = ranks.run(tmp_path, 1, train, settings(tmp_path, **changes))[0]
    for size in (2, 3):
        results = ranks.run(tmp_path, size, train, settings(tmp_path, **changes))
        for weights, logs, count, _ in results:
            assert furthest(weights, results[0][0]) == 0
            assert logs == results[0][1]
            assert furthest(weights, alone[0]) < 1e-12
            assert count == alone[2]
            for log, expected in zip(logs, alone[1], strict=True):
                assert log == pytest.approx(expected, rel=1e-6)
