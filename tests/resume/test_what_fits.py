"""A checkpoint that does not fit is refused whole, before anything is loaded."""

import numpy as np
import pytest
import torch

import tiny
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError, ConfigError
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
        ({"seed": 5}, "seed cannot be changed under way"),
        ({"data_loader__args": {"n": 110}}, "samples 83 -> 88"),
        ({"data_loader__args": {"batch_size": 9}}, "batch_size 8 -> 9"),
        ({"trainer__accumulate": 2}, "accumulate 1 -> 2"),
        ({"arch__args": {"width": 13}}, r"wrong shape: fc1.weight \[12, 6\] -> \[13, 6\]"),
        ({"optimizer__type": "SGD"}, "optimizer.type cannot be changed under way"),
        ({"lr_scheduler": None}, "lr_scheduler.type cannot be changed under way"),
    ],
)
def test_what_cannot_be_continued_is_refused_whole(tmp_path, change, message):
    path = interrupted(tiny.settings(tmp_path), after=13)
    before = path.read_bytes()
    trainer = None
    with pytest.raises((ConfigError, CheckpointError), match=message):
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


def put(value, *path):
    """What puts a value into a checkpoint, or into one that says nothing of its states."""

    def change(state):
        *keys, last = path
        for key in keys:
            state = state[key]
        state[last] = value

    return change


def drop(*path):
    """What takes a key out of a checkpoint."""

    def change(state):
        *keys, last = path
        for key in keys:
            state = state[key]
        del state[last]

    return change


def as_integers(dtype):
    def change(state):
        weights = state["state_dict"]
        weights["fc1.weight"] = weights["fc1.weight"].to(dtype)

    return change


CHANGED = "the states of optimizer have other keys"
NONSENSE = [
    (put([1, 2], "states", "lr_scheduler"), "states.lr_scheduler: Input should be a valid dict"),
    (put("x", "states", "lr_scheduler", "last_epoch"), "last_epoch is a str, not a int"),
    (put({}, "states", "lr_scheduler", "base_lrs"), "base_lrs is a dict, not a list"),
    (put(["x"], "states", "lr_scheduler", "base_lrs"), "base_lrs.0 is a str, not a float"),
    (put("x", "states", "monitor", "best"), "monitor: best is a str, not a float"),
    (put([], "states", "train_metrics", "sums"), "train_metrics: sums is a list, not a dict"),
    (put({}, "optimizer"), "optimizer: its state has no state, param_groups"),
    (put([], "optimizer", "state"), "optimizer: state is a list, not a dict"),
    (put("x", "optimizer", "param_groups", 0, "lr"), "param_groups.0.lr is a str, not a float"),
    (put([3], "optimizer", "param_groups"), "param_groups.0 is a int, not a dict"),
    (put({}, "optimizer", "state"), CHANGED),
    (drop("optimizer", "state", 0, "exp_avg"), CHANGED),
    (drop("optimizer", "state", 0), CHANGED),
    (put(torch.zeros(1), "optimizer", "state", 0, "exp_avg"), CHANGED),
    (drop("states", "lr_scheduler", "last_epoch"), "the states of lr_scheduler have other keys"),
    (put({"loss": "x"}, "states", "train_metrics", "sums"), "train_metrics: sums.loss is a str"),
    (as_integers(torch.int64), "wrong kind: fc1.weight int64 -> float32"),
    (as_integers(torch.bool), "wrong kind: fc1.weight bool -> float32"),
    (put([1.0], "state_dict", "fc1.weight"), "wrong kind: fc1.weight list -> float32"),
]


def test_rightly_signed_nonsense_is_told_before_training(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    path = tiny.train(config).checkpoint_dir / "checkpoint-epoch1.pth"
    whole = path.read_bytes()
    config["trainer"]["epochs"] = 2
    for change, message in NONSENSE:
        path.write_bytes(whole)
        state = checkpoint.load(path)
        change(state)
        checkpoint.save(state, path)
        with pytest.raises(CheckpointError, match=message) as caught:
            tiny.build(config, resume=path).train()
        assert len(str(caught.value).splitlines()) <= 3, message
    assert [file.name for file in path.parent.glob("*.pth.old")] == []
    path.write_bytes(whole)
    tiny.train(config, resume=path)


def test_weights_of_another_kind_start_no_new_run(tmp_path):
    config = tiny.settings(tmp_path / "a", trainer__epochs=1)
    path = tiny.train(config).checkpoint_dir / "checkpoint-epoch1.pth"
    state = checkpoint.load(path)
    as_integers(torch.int64)(state)
    checkpoint.save(state, path)
    file = tiny.write_config(tmp_path)
    with pytest.raises(CheckpointError, match=r'(?s)int64 -> float32.*"skip": \["fc1\.\*"\]'):
        tiny.build(tiny.command_line("-c", file, "-r", path))
