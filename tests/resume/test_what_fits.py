"""A checkpoint that does not fit is refused whole, before anything is loaded."""

import numpy as np
import pytest
import torch

import tiny
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError
from tiny import interrupted


def test_groups_of_other_parameters_are_refused(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    trainer = tiny.build(config)
    named = [(name, p) for name, p in trainer.model.named_parameters() if p.ndim == 1]
    trainer.optimizer = torch.optim.Adam([{"params": [named[0]]}, {"params": [named[1]]}])
    trainer.lr_scheduler = None
    trainer.train()
    config["trainer"]["epochs"] = 2
    again = tiny.build(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    named = [(name, p) for name, p in again.model.named_parameters() if p.ndim == 1]
    again.optimizer = torch.optim.Adam([{"params": [named[1]]}, {"params": [named[0]]}])
    again.lr_scheduler = None
    with pytest.raises(CheckpointError, match="parameters in its groups"):
        again.restore()


def test_a_step_beyond_the_epoch_is_refused(tmp_path):
    from tiny import interrupted

    config = tiny.settings(tmp_path)
    path = interrupted(config, after=5)
    state = checkpoint.load(path)
    state["progress"]["step"] = 10**6
    checkpoint.save(state, path)
    with pytest.raises(CheckpointError, match="1000000 batches into an epoch of 11"):
        tiny.train(config, resume=path)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seed": 5}, "seed 123 -> 5"),
        ({"data_loader__args": {"n": 110}}, "samples 83 -> 88"),
        ({"data_loader__args": {"batch_size": 9}}, "batch_size 8 -> 9"),
        ({"trainer__accumulate": 2}, "accumulate 1 -> 2"),
        ({"arch__args": {"width": 13}}, r"wrong shape: fc1.weight \[12, 6\] -> \[13, 6\]"),
        ({"optimizer__type": "SGD"}, "optimizer: Adam -> SGD"),
        ({"lr_scheduler": None}, "unexpected: lr_scheduler"),
    ],
)
def test_what_cannot_be_continued_is_refused_whole(tmp_path, change, message):
    path = interrupted(tiny.settings(tmp_path), after=13)
    before = path.read_bytes()
    trainer = None
    with pytest.raises(CheckpointError, match=message):
        trainer = tiny.build(tiny.settings(tmp_path, **change), resume=path)
        start = tiny.digest(trainer.model)
        trainer.train()
    if (
        trainer is not None
        and "seed" not in message
        and "samples" not in message
        and "batch" not in message
    ):
        assert "accumulate" in message or tiny.digest(trainer.model) == start
    assert path.read_bytes() == before


def test_layers_in_another_order_are_refused(tmp_path, monkeypatch):
    path = (
        tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
        / "checkpoint-epoch1.pth"
    )

    class Reordered(tiny.TinyModel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            first = next(iter(self._modules))
            self._modules[first] = self._modules.pop(first)

    Reordered.__name__ = "TinyModel"
    monkeypatch.setattr(tiny, "TinyModel", Reordered)
    with pytest.raises(CheckpointError, match="in another order: "):
        tiny.train(tiny.settings(tmp_path, trainer__epochs=2), resume=path)


def test_metrics_that_change_inside_an_epoch_are_refused(tmp_path):
    path = interrupted(tiny.settings(tmp_path), after=16)
    with pytest.raises(CheckpointError, match="cannot be continued with metrics"):
        tiny.train(
            tiny.settings(tmp_path, metrics=["accuracy", {"type": "accuracy", "name": "again"}]),
            resume=path,
        )
    with pytest.raises(CheckpointError, match="cannot be continued with shuffle"):
        tiny.train(tiny.settings(tmp_path, data_loader__args={"shuffle": False}), resume=path)
    assert np.isfinite(tiny.train(tiny.settings(tmp_path), resume=path).monitor.best)
