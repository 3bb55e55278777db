"""`--check` tries everything, tells what only a batch can tell, and leaves nothing."""

import json
import os
import signal
import sys

import pytest
import torchvision.datasets  # noqa: F401

import tiny
from machinery.errors import StorageError
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
