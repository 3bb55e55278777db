"""`trainer.async_save`: what is written while the training goes on is of the moment of the save."""

import shutil
import signal
import threading

import pytest
import torch

import tiny
from machinery.checkpoints import file as checkpoint, later, run_folder, stored
from machinery.checkpoints.later import Copies
from machinery.checkpoints.structure import difference
from machinery.errors import Stopped, StorageError
from tiny import status

LATER = {"trainer__async_save": True, "trainer__save_step": 3}


def settings(folder, **changes):
    return tiny.settings(folder, **{**LATER, **changes})


class Slow(threading.Thread):
    """A thread that begins its work only when the training waits for it."""

    def start(self):
        pass

    def join(self, timeout=None):
        if not self.is_alive() and not self._started.is_set():
            super().start()
        super().join(timeout)


@pytest.fixture
def slow(monkeypatch):
    """Nothing is written before somebody waits for it: at the next save, or at the end."""
    monkeypatch.setattr(later.threading, "Thread", Slow)


KINDS = [{}, {"trainer__checkpoint": "sharded"}, {"trainer__ema": 0.5, "trainer__accumulate": 2}]


@pytest.mark.parametrize("changes", KINDS)
def test_the_content_is_of_the_moment_of_the_save(tmp_path, slow, changes):
    """All files are those of a run that waits; each is written after the weights have changed."""
    expected = tiny.train(tiny.settings(tmp_path / "now", trainer__save_step=3, **changes))
    trainer = tiny.train(settings(tmp_path / "later", **changes))
    names = {path.name for path in expected.checkpoint_dir.glob("*[hd]") if "-" in path.name}
    assert names == {path.name for path in trainer.checkpoint_dir.glob("*[hd]") if "-" in path.name}
    paths = [*names, run_folder.best(expected.checkpoint_dir).name]
    assert len(paths) >= 4
    for name in paths:
        ours = stored.load(trainer.checkpoint_dir / name)
        theirs = stored.load(expected.checkpoint_dir / name)
        for part in ("state_dict", "optimizer", "states"):
            assert difference(ours[part], theirs[part]) == "", (name, part)
        for key in ("epoch", "monitor_best"):
            assert ours[key] == theirs[key]
    assert tiny.rows(trainer) == tiny.rows(expected)
    assert status(trainer)["state"] == "finished"


def test_a_stop_waits_for_what_is_written(tmp_path, slow):
    path = tiny.interrupted(settings(tmp_path), 10)
    assert checkpoint.load(path)["progress"]["step"] == 10
    expected = tiny.train(settings(tmp_path / "whole"))
    again = tiny.train(settings(tmp_path), resume=path)
    assert tiny.digest(again.model) == tiny.digest(expected.model)


def test_what_is_told_of_a_stop_is_the_newest_file(tmp_path, slow):
    with pytest.raises(Stopped) as caught:
        trainer = tiny.build(
            settings(tmp_path),
            trainer_class=type("Interrupted", (tiny.Interrupted,), {"after": 10}),
        )
        trainer.train()
    assert "checkpoint-epoch1-step10.pth" in str(caught.value)


def failing(monkeypatch, step):
    """A disk that is full from a step of the first epoch on."""
    save = checkpoint.save

    def fail(content, path):
        if content["progress"]["step"] == step:
            raise StorageError(f"could not write {path}: No space left on device")
        save(content, path)

    monkeypatch.setattr(checkpoint, "save", fail)


class Counts(tiny.Trainer):
    updates = 0

    def _after_update(self, batches):
        self.updates += 1
        # Whoever writes has come to an end, so that it is sure where the loop is.
        self._checkpoints.rest()
        super()._after_update(batches)


def test_a_write_that_fails_ends_the_run_at_the_next_update(tmp_path, monkeypatch):
    failing(monkeypatch, 6)
    trainer = tiny.build(settings(tmp_path), trainer_class=Counts)
    with pytest.raises(StorageError) as caught:
        trainer.train()
    told = str(caught.value)
    assert "checkpoint-epoch1-step6.pth: No space left" in told
    assert "checkpoint-epoch1-step3.pth is intact" in told
    assert trainer.updates in (6, 7)  # as soon as it is known
    assert status(trainer)["state"] == "failed" and status(trainer)["exit_code"] == 6
    names = sorted(path.name for path in trainer.checkpoint_dir.glob("*.pth"))
    assert names == ["checkpoint-epoch1-step3.pth"]


def test_of_a_folder_that_is_gone_nothing_is_intact(tmp_path, monkeypatch):
    """Somebody removes it while it is written into."""
    failing(monkeypatch, 6)
    fails = checkpoint.save

    def save(content, path):
        if content["progress"]["step"] == 6:
            shutil.rmtree(path.parent)
        fails(content, path)

    monkeypatch.setattr(checkpoint, "save", save)
    trainer = tiny.build(settings(tmp_path), trainer_class=Counts)
    with pytest.raises(StorageError, match=r"No space left .*; there is no earlier checkpoint"):
        trainer.train()


def test_control_c_after_a_write_that_has_failed_is_the_first(tmp_path, monkeypatch):
    failing(monkeypatch, 6)

    class Interrupts(Counts):
        def _leave(self):
            signal.raise_signal(signal.SIGINT)
            super()._leave()

    trainer = tiny.build(settings(tmp_path), trainer_class=Interrupts)
    with pytest.raises(StorageError, match="No space left"):
        trainer.train()


def test_a_write_that_fails_at_the_end_is_told(tmp_path, monkeypatch, slow):
    failing(monkeypatch, None)
    trainer = tiny.build(settings(tmp_path, trainer__epochs=1, trainer__save_step=None))
    with pytest.raises(StorageError, match=r"checkpoint-epoch1\.pth: No space left"):
        trainer.train()
    assert status(trainer)["state"] == "failed"


def test_a_write_that_fails_goes_before_a_stop(tmp_path, monkeypatch, slow):
    failing(monkeypatch, 10)
    trainer = tiny.build(
        settings(tmp_path), trainer_class=type("Interrupted", (tiny.Interrupted,), {"after": 10})
    )
    with pytest.raises(StorageError, match=r"step10\.pth: No space left"):
        trainer.train()
    assert status(trainer)["exit_code"] == 6


class Breaks(tiny.Trainer):
    def _after_update(self, batches):
        super()._after_update(batches)
        if self.step == 7:
            raise ValueError("of the user's")


def test_an_error_of_the_users_loses_nothing(tmp_path, slow):
    """What was being written is whole."""
    trainer = tiny.build(settings(tmp_path), trainer_class=Breaks)
    with pytest.raises(ValueError, match="of the user's"):
        trainer.train()
    assert checkpoint.load(tiny.newest(trainer.checkpoint_dir))["progress"]["step"] == 6
    assert status(trainer)["state"] == "failed"


def test_a_second_control_c_leaves_whole_files(tmp_path):
    class Twice(tiny.Trainer):
        def _after_update(self, batches):
            super()._after_update(batches)
            if self.step == 5:
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)

    trainer = tiny.build(settings(tmp_path), trainer_class=Twice)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert checkpoint.damage(trainer.checkpoint_dir / "checkpoint-epoch1-step3.pth") is None
    assert not list(trainer.checkpoint_dir.glob("*.tmp"))


def test_workers_that_begin_meanwhile_change_nothing(tmp_path):
    workers = {"data_loader__args": {"num_workers": 2}, "trainer__epochs": 2}
    expected = tiny.train(tiny.settings(tmp_path / "now", **workers))
    trainer = tiny.train(settings(tmp_path / "later", **workers))
    assert tiny.digest(trainer.model) == tiny.digest(expected.model)


def test_copies_have_memory_of_their_own_and_keep_it():
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"a": weight, "tied": weight, "t": (weight.t(), 3), "odd": torch.eye(2).to_sparse()}
    copies = Copies()
    first = copies.of(state)
    assert difference(first, state) == ""
    assert first["a"] is first["tied"] and first["a"].data_ptr() != weight.data_ptr()
    weight += 1
    assert first["a"][0, 0] == 0 and first["t"][0][0, 0] == 0
    where = first["a"].data_ptr()
    second = copies.of(state)
    assert difference(second, state) == "" and second["a"].data_ptr() == where
    third = copies.of({"other": torch.ones(3, dtype=torch.float64), "a": weight})
    assert difference(third, {"other": torch.ones(3, dtype=torch.float64), "a": weight}) == ""
