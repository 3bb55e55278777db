"""What belongs to somebody else, and may not be read."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

import forked
import tiny
from machinery.launch import read_run
from projects import ROOT

#: Whether the project itself is kept to its owner.
CLOSED = not all(folder.stat().st_mode & 0o001 for folder in (ROOT, *ROOT.parents))


@pytest.fixture
def run_of_another():
    """The folder of a run that its owner keeps to himself."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    trainer = tiny.train(tiny.settings(folder, trainer__epochs=1))
    trainer.checkpoint_dir.chmod(0 if os.getuid() else 0o700)
    yield trainer.checkpoint_dir
    trainer.checkpoint_dir.chmod(0o700)
    shutil.rmtree(folder)


def as_nobody(function, *args):
    """Call a function as a user who owns nothing."""
    if os.getuid() == 0:
        os.setuid(65534)
    function(*args)


@pytest.mark.skipif(os.getuid() == 0 and CLOSED, reason="others may not read the project itself")
@pytest.mark.parametrize("name", ["", "checkpoint-epoch1.pth"])
@pytest.mark.parametrize("way", ["continue", "evaluate"])
def test_a_run_that_may_not_be_read_is_told_in_one_line(tmp_path, run_of_another, way, name):
    path = run_of_another / name
    call = (tiny.command_line, "-r", path)
    if way == "evaluate":
        call = (read_run, path)
    process = forked.start(as_nobody, *call, output=tmp_path / "output.txt")
    assert forked.finish(process) == 4
    told = (tmp_path / "output.txt").read_text()
    assert len(told.splitlines()) == 1
    assert str(run_of_another) in told and "Permission denied" in told
