"""A run that several commands are tried on."""

import json
import shutil

import pytest
import torchvision.datasets  # noqa: F401

from projects import command, copy_template
from typed import SHORT


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory):
    """A project with one run of two short epochs, under -W error."""
    folder = copy_template(tmp_path_factory.mktemp("commands") / "project")
    cycle = json.loads((folder / "config.json").read_text())
    cycle["lr_scheduler"] = {"type": "OneCycleLR", "args": {"max_lr": 0.01}, "interval": "step"}
    (folder / "cycle.json").write_text(json.dumps(cycle))
    result = command(
        folder, "train.py", "-c", "config.json", "--run_id", "one", *SHORT, python=["-W", "error"]
    )
    assert result.returncode == 0, result.stderr
    return folder, result


@pytest.fixture(scope="module")
def trained(trained_once, tmp_path_factory):
    """A copy of it for the tests of a file, and what the command has printed."""
    folder, result = trained_once
    return shutil.copytree(folder, tmp_path_factory.mktemp("copied") / "project"), result
