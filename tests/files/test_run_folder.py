"""A run folder: its names, its lock, what is swept and set aside in it, and what is no run."""

import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest

import tiny
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.checkpoints.run import Run
from machinery.checkpoints.run_folder import check_run_id, own
from machinery.errors import (
    CheckpointError,
    ConfigError,
    StorageError,
)
from machinery.files import shown
from projects import ROOT


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))]
)
def test_a_config_can_be_copied_and_the_run_stays_owned(tmp_path, copied):
    class Copying(tiny.Trainer):
        def _train_epoch(self, epoch):
            configs.append(copied(self.config))
            configs.append(None)
            del configs[-2]
            return super()._train_epoch(epoch)

    configs = []
    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Copying)
    held = trainer.config.run._lock
    assert held >= 0 and copied(trainer.config).run._lock in (-1, held)
    trainer.train()
    assert trainer.epoch == 3
    one = copied(trainer.config)
    assert one.config == trainer.config.config and one.save_dir == trainer.checkpoint_dir
    assert one.init_obj("arch", tiny.HERE) is not None
    assert own(trainer.checkpoint_dir) >= 0  # and is free afterwards


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    folder = tmp_path / "models" / "google" / "bert"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        tiny.command_line("-r", folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


def damaged(path):
    content = bytearray(path.read_bytes())
    content[content.index(b"state_dict") + 2] ^= (
        8  # in the pickle, whose bytes then say something else
    )
    path.write_bytes(content)


def test_damage_names_the_file_the_record_and_what_is_whole(tmp_path, monkeypatch, messages):
    (tmp_path / "config.json").write_text(json.dumps(tiny.settings(tmp_path)))
    folder = tiny.train(tiny.settings(tmp_path, trainer__monitor="off")).checkpoint_dir
    damaged(folder / "checkpoint-epoch3.pth")
    with pytest.raises(CheckpointError) as caught:
        tiny.command_line("-r", folder / "checkpoint-epoch3.pth")
    assert re.search(r"checkpoint-epoch3.pth is damaged: .*\(record .*\)", str(caught.value))
    assert "whole checkpoints beside it: checkpoint-epoch2.pth, checkpoint-epoch1.pth" in str(
        caught.value
    )
    assert caught.value.exit_code == 4
    # Of the folder, the newest whole one is taken, and that is told.
    assert tiny.command_line("-r", folder).resume == folder / "checkpoint-epoch2.pth"
    assert "falling back to checkpoint-epoch2.pth: 1 epoch to do again" in messages()
    damaged(folder / "checkpoint-epoch2.pth")
    damaged(folder / "checkpoint-epoch1.pth")
    with pytest.raises(CheckpointError, match="no whole checkpoint") as caught:
        tiny.command_line("-r", folder)
    assert str(caught.value).count("is damaged") == 3


def test_a_checkpoint_outside_a_run_folder_cannot_be_continued(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(folder / "model_best.pth", tmp_path / "elsewhere" / "x.pth")
    with pytest.raises(CheckpointError, match=r"is not in a run folder.*-c CONFIG -r"):
        tiny.command_line("-r", tmp_path / "elsewhere" / "x.pth")


def test_two_runs_in_one_second_have_two_folders(tmp_path):
    folders = {run_folder.create(tmp_path / "models", None) for _ in range(3)}
    assert len(folders) == 3


def test_a_newer_format_names_both(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    path = folder / "checkpoint-epoch1.pth"
    checkpoint.save({**checkpoint.load(path), "format_version": 7}, path)
    with pytest.raises(CheckpointError, match="has format 7, this code reads up to 1"):
        checkpoint.load(path)


def test_stale_temporary_files_are_swept(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    (folder / "checkpoint-epoch2.pth.999.tmp").write_bytes(b"torn")
    tiny.train(tiny.settings(tmp_path), resume=folder / "checkpoint-epoch1.pth")
    assert not list(folder.glob("*.tmp"))


def test_a_lock_that_is_a_link_is_not_followed(tmp_path):
    folder = run_folder.create(tmp_path / "models" / "X", "one")
    precious = tmp_path / "precious.txt"
    precious.write_text("do not empty me")
    (folder / ".lock").symlink_to(precious)
    with pytest.raises(StorageError):
        Run(folder)
    assert precious.read_text() == "do not empty me"


def test_a_folder_that_is_made_again_is_owned(tmp_path):
    import shutil

    run = Run(run_folder.create(tmp_path / "models" / "X", "one"))
    run.begin({})
    shutil.rmtree(run.folder)
    run.remake({})
    assert (run.folder / ".lock").exists() and (run.folder / "config.json").exists()
    with pytest.raises(ConfigError, match="in use by this process"):
        Run(run.folder)


def test_the_current_folder_may_go(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    assert shown(tmp_path / "x") == str(tmp_path / "x")


def test_a_process_owns_a_run_once(tmp_path):
    run = Run(run_folder.create(tmp_path / "models" / "X", "one"))
    link = tmp_path / "link"
    link.symlink_to(run.folder)
    for folder in (run.folder, link):
        with pytest.raises(ConfigError, match="in use by this process"):
            Run(folder)
    code = (
        "import sys, pathlib; from machinery.checkpoints.run "
        "import Run; Run(pathlib.Path(sys.argv[1]))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, run.folder], cwd=ROOT, capture_output=True, text=True
    )
    assert f"is in use by pid {os.getpid()}" in other.stderr  # also after the attempts above
    run.close()
    Run(run.folder).close()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    import fcntl

    def without(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", without)
    Run(run_folder.create(tmp_path / "models" / "X", "one")).close()
    assert "no file locks here" in caplog.text


def test_linked_folders_keep_model_and_log_together(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    parser = tiny.command_line("-r", trainer.checkpoint_dir, "--set", "trainer.epochs=2")
    resumed = tiny.train(parser)
    assert resumed.config.log_dir == trainer.config.log_dir and len(tiny.rows(resumed)) == 3
    link = tmp_path / "latest"
    link.symlink_to(trainer.checkpoint_dir)
    assert tiny.command_line("-r", link).resume.name == "checkpoint-epoch2.pth"


def test_a_copied_run_says_why_it_cannot_go_on(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    inbox = shutil.copytree(trainer.checkpoint_dir, tmp_path / "inbox" / "from_bob" / "run1")
    with pytest.raises(Exception, match=r"not in a run folder \(models/NAME/RUN.*move it to one"):
        tiny.command_line("-r", inbox)


def test_temporary_files_are_swept_wherever_they_are(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    left = [trainer.checkpoint_dir / "x.pth.7.tmp", trainer.config.log_dir / "metrics.csv.7.tmp"]
    for path in left:
        path.write_text("")
    tiny.train(tiny.command_line("-r", trainer.checkpoint_dir, "--set", "trainer.epochs=2"))
    assert not any(path.exists() for path in left)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_in_a_run_folder_stop_nobody(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    for path in (trainer.checkpoint_dir / "status.json", trainer.config.log_dir / "metrics.csv"):
        path.unlink()
        os.mkfifo(path)
    (trainer.checkpoint_dir / ".lock").unlink()
    os.mkfifo(trainer.checkpoint_dir / ".lock")
    with pytest.raises(Exception, match="is not a regular file"):
        tiny.train(
            tiny.settings(tmp_path, trainer__epochs=2),
            resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth",
        )


@pytest.mark.parametrize(
    "run_id", ["", "a/b", "a\\b", "..", "a\x00b", "a\nb", "\x1b[31mred", "x" * 300, "\ud800"]
)
def test_run_ids_that_are_no_names(run_id):
    with pytest.raises(ConfigError, match="expected the name of a folder"):
        check_run_id(run_id)


@pytest.mark.parametrize("path", ["x" * 300, "loop.json", "a\x00b"])
@pytest.mark.parametrize("option", ["-c", "-r"])
def test_paths_that_cannot_be(tmp_path, monkeypatch, option, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.json").symlink_to("loop.json")
    with pytest.raises((ConfigError, CheckpointError), match=r"cannot be read|does not exist"):
        tiny.command_line(option, path)


class AtOnce(tiny.Trainer):
    def _update(self, batches):
        raise KeyError("a mistake at the first batch")


def test_a_name_is_free_again_where_a_run_has_saved_nothing(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    with pytest.raises(KeyError):
        tiny.build(config, run_id="one", trainer_class=AtOnce).train()
    trainer = tiny.build(config, run_id="one")
    with pytest.raises(ConfigError, match="in use"):
        tiny.build(config, run_id="one")
    trainer.train()
    with pytest.raises(ConfigError, match="exists: continue it with -r auto"):
        tiny.build(config, run_id="one")
    foreign = tmp_path / "models" / "Tiny" / "two"
    foreign.mkdir()
    (foreign / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="exists, and is no run: choose another --run_id"):
        tiny.build(config, run_id="two")


def test_a_name_is_free_again_where_a_run_was_refused_before_it_began(tmp_path):
    refused = tiny.settings(tmp_path, trainer__compile="blocks")
    with pytest.raises(ConfigError, match="nothing to compile"):
        tiny.build(refused, run_id="one")
    folder = tmp_path / "models" / "Tiny" / "one"
    assert [path.name for path in folder.iterdir()] == [".lock"]
    tiny.build(tiny.settings(tmp_path, trainer__epochs=1), run_id="one").train()
    assert (folder / "checkpoint-epoch1.pth").is_file()


def test_a_run_that_goes_as_python_ends_needs_nothing(tmp_path, monkeypatch):
    run = Run(run_folder.create(tmp_path / "models" / "X", "one"))
    read = Run(run.folder, owned=False)
    with monkeypatch.context() as patched:
        patched.setattr("machinery.checkpoints.run.run_folder", None)  # as Python leaves it then
        read.__del__()
        run.__del__(lambda: True)
    run.close()


def test_what_was_just_written_stays_where_somebody_has_put_a_later_one(tmp_path):
    class Visited(tiny.Trainer):
        def _train_epoch(self, epoch):
            for later in (8, 9):
                path = self.checkpoint_dir / f"checkpoint-epoch{later}.pth"
                path.write_text("another run's")
            return super()._train_epoch(epoch)

    config = tiny.settings(tmp_path, trainer__keep_last=2, trainer__epochs=2)
    folder = tiny.train(config, trainer_class=Visited).checkpoint_dir
    assert (folder / "checkpoint-epoch2.pth").is_file()
    assert not (folder / "checkpoint-epoch1.pth").exists()
