"""An error that is not the weights' loses nothing: the step in hand is saved, and goes on."""

import pytest
import torch

import tiny
from machinery.errors import DataError, NonFiniteError
from machinery.files import read_json
from tiny import newest


class Missing(tiny.Points):
    """A file that cannot be read, until it is there."""

    gone = True

    def __init__(self, n, at, in_training):
        super().__init__(n)
        self.at = at
        self.in_training = in_training

    def __getitem__(self, i):
        if Missing.gone and i == self.at and self.noise == self.in_training:
            raise FileNotFoundError("sample.png")
        return super().__getitem__(i)


def built(folder, at=None, in_training=True, kind=tiny.Trainer, **kwargs):
    """A trainer of data of which sample `at` cannot be read, in training or in validation."""
    config = tiny.settings(folder, trainer__verbosity=1)
    trainer = tiny.build(config, trainer_class=kind, **kwargs)
    if at is not None:
        data = Missing(103, at, in_training)
        trainer.data_loader._passes.fetcher.dataset = data
        held_out = trainer.valid_data_loader._passes.fetcher.dataset
        held_out.dataset = data.evaluation_view()
    return trainer


def unbroken(folder):
    trainer = built(folder)
    trainer.train()
    return tiny.digest(trainer.model), tiny.rows(trainer)


@pytest.mark.parametrize("in_training", [True, False])
def test_a_sample_that_cannot_be_read_costs_no_step(tmp_path, monkeypatch, in_training):
    loader = built(tmp_path / "order").data_loader
    sampler = loader.valid_sampler
    at = 50 if in_training else int(sampler.indices[0])
    if in_training and at in sampler.indices:
        at = next(i for i in range(103) if i not in sampler.indices)
    expected = unbroken(tmp_path / "unbroken")
    monkeypatch.setattr(Missing, "gone", True)
    trainer = built(tmp_path, at, in_training)
    with pytest.raises(DataError, match=r"sample.png(.|\n)*resume: python .*-step\d+.pth"):
        trainer.train()
    path = newest(trainer.checkpoint_dir)
    assert path.name.startswith("checkpoint-epoch1-step")
    assert in_training or path.name == "checkpoint-epoch1-step11.pth"
    monkeypatch.setattr(Missing, "gone", False)
    again = built(tmp_path, at, in_training, resume=path)
    again.train()
    assert (tiny.digest(again.model), tiny.rows(again)) == expected


class Mistaken(tiny.Trainer):
    """An evaluation of the user's own with a mistake in it."""

    def _valid_epoch(self, epoch):
        return {"loss": super()._valid_epoch(epoch)["los"]}


def test_a_mistake_after_the_last_step_costs_no_epoch(tmp_path, messages):
    trainer = built(tmp_path, kind=Mistaken)
    with pytest.raises(KeyError):
        trainer.train()
    assert "resume: python " in messages()
    again = built(tmp_path, resume=newest(trainer.checkpoint_dir))
    again.train()
    assert (tiny.digest(again.model), tiny.rows(again)) == unbroken(tmp_path / "unbroken")
    assert read_json(trainer.checkpoint_dir / "status.json")["state"] == "finished"


class Halfway(tiny.Trainer):
    """A mistake once the gradients are there."""

    def _update(self, batches):
        super()._update(batches)
        if self.step == 5:
            raise RuntimeError("after the optimizer's step")


def test_what_an_update_has_left_in_the_middle_is_not_saved(tmp_path):
    trainer = built(tmp_path, kind=Halfway)
    with pytest.raises(RuntimeError, match="after the optimizer's step"):
        trainer.train()
    assert not list(trainer.checkpoint_dir.glob("*.pth"))


class Spoilt(tiny.Trainer):
    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        return loss * (torch.nan if self.model.training and self.step == 5 else 1.0), output, target


def test_weights_that_are_spoilt_are_not_saved(tmp_path):
    trainer = built(tmp_path, kind=Spoilt)
    with pytest.raises(NonFiniteError):
        trainer.train()
    assert not list(trainer.checkpoint_dir.glob("*.pth"))
