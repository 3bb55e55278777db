"""A resumed run is the unbroken run, bit for bit."""

import os
import signal
from pathlib import Path

import pytest
import torch

import tiny
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError, ConfigError, Stopped
from machinery.launch import Launch
from parse_config import ConfigParser


class Interrupted(tiny.Trainer):
    """Gets a signal after so many updates, or so many validation batches."""

    after = 10**9
    in_validation = False
    count = 0

    def _forward(self, batch):
        if self.model.training != self.in_validation:
            self.count += 1
            if self.count == self.after:
                os.kill(os.getpid(), signal.SIGTERM)
        return super()._forward(batch)


def interrupted(config, after, in_validation=False, cls=(), **kwargs):
    """Train until the signal; the path of the newest checkpoint."""
    cls = type("Interrupted", (*cls, Interrupted), {"after": after, "in_validation": in_validation})
    trainer = tiny.build(config, trainer_class=cls, **kwargs)
    with pytest.raises(Stopped) as caught:
        trainer.train()
    assert caught.value.exit_code == 143
    return newest(trainer.checkpoint_dir)


def newest(folder):
    from machinery.checkpoints.run_folder import checkpoints

    return checkpoints(folder)[-1].path


KINDS = {
    "map-style": {},
    "whole-batch": {"data_loader__args": {"kind": "whole"}},
    "subset": {"data_loader__args": {"kind": "subset", "n": 120}},
    "subset of whole-batch": {"data_loader__args": {"kind": "subset-whole", "n": 120}},
    "replacement": {"data_loader__args": {"kind": "weighted", "validation_split": 0}, "trainer__monitor": "off"},
    "own batches": {"data_loader__args": {"kind": "batches", "validation_split": 0}, "trainer__monitor": "off"},
    "mixup": {"data_loader__args": {"kind": "mixup"}},
    "workers": {"data_loader__args": {"num_workers": 2}},
    "persistent workers": {"data_loader__args": {"num_workers": 2, "persistent_workers": True}},
    "accumulation": {"trainer__accumulate": 3},
    "per-step scheduler": {
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.05}, "interval": "step"},
    },
    "plateau": {"lr_scheduler": {"type": "ReduceLROnPlateau", "args": {"patience": 0}}},
    "iteration-based epochs": {"trainer__len_epoch": 7},
    "fp16": {"trainer__precision": "fp16"},
}


def reference(kind, folder):
    trainer = tiny.train(tiny.settings(folder, **KINDS[kind]))
    return tiny.digest(trainer.model), tiny.rows(trainer), vars(trainer.monitor)


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_inside_an_epoch_twice(tmp_path, kind):
    expected = reference(kind, tmp_path / "unbroken")
    config = tiny.settings(tmp_path, **KINDS[kind])
    first = interrupted(config, after=13)
    second = interrupted(config, after=3, resume=first)
    assert "-step" in first.name and "-step" in second.name and first != second
    trainer = tiny.train(config, resume=second)
    assert (tiny.digest(trainer.model), tiny.rows(trainer), vars(trainer.monitor)) == expected


@pytest.mark.parametrize("kind", ["map-style", "whole-batch", "plateau"])
def test_resuming_in_validation(tmp_path, kind):
    expected = reference(kind, tmp_path / "unbroken")
    config = tiny.settings(tmp_path, **KINDS[kind])
    path = interrupted(config, after=4, in_validation=True)
    trainer = tiny.train(config, resume=path)
    assert (tiny.digest(trainer.model), tiny.rows(trainer), vars(trainer.monitor)) == expected


def test_resuming_at_an_epoch_edge(tmp_path):
    expected = reference("map-style", tmp_path / "unbroken")
    config = tiny.settings(tmp_path)
    trainer = tiny.train(config)
    path = trainer.checkpoint_dir / "checkpoint-epoch2.pth"
    again = tiny.train(config, resume=path)
    assert (tiny.digest(again.model), tiny.rows(again), vars(again.monitor)) == expected
    # The later checkpoint was set aside, not overwritten in silence.
    assert (trainer.checkpoint_dir / "checkpoint-epoch3.pth.old").exists()


def test_resuming_with_other_workers_and_threads(tmp_path):
    expected = reference("map-style", tmp_path / "unbroken")
    config = tiny.settings(tmp_path)
    first = interrupted(config, after=13)
    config["data_loader"]["args"]["num_workers"] = 2
    second = interrupted(config, after=5, resume=first)
    config["data_loader"]["args"]["num_workers"] = 1
    trainer = tiny.train(config, resume=second)
    assert (tiny.digest(trainer.model), tiny.rows(trainer), vars(trainer.monitor)) == expected


class WithHook(Interrupted):
    """Draws at the start of each epoch."""

    def _train_epoch(self, epoch):
        noise = torch.rand(())
        if self.step == 0:
            with torch.no_grad():
                self.model.fc2.bias += 0.1 * noise
        return super()._train_epoch(epoch)


def test_draws_in_an_epoch_hook(tmp_path):
    expected = tiny.train(tiny.settings(tmp_path / "unbroken"), trainer_class=WithHook)
    config = tiny.settings(tmp_path)
    cls = type("Stopping", (WithHook,), {"after": 13})
    trainer = tiny.build(config, trainer_class=cls)
    with pytest.raises(Stopped):
        trainer.train()
    resumed = tiny.train(config, resume=newest(trainer.checkpoint_dir), trainer_class=WithHook)
    assert tiny.digest(resumed.model) == tiny.digest(expected.model)


def test_save_step_files_resume_and_are_pruned(tmp_path):
    config = tiny.settings(tmp_path, trainer__save_step=2, trainer__epochs=2)
    seen = []

    class Watching(tiny.Trainer):
        def _save_step(self):
            super()._save_step()
            seen.append(sorted(path.name for path in self.checkpoint_dir.glob("*-step*.pth")))

    trainer = tiny.train(config, trainer_class=Watching)
    assert seen[0] == ["checkpoint-epoch1-step2.pth"]
    assert max(map(len, seen)) == 2
    assert not list(trainer.checkpoint_dir.glob("*-step*.pth"))


def test_early_stop_and_patience_survive(tmp_path):
    class Flat(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": 1.0 if epoch > 2 else 3.0 - epoch}

    config = tiny.settings(tmp_path / "a", trainer__epochs=20, trainer__early_stop=4)
    whole = tiny.train(config, trainer_class=Flat)
    assert whole.epoch == 6  # best in epoch 2, then four without improvement: ties don't count
    config = tiny.settings(tmp_path / "b", trainer__epochs=4, trainer__early_stop=4)
    part = tiny.train(config, trainer_class=Flat)
    config["trainer"]["epochs"] = 20
    rest = tiny.train(config, trainer_class=Flat, resume=newest(part.checkpoint_dir))
    assert rest.epoch == 6
    assert tiny.digest(rest.model) == tiny.digest(whole.model)
    done = tiny.train(config, trainer_class=Flat, resume=newest(part.checkpoint_dir))
    assert done.start_epoch == 7 and tiny.digest(done.model) == tiny.digest(whole.model)


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
    if trainer is not None and "seed" not in message and "samples" not in message and "batch" not in message:
        assert "accumulate" in message or tiny.digest(trainer.model) == start
    assert path.read_bytes() == before


def test_batch_size_may_change_between_epochs(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    path = newest(tiny.train(config).checkpoint_dir)
    config = tiny.settings(tmp_path, data_loader__args={"batch_size": 5})
    assert tiny.train(config, resume=path).start_epoch == 2


def test_fine_tuning_takes_the_weights_only(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    source = tiny.train(config)
    path = newest(source.checkpoint_dir)
    state = checkpoint.load(path)
    config = tiny.settings(tmp_path, arch={"type": "TinyModel", "args": {}, "skip": ["fc2.*"]})
    trainer = tiny.build(ConfigParser(config, launch=Launch("fine-tune", checkpoint=path)))
    fresh = trainer.model.fc2.weight.clone()
    trainer.restore()
    assert torch.equal(trainer.model.fc1.weight, state["state_dict"]["fc1.weight"])
    assert torch.equal(trainer.model.fc2.weight, fresh)


def test_best_is_caught_up_after_a_kill_between_the_two_files(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=2)
    trainer = tiny.train(config)
    folder = Path(trainer.checkpoint_dir)
    assert trainer.monitor.best_epoch == 2
    checkpoint.copy(folder / "checkpoint-epoch1.pth", folder / "model_best.pth")
    config["trainer"]["epochs"] = 3
    resumed = tiny.build(config, resume=folder / "checkpoint-epoch2.pth")
    resumed._start()
    assert checkpoint.load(folder / "model_best.pth")["epoch"] == 2


@pytest.mark.parametrize("save_period", [1, 3])
def test_the_best_is_written_whenever_it_improves(tmp_path, save_period):
    seen = []

    class Judged(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": [5.0, 4.0, 4.0, 3.0, 3.5][epoch - 1]}

        def _save_epoch(self, epoch, improved, finished):
            super()._save_epoch(epoch, improved, finished)
            best = checkpoint.load(self.checkpoint_dir / "model_best.pth")
            seen.append((best["epoch"], best["monitor_best"]))

    config = tiny.settings(tmp_path, trainer__epochs=5, trainer__save_period=save_period)
    trainer = tiny.train(config, trainer_class=Judged)
    assert seen == [(1, 5.0), (2, 4.0), (2, 4.0), (4, 3.0), (4, 3.0)]
    saved = {path.name for path in trainer.checkpoint_dir.glob("checkpoint-*.pth")}
    assert saved == {f"checkpoint-epoch{n}.pth" for n in ([1, 2, 3, 4, 5] if save_period == 1 else [3, 5])}


def best_by_epoch(values):
    """A trainer whose validation loss in each epoch is given."""

    class Judged(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": values[epoch - 1]}

    return Judged


def test_continuing_from_the_best_sets_later_files_aside(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=5, trainer__keep_last=2, lr_scheduler=None)
    folder = tiny.train(config, trainer_class=best_by_epoch([2.0, 1.0, 3.0, 3.0, 3.0])).checkpoint_dir
    config["trainer"]["epochs"] = 3
    trainer = tiny.train(config, resume=folder / "model_best.pth")
    assert trainer.epoch == 3
    names = {path.name for path in folder.glob("*.pth*")}
    assert names == {
        "checkpoint-epoch3.pth",
        "model_best.pth",
        "checkpoint-epoch4.pth.old",
        "checkpoint-epoch5.pth.old",
    }


@pytest.mark.parametrize("keep_last", [None, 2])
def test_the_best_of_a_way_not_taken_is_no_longer_the_best(tmp_path, keep_last):
    config = tiny.settings(tmp_path, trainer__epochs=6, trainer__keep_last=keep_last, trainer__save_period=1)
    folder = tiny.train(config, trainer_class=best_by_epoch([3.0, 2.0, 4.0, 4.0, 4.0, 1.0])).checkpoint_dir
    resumed = tiny.build(config, resume=folder / "checkpoint-epoch5.pth")
    resumed._start()
    assert resumed.monitor.best_epoch == 2
    if keep_last is None:  # its file is still there
        assert checkpoint.load(folder / "model_best.pth")["epoch"] == 2
    else:
        assert not (folder / "model_best.pth").exists() and (folder / "model_best.pth.old").exists()


def test_what_is_changed_on_resume_is_used(tmp_path):
    optimizer = {"type": "Adam", "args": {"lr": 0.01}}
    config = tiny.settings(tmp_path, trainer__epochs=1, optimizer=optimizer)
    folder = tiny.train(config).checkpoint_dir
    parser = tiny.command_line("-r", folder, "--set", "optimizer.args.betas=[0.5,0.6]")
    trainer = tiny.build(parser)
    trainer.restore()
    assert [group["betas"] for group in trainer.optimizer.param_groups] == [(0.5, 0.6)]


@pytest.mark.parametrize(
    "scheduler, change, message",
    [
        (
            {"type": "MultiStepLR", "args": {"milestones": [2]}},
            "lr_scheduler.args.milestones=[1]",
            "milestones of a running",
        ),
        (
            {"type": "OneCycleLR", "args": {"max_lr": 0.1}, "interval": "step"},
            "optimizer.args.lr=0.5",
            "the learning rate follows OneCycleLR",
        ),
    ],
)
def test_what_cannot_be_changed_on_resume_is_refused(tmp_path, scheduler, change, message):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1, lr_scheduler=scheduler)).checkpoint_dir
    before = {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}
    with pytest.raises(ConfigError, match=message):
        tiny.build(tiny.command_line("-r", folder, "--set", change)).train()
    assert {path: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"} == before


class Hits:
    """A metric object, as torchmetrics has them."""

    __name__ = "hits"

    def __init__(self):
        self.reset()

    def reset(self):
        self.hits, self.count = torch.zeros(()), 0

    def update(self, output, target):
        self.hits += (output.argmax(1) == target).sum()
        self.count += len(target)

    def compute(self):
        return self.hits / self.count

    def state_dict(self):
        return vars(self)

    def load_state_dict(self, state):
        vars(self).update(state)


@pytest.mark.parametrize("in_validation", [False, True])
def test_metric_objects_resume_too(tmp_path, monkeypatch, in_validation):
    Hits.__module__ = "tiny"
    monkeypatch.setattr(tiny, "Hits", Hits, raising=False)
    metrics = ["accuracy", {"type": "Hits", "name": "hits"}]
    whole = tiny.train(tiny.settings(tmp_path / "a", metrics=metrics))
    header, *rows = tiny.rows(whole)
    for row in rows:
        cells = dict(zip(header, map(float, row)))
        assert cells["hits"] == pytest.approx(cells["accuracy"]) and cells["val_hits"] == pytest.approx(
            cells["val_accuracy"]
        )
    config = tiny.settings(tmp_path / "b", metrics=metrics)
    path = interrupted(config, after=4 if in_validation else 16, in_validation=in_validation)
    assert tiny.rows(tiny.train(config, resume=path)) == tiny.rows(whole)


def test_another_monitor_starts_to_judge_afresh(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    folder = tiny.train(config).checkpoint_dir
    trainer = tiny.build(tiny.command_line("-r", folder, "--set", "trainer.monitor=max val_loss"))
    trainer.restore()
    assert trainer.monitor.best_epoch == 0
