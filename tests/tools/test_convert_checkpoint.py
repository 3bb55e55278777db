"""Classic checkpoints: refused by the programs, converted by the tool, and never run."""

import shutil

import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401

import tiny
from classic_checkpoints import CLASSIC, Calls, Runs, write_classic
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError
from projects import ROOT, SHARED, copy_template, quick
from tools import convert_checkpoint
from tools.convert_checkpoint import convert, read_inert


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = copy_template(tmp_path_factory.mktemp("classic") / "project", (*SHARED, "tools"))
    shutil.copytree(CLASSIC, folder, dirs_exist_ok=True)
    shutil.copy(ROOT / "test.py", folder)
    result = quick(folder, "train.py", "-c", "config.json")
    assert result.returncode == 0, result.stderr
    return folder


def test_it_is_refused_and_the_conversion_named(tmp_path):
    write_classic(tmp_path / "old.pth")
    with pytest.raises(
        CheckpointError,
        match=r"saved by the classic template.*\n.*python tools/convert_checkpoint.py",
    ):
        checkpoint.load(tmp_path / "old.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_it_is_converted_and_continues(project, tmp_path, legacy):
    run = next((project / "saved" / "models" / "Classic_Rings").iterdir())
    trained = checkpoint.load(run / "checkpoint-epoch2.pth")
    old, new = tmp_path / "old.pth", run / "checkpoint-epoch2.pth"
    weights = {f"module.{name}": value for name, value in trained["state_dict"].items()}
    write_classic(old, {"weights": weights, "optimizer": trained["optimizer"]}, legacy)
    new.unlink()
    result = quick(project, "tools/convert_checkpoint.py", old, new)
    assert result.returncode == 0 and "wrote" in result.stdout, result.stderr
    state = checkpoint.load(new)
    assert state["monitor_best"] == 0.25 and set(state["state_dict"]) == set(trained["state_dict"])
    resumed = quick(project, "train.py", "-r", new)
    assert resumed.returncode == 0 and "these start afresh: " in resumed.stdout, resumed.stderr
    assert checkpoint.load(run / "checkpoint-epoch3.pth")["epoch"] == 3
    again = quick(project, "tools/convert_checkpoint.py", old, new)
    assert again.returncode == 4 and "exists" in again.stderr


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("payload", [Runs, Calls])
@pytest.mark.parametrize("place", ["optimizer", "arch", "weights", "monitor_best"])
def test_converting_runs_nothing(tmp_path, payload, place, legacy):
    marker = tmp_path / "marker"
    write_classic(tmp_path / "old.pth", {place: payload(marker)}, legacy)
    with pytest.raises(CheckpointError):
        checkpoint.save(convert(read_inert(tmp_path / "old.pth"), tmp_path), tmp_path / "new.pth")
    assert not marker.exists() and not (tmp_path / "new.pth").exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken", b"\x80\x02."])
def test_what_cannot_be_converted(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be converted"):
        read_inert(tmp_path / "x.pth")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "y.pth")
    with pytest.raises(CheckpointError, match="is no checkpoint of the classic template"):
        convert(read_inert(tmp_path / "y.pth"), tmp_path)


def test_a_checkpoint_of_this_template_keeps_all_that_it_has(tmp_path, monkeypatch):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1))
    trainer.train()
    old = tiny.newest(trainer.checkpoint_dir)
    monkeypatch.setattr("sys.argv", ["convert", str(old), str(tmp_path / "new.pth")])
    convert_checkpoint.main()
    before, now = checkpoint.load(old), checkpoint.load(tmp_path / "new.pth")
    assert before["states"] and repr(before) == repr(now)


def test_a_run_folder_is_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["convert", str(tmp_path), str(tmp_path / "new.pth")])
    with pytest.raises(CheckpointError, match="is a folder: name one of the checkpoints in it"):
        convert_checkpoint.main()
