"""`--check` tries everything, tells what only a batch can tell, and leaves nothing."""

import json
import os
import signal
import sys

import pytest
import torchvision.datasets  # noqa: F401

import tiny
from machinery.errors import ConfigError, StorageError
from projects import quick
from typed import models


@pytest.mark.parametrize("resume", ["no", "yes", "auto"])
def test_check_tries_everything_and_leaves_nothing(trained, tmp_path, resume):
    folder, _ = trained
    before = sorted((folder / "saved").rglob("*"))
    content = [path.read_bytes() for path in before if path.is_file()]
    where = {
        "no": ["-c", "config.json"],
        "yes": ["-r", models(folder) / "checkpoint-epoch1.pth"],
        "auto": ["-c", "config.json", "--run_id", "auto-check", "-r", "auto"],
    }[resume]
    if resume == "auto":
        models(folder, "auto-check").mkdir(exist_ok=True)
        before = sorted((folder / "saved").rglob("*"))
    result = quick(folder, "train.py", *where, "--check", env={"TMPDIR": str(tmp_path)})
    assert result.returncode == 0, result.stderr
    assert result.stdout.rstrip().endswith(
        "check passed: trained, validated, saved and read back; nothing of it is kept"
    )
    assert sorted((folder / "saved").rglob("*")) == before and not list(tmp_path.glob("tmp*"))
    assert [path.read_bytes() for path in before if path.is_file()] == content


def test_check_finds_what_only_a_batch_can_tell(trained, tmp_path):
    folder, _ = trained
    wrong = ["--set", "arch.args.num_classes=5", "--check"]
    result = quick(folder, "train.py", "-c", "config.json", *wrong, env={"TMPDIR": str(tmp_path)})
    assert (
        result.returncode == 1 and "Target" in result.stderr
    )  # a bug of the project's own: with its traceback
    assert not list(tmp_path.glob("tmp*"))


def test_a_stopped_check_names_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    config = tiny.settings(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    trainer = tiny.build(tiny.command_line("-c", tmp_path / "tiny.json", "--check"))
    update = trainer._update
    trainer._update = lambda batches: (update(batches), os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(BaseException, match="nothing of it is kept") as caught:
        trainer.train()
    assert "resume" not in str(caught.value)


def test_a_check_says_that_no_run_folder_can_be_made(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.settings("/proc/nobody")))
    with pytest.raises(StorageError, match="/proc/nobody/models/Tiny cannot be made"):
        tiny.build(tiny.command_line("-c", tmp_path / "tiny.json", "--check"))


def refused(tmp_path, *words):
    """What the run, or its check, is refused for."""
    with pytest.raises((ConfigError, StorageError)) as caught:
        tiny.build(tiny.command_line("-c", tmp_path / "tiny.json", *words))
    return type(caught.value), str(caught.value)


@pytest.fixture
def config(tmp_path):
    """A config whose runs go below its folder."""
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.settings(tmp_path / "saved")))
    return tmp_path


def test_a_check_refuses_a_run_id_that_is_taken_as_the_run_does(config):
    tiny.build(tiny.command_line("-c", config / "tiny.json", "--run_id", "one")).train()
    (config / "saved/models/Tiny/mine").mkdir()
    for name, why in (("one", "continue it with -r auto"), ("mine", "exists, and is no run")):
        kind, text = refused(config, "--run_id", name)
        assert why in text
        assert refused(config, "--run_id", name, "--check") == (kind, text)
    # A run that has saved nothing is begun again, and -r auto goes on with the one that is there.
    (config / "saved/models/Tiny/mine/status.json").write_text("{}")
    for name, more in (("mine", []), ("one", ["-r", "auto"])):
        words = ["-c", config / "tiny.json", "--run_id", name, *more, "--check"]
        tiny.build(tiny.command_line(*words))


@pytest.mark.parametrize("place", ["saved", "saved/models", "saved/log", "saved/log/Tiny"])
def test_a_check_refuses_a_file_where_folders_are_to_be_as_the_run_does(config, place):
    path = config / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    kind, text = refused(config, "--check")
    assert kind is StorageError and "cannot be made: Not a directory" in text
    assert refused(config)[0] is kind
    assert path.read_text() == "mine"


def test_a_check_refuses_logs_that_lead_elsewhere(config):
    (config / "elsewhere").mkdir()
    logs = config / "saved/log/Tiny/one"
    logs.parent.mkdir(parents=True)
    logs.symlink_to(config / "elsewhere")
    for words in (["--check"], []):
        kind, text = refused(config, "--run_id", "one", *words)
        assert kind is StorageError and "is a link" in text
