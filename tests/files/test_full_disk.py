"""A disk that is full, read-only or gone: what is said, and what is left."""

import errno
import logging
import logging.handlers
import os
import re
import shutil
import stat

import pytest
import torch

import tiny
from machinery.errors import StorageError
from tiny import status


def failing(error, epoch):
    """torch.save that fails from some epoch on."""
    save = torch.save

    def fail(state, *args, **kwargs):
        if state.get("epoch", 0) >= epoch:
            raise error
        save(state, *args, **kwargs)

    return fail


@pytest.mark.parametrize(
    "number, words", [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file")]
)
def test_a_disk_that_is_full_or_read_only(tmp_path, monkeypatch, number, words):
    trainer = tiny.build(tiny.settings(tmp_path))
    monkeypatch.setattr(torch, "save", failing(OSError(number, os.strerror(number)), epoch=2))
    with pytest.raises(StorageError) as caught:
        trainer.train()
    assert re.fullmatch(
        rf"could not write .*/checkpoint-epoch2.pth: {words}.* "
        r"\(needs about \d+ MB, \d+ MB free\); checkpoint-epoch1.pth is intact",
        str(caught.value),
    )
    assert caught.value.exit_code == 6
    names = {path.name for path in trainer.checkpoint_dir.glob("*.pth*")}
    assert names == {"checkpoint-epoch1.pth", "model_best.pth"}
    assert (status(trainer)["state"], status(trainer)["exit_code"]) == ("failed", 6)


def test_a_disk_that_is_full_when_the_best_is_copied_leaves_the_epoch(tmp_path, monkeypatch):
    def full(*_):
        raise StorageError("could not write model_best.pth: No space left on device")

    trainer = tiny.build(tiny.settings(tmp_path))
    monkeypatch.setattr("machinery.checkpoints.file.copy", full)
    with pytest.raises(StorageError, match=r"MB free\); checkpoint-epoch1.pth is intact"):
        trainer.train()
    assert (trainer.checkpoint_dir / "checkpoint-epoch1.pth").exists()
    monkeypatch.undo()
    tiny.train(tiny.settings(tmp_path), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")


def test_a_run_folder_that_is_removed_is_made_again(tmp_path, messages):
    class Removing(tiny.Trainer):
        def _train_epoch(self, epoch):
            if epoch == 2:
                shutil.rmtree(tmp_path)
            return super()._train_epoch(epoch)

    trainer = tiny.train(tiny.settings(tmp_path), trainer_class=Removing)
    names = {path.name for path in trainer.checkpoint_dir.iterdir()}
    assert {
        "config.json",
        "environment.json",
        "status.json",
        "checkpoint-epoch2.pth",
        "checkpoint-epoch3.pth",
    } <= names
    assert "is gone: making it again" in messages()
    assert len(tiny.rows(trainer)) == 3  # the header and the two epochs since


def test_logs_that_cannot_be_written_warn_once_and_training_goes_on(
    tmp_path, monkeypatch, messages
):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__tensorboard=True))

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    import torch.utils.tensorboard

    monkeypatch.setattr(torch.utils.tensorboard.SummaryWriter, "add_scalar", full)
    monkeypatch.setattr(type(trainer._metrics), "_rewrite", full)
    monkeypatch.setattr(logging.handlers.RotatingFileHandler, "shouldRollover", full)
    trainer.train()
    assert trainer.epoch == 3
    text = messages()
    assert text.count("TensorBoard is off from here on, training goes on: OSError") == 1
    assert text.count("MetricsFile is off from here on, training goes on: OSError") == 1
    assert text.count("info.log cannot be written, training goes on") == 1


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_flush_a_folder_is_written_to(tmp_path, monkeypatch, number):
    fsync = os.fsync

    def of_files(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files)
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    assert (trainer.checkpoint_dir / "checkpoint-epoch1.pth").exists()
