"""What a loss is the mean over, and how many samples a batch holds, are two counts."""

import math
import threading
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import exact
import ranks
import tiny
from machinery.errors import ConfigError
from machinery.update.divisor import Divisor, divisor_of
from trainer import Trainer

WEIGHT = torch.tensor([1.0, 5.0, 0.1])


class WithWeights(nn.CrossEntropyLoss):
    """Cross entropy with weights of three classes."""

    def __init__(self):
        super().__init__(weight=WEIGHT.double())


class Hidden(nn.Module):
    """The same, with weights that nobody sees from outside."""

    def forward(self, output, target):
        return F.cross_entropy(output, target, weight=WEIGHT.to(output.dtype))


class Holes(tiny.Points):
    """Every third sample's class is ignored, in blocks: whole batches of 4 without any class."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x, torch.where(torch.tensor(i // 4 % 3 == 1), -100, y)


class HolesLoader(tiny.TinyLoader):
    """The tiny loader of samples some of which are ignored."""

    def __init__(self, batch_size=8, validation_split=0.2, training=True, **options):
        data = Holes(103, noise=False)
        super(tiny.TinyLoader, self).__init__(data, batch_size, False, validation_split, 0)


class Weighing(exact.Exact):
    """Says what the loss is the mean over, because nobody sees it."""

    def loss_size_of(self, batch):
        return float(WEIGHT.double()[batch[1]].sum())


class Exchanging(exact.Exact):
    """Has its loss from its own constructor."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.criterion = WithWeights()


class Deferring(exact.Exact):
    """Weighs the classes from the second epoch on, and otherwise in the third."""

    def _train_epoch(self, epoch):
        if epoch == 2:
            self.criterion.weight = WEIGHT.double()
        if epoch == 3:
            self.criterion.weight[0] = 3
        return super()._train_epoch(epoch)


class Softening(exact.Exact):
    """Learns from what it makes of each batch."""

    def _forward(self, batch):
        loss, output, target = super()._forward(batch[:2])
        return loss, output, target

    def _update(self, batches):
        with self.group(batches) as group:
            for data, target in group:
                self.backward(self.compute((data * 1.0, target, "mixed")))
            group.step(self.optimizer)


class OwnLoss(exact.Exact):
    """Has a loss of its own, over all samples, whatever the config's would ignore."""

    def _forward(self, batch):
        data, target = batch[0].double(), batch[1]
        output = self.model(data)
        known = F.cross_entropy(output, target, reduction="sum") / len(target)
        return known + output.square().mean(), output, target


class Locked(nn.CrossEntropyLoss):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class Plain(nn.CrossEntropyLoss):
    """An object of the config's, as one that a trainer may change."""


@pytest.fixture(autouse=True)
def parts(monkeypatch):
    for part in (WithWeights, Hidden, HolesLoader, Locked, Plain, Masked):
        monkeypatch.setattr(tiny, part.__name__, part, raising=False)


def evaluated(tmp_path, batch_size, kind, **changes):
    """The validation of untrained weights."""
    args = {"batch_size": batch_size}
    config = exact.settings(tmp_path / str(batch_size), data_loader__args=args, **changes)
    trainer = tiny.build(config, trainer_class=kind)
    log = trainer.evaluate(trainer.valid_data_loader, trainer.valid_metrics)
    return log, trainer.valid_metrics.samples_everywhere()


CASES = {
    "class weights": (exact.Exact, {"loss": "WithWeights"}),
    "ignored targets": (exact.Exact, {"data_loader__type": "HolesLoader"}),
    "as the trainer says": (Weighing, {"loss": "Hidden"}),
}
LATER = {
    "another loss": (Exchanging, {}),
    "weights under way": (Deferring, {"loss": "Plain", "trainer__epochs": 3}),
    "batches made of others": (Softening, {"loss": "WithWeights"}),
    "a loss of the trainer's own": (OwnLoss, {"data_loader__type": "HolesLoader"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_loss_is_the_same_for_every_batch_size(tmp_path, case):
    kind, changes = CASES[case]
    logs = []
    for batch_size in (1, 4, 7, 63):
        log, samples = evaluated(tmp_path, batch_size, kind, **changes)
        assert samples == 20
        logs.append(log)
    for log in logs[1:]:
        assert log["loss"] == pytest.approx(logs[0]["loss"], abs=1e-12)
        assert log["accuracy"] == logs[0]["accuracy"]  # over samples, whatever the loss is over


def trained(tmp_path, name, kind, batch_size, accumulate, **changes):
    args = {"batch_size": batch_size, "validation_split": 0, "shuffle": False}
    config = exact.settings(
        tmp_path / name,
        data_loader__args=args,
        trainer__accumulate=accumulate,
        trainer__monitor="off",
        **changes,
    )
    return exact.train(config, trainer_class=kind)


@pytest.mark.parametrize("case", [*CASES, *LATER])
def test_accumulated_batches_are_one_large_batch(tmp_path, case):
    kind, changes = {**CASES, **LATER}[case]
    parts = trained(tmp_path, "parts", kind, 4, 3, **changes)
    whole = trained(tmp_path, "whole", kind, 12, 1, **changes)
    assert exact.furthest(parts[0], whole[0]) < 1e-12
    for one, other in zip(parts[1], whole[1], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-12)


def test_a_batch_that_is_made_of_another_counts_as_that(tmp_path):
    made = trained(tmp_path, "made", Softening, 12, 1, loss="WithWeights")
    plain = trained(tmp_path, "plain", exact.Exact, 12, 1, loss="WithWeights")
    assert exact.furthest(made[0], plain[0]) < 1e-12
    assert made[1] == plain[1]


def test_a_loss_that_cannot_be_copied_trains(tmp_path):
    tiny.train(exact.settings(tmp_path, loss="Locked"), trainer_class=exact.Exact)


class Masked(nn.Module):
    """A mean by hand over the targets that are not ignored: NaN where there is none."""

    def forward(self, output, target):
        known = (target >= 0).to(output.dtype)
        losses = F.cross_entropy(output, target.clamp(min=0), reduction="none")
        return (losses * known).sum() / known.sum()


class Knowing(exact.Exact):
    """Says over how many targets it is."""

    def loss_size_of(self, batch):
        return int((batch[1] >= 0).sum())


def train_here(config, kind):
    """In a process of its own, where the fixture has set nothing."""
    for part in (WithWeights, Hidden, HolesLoader, Locked, Plain, Masked):
        setattr(tiny, part.__name__, part)
    return exact.train(config, trainer_class=kind)


BY_HAND = (Knowing, {"loss": "Masked", "data_loader__type": "HolesLoader"})


@pytest.mark.parametrize("case", [*CASES, "ignored by hand"])
def test_two_processes_are_one(tmp_path, case):
    kind, changes = CASES.get(case, BY_HAND)
    args = {"batch_size": 5, "shuffle": False}
    config = exact.settings(tmp_path, data_loader__args=args, trainer__accumulate=2, **changes)
    alone = ranks.run(tmp_path, 1, train_here, config, kind)[0]
    for weights, logs, _, _ in ranks.run(tmp_path, 2, train_here, config, kind):
        assert exact.furthest(weights, alone[0]) < 1e-12
        for one, other in zip(logs, alone[1], strict=True):
            assert one["loss"] == pytest.approx(other["loss"], abs=1e-12)
            assert one["val_loss"] == pytest.approx(other["val_loss"], abs=1e-12)
            assert one["accuracy"] == other["accuracy"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_update_whose_targets_are_all_ignored_is_none_on_any_number_of_processes(
    tmp_path, strategy
):
    """Momentum and weight decay would move the weights by gradients that are zero."""
    args = {"batch_size": 2, "shuffle": False}
    changes = {"data_loader__type": "HolesLoader", "data_loader__args": args, "trainer__ema": 0.5}
    config = exact.settings(tmp_path, trainer__strategy=strategy, **changes)
    config["optimizer"]["args"]["weight_decay"] = 0.1
    alone = ranks.run(tmp_path, 1, train_here, config, exact.Exact)[0]
    for weights, logs, _, _ in ranks.run(tmp_path, 2, train_here, config, exact.Exact):
        assert [log["val_loss"] for log in logs] == pytest.approx(
            [log["val_loss"] for log in alone[1]], abs=1e-12
        )
        if strategy == "ddp":
            assert exact.furthest(weights, alone[0]) < 1e-12


class Learning(nn.CrossEntropyLoss):
    """Has parameters of its own, of different sizes."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.scale = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, output, target):
        return super().forward(output * self.scale + self.shift, target)


def learnt(config):
    """What the loss has learnt, and the last validation."""
    for part in (HolesLoader, Learning):
        setattr(tiny, part.__name__, part)
    trainer = tiny.as_train_py(config, trainer_class=exact.Exact)
    trainer.train()
    return trainer.criterion.state_dict(), tiny.rows(trainer)[-1]


@pytest.mark.parametrize("batch_size, number", [(2, 2), (5, 2), (5, 3)])
def test_a_loss_that_learns_may_have_no_target_in_some_processes(tmp_path, batch_size, number):
    """The gradients of all arrive in the same order; those of a loss that is NaN are zero."""
    args = {"batch_size": batch_size, "shuffle": False}
    changes = {"data_loader__type": "HolesLoader", "data_loader__args": args, "loss": "Learning"}
    config = exact.settings(tmp_path, trainer__accumulate=2, **changes)
    config["optimizer"]["loss"] = True
    alone, row = ranks.run(tmp_path, 1, learnt, config)[0]
    assert float(alone["shift"].abs().min()) > 0.001
    for weights, other in ranks.run(tmp_path, number, learnt, config):
        assert exact.furthest(weights, alone) < 1e-12
        assert [float(x) for x in other[:4]] == pytest.approx([float(x) for x in row[:4]])


BATCH = (torch.zeros(6, 2), torch.tensor([0, 1, 2, -100, 1, 0]))


@pytest.mark.parametrize(
    "loss, size",
    [
        (tiny.cross_entropy, 5),
        (F.nll_loss, 5),
        (nn.CrossEntropyLoss(), 5),
        (nn.CrossEntropyLoss(ignore_index=1), 4),
        (nn.CrossEntropyLoss(label_smoothing=0.2, weight=WEIGHT), 1 + 5 + 0.1 + 5 + 1),
        (partial(F.cross_entropy, weight=WEIGHT, ignore_index=0), 5 + 0.1 + 5),
        (nn.CrossEntropyLoss(reduction="sum"), 6),
        (nn.MultiMarginLoss(weight=WEIGHT), 6),
        (nn.MSELoss(), 6),
        (None, 6),
    ],
)
def test_what_a_loss_of_torch_divides_by_is_known(loss, size):
    data, target = BATCH
    if isinstance(loss, partial) or getattr(loss, "ignore_index", -100) != -100:
        target = target.abs() % 3
        size = {4: 3, 10.1: 10.1 + 5}[size]
    assert divisor_of(loss, lambda batch: len(batch[0]))((data, target)) == pytest.approx(size)


def test_a_batch_without_classes_is_measured_in_samples():
    divisor = Divisor(None, -100, lambda batch: 17)
    assert divisor((torch.zeros(6, 2), torch.zeros(6))) == 17
    assert divisor({"x": torch.zeros(6)}) == 17
    assert divisor((torch.zeros(6), torch.zeros(6), torch.zeros(6))) == 17


def test_too_few_class_weights_are_told(tmp_path):
    loss = {"type": "torch.nn.CrossEntropyLoss", "args": {"weight": [1, 2]}}
    config = tiny.settings(tmp_path, loss=loss)
    with pytest.raises(ConfigError, match=r"the loss has weights of 2 classes, .* is class 2"):
        tiny.train(config)


def test_class_weights_that_nobody_sees_are_told_with_each_way_out(tmp_path, capfd):
    config = exact.settings(tmp_path, loss="Hidden", trainer__epochs=1)
    tiny.train(config, trainer_class=Trainer)
    assert "let the trainer's loss_size_of(batch) say" in capfd.readouterr().out
    tiny.train(exact.settings(tmp_path, loss="WithWeights"), trainer_class=exact.Exact)
    tiny.train(config, trainer_class=Said)
    assert "averages depend" not in capfd.readouterr().out


class Said(Trainer):
    """As its message says."""

    def loss_size_of(self, batch):
        return float(WEIGHT.double()[batch[1]].sum())


def test_batches_without_any_target_are_logged(tmp_path):
    """Where the window of a log has none, it has a metric, and no loss."""
    arguments = {"batch_size": 4, "validation_split": 0}
    config = tiny.settings(
        tmp_path,
        data_loader={"type": "HolesLoader", "args": arguments},
        trainer__monitor="off",
        trainer__log_step=1,
        trainer__epochs=1,
    )
    trainer = tiny.train(config)
    assert math.isfinite(float(tiny.rows(trainer)[1][1]))
