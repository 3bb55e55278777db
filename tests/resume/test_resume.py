"""A resumed run is the unbroken run, bit for bit."""

import pytest
import torch

import tiny
from machinery.errors import Stopped
from tiny import Interrupted, interrupted, newest

KINDS = {
    "map-style": {},
    "whole-batch": {"data_loader__args": {"kind": "whole"}},
    "subset": {"data_loader__args": {"kind": "subset", "n": 120}},
    "subset of whole-batch": {"data_loader__args": {"kind": "subset-whole", "n": 120}},
    "replacement": {
        "data_loader__args": {"kind": "weighted", "validation_split": 0},
        "trainer__monitor": "off",
    },
    "own batches": {
        "data_loader__args": {"kind": "batches", "validation_split": 0},
        "trainer__monitor": "off",
    },
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
    assert path.exists()
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


class Growing(tiny.Trainer):
    """Scales the loss up in every third step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.runtime._scaler.set_growth_interval(3)


def test_the_scale_of_the_loss_is_resumed(tmp_path):
    config = tiny.settings(tmp_path, trainer__precision="fp16", trainer__epochs=1)
    whole = tiny.train(config, trainer_class=Growing)
    scale = whole.runtime.state_dict()
    assert scale["scale"] > 2**16
    path = interrupted(config, after=7, cls=(Growing,))
    resumed = tiny.train(config, resume=path, trainer_class=Growing)
    assert resumed.runtime.state_dict() == scale
    assert tiny.digest(resumed.model) == tiny.digest(whole.model)


def test_a_process_counts_the_samples_that_it_has_trained_on(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=2)
    path = interrupted(config, after=18)
    assert path.name == "checkpoint-epoch2-step7.pth"
    assert tiny.train(config, resume=path)._samples == 83 - 7 * 8


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
