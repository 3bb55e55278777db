"""Networks keep the mode that the user gave them, wherever the trainer holds them, and are on the
device."""

import pytest
import torch

import tiny
from machinery.errors import CheckpointError
from projects import copy_template, quick
from tiny import Several, interrupted


def test_each_network_keeps_its_mode(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path), trainer_class=Several)
    training, evaluation = (False, True, True, True, False, True), (False,) * 6
    assert trainer.seen == {training, evaluation}
    assert int(trainer.teacher.norm.num_batches_tracked) == 0
    # 3 epochs of 11 training batches, and none of the 3 validation batches.
    assert [
        int(part.num_batches_tracked) for part in (trainer.experts[0], trainer.experts[1]["deep"])
    ] == [33, 33]
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


def test_an_evaluation_wants_the_weights_of_all_networks(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    again = tiny.build(tiny.settings(tmp_path))
    again.second = torch.nn.Linear(2, 2)
    again.config.launch.task, again.config.launch.checkpoint = (
        "evaluate",
        trainer.checkpoint_dir / "model_best.pth",
    )
    with pytest.raises(CheckpointError, match="holds no weights of second: it was trained without"):
        again.restore()


def test_a_second_network_handed_over_in_train_reaches_test(tmp_path):
    folder = copy_template(tmp_path / "project")
    text = (folder / "train.py").read_text()
    assert text.count("\n    return trainer\n\n\ndef load_run") == 1
    (folder / "train.py").write_text(
        text.replace("    return trainer\n\n\ndef load_run", f"{NETWORK}\n\ndef load_run")
    )
    short = ["--set", "trainer.epochs=1", "--set", "trainer.len_epoch=3", "--run_id", "one"]
    trained = quick(folder, "train.py", "-c", "config.json", *short)
    assert trained.returncode == 0, trained.stderr
    result = quick(folder, "test.py", "-r", "saved/models/Digits_LeNet/one")
    assert result.returncode == 0, result.stderr
    (told,) = [line for line in trained.stdout.splitlines() if "second network" in line][-1:]
    assert told in result.stdout


NETWORK = """    import torch

    assert trainer.optimizer.param_groups  # also where nothing is optimized
    trainer.second = torch.nn.BatchNorm1d(4).to(device)
    trainer.second.running_mean += 7 if data_loader is not None else 0
    forward = trainer._forward

    def shown(batch):
        print("second network", trainer.second.running_mean.tolist())
        return forward(batch)

    trainer._forward = shown
    return trainer
"""
