"""A path that is not there is told with the one that is probably meant, which works."""

import re

import pytest

from projects import copy_template, quick


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with a config of its own, and a run."""
    folder = copy_template(tmp_path_factory.mktemp("paths") / "my project")
    short = ["--set", "trainer.epochs=1", "--set", "trainer.len_epoch=2", "--run_id", "first"]
    done = quick(folder, "train.py", "-c", "config.json", *short)
    assert done.returncode == 0, done.stdout
    return folder


@pytest.mark.parametrize(
    "given, meant",
    [
        (["train.py", "-c", "confg.json", "--check"], "config.json"),
        (["train.py", "-c", "CONFIG.JSON", "--check"], "config.json"),
        (["test.py", "-r", "saved/models/Digits_LeNet/frist"], "saved/models/Digits_LeNet/first"),
        (["test.py", "-r", "saved/model/Digits_LeNet/first"], "saved/models/Digits_LeNet/first"),
        (["test.py", "-r", "first"], "saved/models/Digits_LeNet/first"),
        (["test.py", "-r", "fist"], "saved/models/Digits_LeNet/first"),
    ],
)
def test_what_it_means_works(project, given, meant):
    told = quick(project, *given)
    assert told.returncode in (2, 4), told.stdout
    said = re.search(r"did you mean (\S+)\?", told.stdout + told.stderr)
    assert said is not None and said[1] == meant, told.stdout
    again = [said[1] if word == given[2] else word for word in given]
    assert quick(project, *again).returncode == 0


@pytest.mark.parametrize("command, code", [(["train.py", "-c"], 2), (["test.py", "-r"], 4)])
def test_a_name_that_is_too_long_below_a_slip_is_told(project, command, code):
    told = quick(project, *command, f"save/{'x' * 300}")
    assert told.returncode == code and "did you mean saved?" in told.stderr, told.stderr


def test_where_nothing_is_near_the_newest_run_is_told(project):
    told = quick(project, "test.py", "-r", "nope")
    assert "nope does not exist: the newest run is saved/models/Digits_LeNet/first" in told.stderr
