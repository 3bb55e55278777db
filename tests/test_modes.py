"""Networks keep the mode that the user gave them, wherever the trainer holds them, and are on the device."""

import pytest
import torch
from torch import nn

import tiny
from test_resume import interrupted


class Several(tiny.Trainer):
    """A teacher that is switched off, networks in a list and in a dict, and a layer of the model that stays frozen."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher = tiny.TinyModel().eval()
        self.experts = [nn.BatchNorm1d(6), {"deep": nn.BatchNorm1d(6)}]
        self.model.norm.eval()
        self.seen = set()

    def _forward(self, batch):
        data, _ = batch
        parts = (self.teacher, self.experts[0], self.experts[1]["deep"], self.model, self.model.norm, self.model.drop)
        self.seen.add(tuple(part.training for part in parts))
        for part in parts[:3]:
            part(data)
        return super()._forward(batch)


def test_each_network_keeps_its_mode(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path), trainer_class=Several)
    training, evaluation = (False, True, True, True, False, True), (False,) * 6
    assert trainer.seen == {training, evaluation}
    assert int(trainer.teacher.norm.num_batches_tracked) == 0
    # 3 epochs of 11 training batches, and none of the 3 validation batches.
    assert [int(part.num_batches_tracked) for part in (trainer.experts[0], trainer.experts[1]["deep"])] == [33, 33]
    assert trainer.model.training and not trainer.model.norm.training


def test_modes_are_restored_after_an_error_and_a_stop(tmp_path):
    class Failing(Several):
        def _forward(self, batch):
            if not self.model.training:
                raise ValueError("in validation")
            return super()._forward(batch)

    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Failing)
    with pytest.raises(ValueError, match="in validation"):
        trainer.evaluate(trainer.valid_data_loader)
    assert trainer.model.training and trainer.model.drop.training and not trainer.teacher.training


def test_a_validation_of_ones_own_may_leave_the_model_as_it_likes(tmp_path):
    class Classic(tiny.Trainer):
        def _train_epoch(self, epoch):
            modes.append(self.model.training)
            return super()._train_epoch(epoch)

        def _valid_epoch(self, epoch):
            self.model.eval()
            return {"loss": 1.0}

    modes = []
    tiny.train(tiny.settings(tmp_path), trainer_class=Classic)
    assert modes == [True] * 3


def test_a_model_in_evaluation_mode_is_told(tmp_path, capfd):
    trainer = tiny.build(tiny.settings(tmp_path))
    trainer.model.eval()
    trainer.train()
    assert "the model is in evaluation mode, and trains in it" in "".join(capfd.readouterr())
    assert not trainer.model.training


def test_networks_are_brought_to_the_device(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Several)
    trainer.device = torch.device("meta")
    trainer.restore()
    parts = (trainer.model, trainer.teacher, trainer.experts[0], trainer.experts[1]["deep"])
    assert all(tensor.is_meta for part in parts for tensor in (*part.parameters(), *part.buffers()))


def test_the_device_may_be_a_name(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path))
    trainer.device = "cpu"
    trainer.train()
    assert trainer.epoch == 3


def test_modes_do_not_matter_to_a_resume(tmp_path):
    whole = tiny.train(tiny.settings(tmp_path / "a"), trainer_class=Several)
    path = interrupted(tiny.settings(tmp_path / "b"), after=4, in_validation=True)
    plain = tiny.train(tiny.settings(tmp_path / "b"), resume=path)
    assert plain.model.training and whole.model.training


@pytest.mark.parametrize("accumulate", [1, 3])
def test_skip_reads_one_value_an_update(tmp_path, monkeypatch, accumulate):
    reads = []
    for name in ("__bool__", "__float__", "item", "tolist"):
        inner = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, inner=inner: reads.append(1) or inner(self))
    sgd = {"type": "SGD", "args": {"lr": 0.01}}  # Adam reads its own steps
    settings = {"trainer__on_nan": "skip", "trainer__accumulate": accumulate, "metrics": ["accuracy"], "optimizer": sgd}
    config = tiny.settings(tmp_path, **settings)
    trainer = tiny.build(config)
    trainer.log_step, trainer._judges_loss = 10**9, False
    groups = trainer._groups(1)
    for _ in range(3):
        batches = next(groups)
        reads.clear()
        trainer._update(batches)
        assert len(reads) == 1


def test_a_network_s_own_train_is_called(tmp_path, monkeypatch):
    calls = []

    class Frozen(tiny.TinyModel):
        """Keeps its normalisation frozen, and counts, as adapters merge and unmerge."""

        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            calls.append(mode)
            return self

    Frozen.__module__ = "tiny"
    monkeypatch.setattr(tiny, "TinyModel", Frozen)
    trainer = tiny.train(tiny.settings(tmp_path))
    assert int(trainer.model.norm.num_batches_tracked) == 0 and trainer.model.training
    assert False in calls and calls[-1] is True


def test_skipping_leaves_no_trace_in_other_networks_and_metrics(tmp_path):
    class Poisoned(Several):
        def _forward(self, batch):
            x, y = batch
            if self.model.training and (self.epoch, self.step) == (2, 4):
                x = x * float("nan")
            return super()._forward((x, y))

    trainer = tiny.train(tiny.settings(tmp_path, trainer__on_nan="skip"), trainer_class=Poisoned)
    assert all(bool(torch.isfinite(buffer).all()) for part in trainer.experts[:1] for buffer in part.buffers())
    assert "nan" not in str(tiny.rows(trainer))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_skip_counts_what_stop_counts(tmp_path, monkeypatch, precision):
    matrix = torch.eye(3)

    class Watching(tiny.Trainer):
        loss_terms = ("loss", "temperature")

        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            return {"loss": loss, "temperature": self.model.fc2.bias[0]}, output, target

    def projected(output, target):
        return ((output @ matrix).argmax(1) == target).float()

    projected.__module__ = "tiny"
    monkeypatch.setattr(tiny, "projected", projected, raising=False)
    settings = {"metrics": ["projected"], "trainer__precision": precision}
    stop = tiny.train(tiny.settings(tmp_path / "stop", **settings), trainer_class=Watching)
    skip = tiny.train(tiny.settings(tmp_path / "skip", trainer__on_nan="skip", **settings), trainer_class=Watching)
    assert tiny.rows(stop) == tiny.rows(skip)


def test_a_loader_s_own_iteration_is_taken(tmp_path):
    class Blank(tiny.TinyLoader):
        def __iter__(self):
            for x, y in super().__iter__():
                yield x * 0, y

    def run(folder, **kwargs):
        trainer = tiny.build(tiny.settings(tmp_path / folder), **kwargs)
        trainer.data_loader = Blank()
        return trainer

    seen = []
    trainer = run("a")
    forward = trainer._forward
    trainer._forward = lambda batch: seen.append(float(batch[0].abs().sum())) or forward(batch)
    trainer.valid_data_loader = Blank(training=False, shuffle=False)
    trainer.train()
    assert len(seen) > 40 and not any(seen)
