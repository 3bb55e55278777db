"""Messages reach people: whatever the streams, the terminal and the error are."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import tiny
from machinery import causes
from machinery.files import read_json
from machinery.telling import described, printable, told
from parse_config import ConfigParser
from projects import ROOT


def test_code_that_leaves_does_not_pass_for_done(tmp_path):
    class Leaving(tiny.Trainer):
        def _forward(self, batch):
            sys.exit()

    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Leaving)
    with pytest.raises(RuntimeError, match=r"exit\(None\) was called"):
        trainer.train()
    assert read_json(trainer.checkpoint_dir / "status.json")["exit_code"] == 1


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError("no words")


def test_an_error_that_cannot_be_told_is_told():
    for error in (
        Unspeakable(),
        ValueError("x" * 10_000),
        ValueError("\n" * 5_000 + "end"),
        ValueError(),
    ):
        text = told(error)
        assert len(text.splitlines()) <= 3 and len(text) < 1000


def test_values_that_cannot_be_described_are_left_out():
    endless: dict = {}
    endless["x"] = endless

    class Odd:
        shape, dtype = 5, "odd"

    for value in (endless, Odd(), torch.Tensor, [[]] * 10**6, None, "text"):
        assert len(described(value)) < 100
    assert (
        described((torch.ones(2, 3), {"y": torch.ones(2).long()}))
        == "([2, 3] float32, (y: [2] int64))"
    )


def test_a_terminal_is_not_commanded(capfd):
    assert printable("a\x1b[31mb\r\x9b\ud800 é…\n\t") == "a?[31mb??? é…\n\t"
    ConfigParser(
        {**tiny.CONFIG, "my\x1b[31mkey": 1, "trainer": {**tiny.CONFIG["trainer"], "verbosity": 2}}
    )
    assert "\x1b" not in "".join(capfd.readouterr())


def test_exit_codes_survive_streams_that_cannot_be_written():
    for stream in ("2>/dev/full", ">/dev/full 2>/dev/full", "2>&-"):
        line = f"{sys.executable} train.py -c nope.json {stream}"
        assert subprocess.run(line, shell=True, cwd=ROOT).returncode == 2


@pytest.mark.parametrize("name, hinted", [("torch", True), ("pandas.core", True), ("tor", False)])
def test_a_required_package_that_is_not_there_is_told_with_what_helps(name, hinted):
    code = f"raise ModuleNotFoundError('No module named x', name={name!r})"
    code = f"from utils import catch_user_errors\ncatch_user_errors()\n{code}"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = "is not installed here: activate the project's virtual environment, or pip install -r"
    assert done.returncode == 1 and (said in done.stderr) == hinted


@pytest.mark.parametrize(
    "target, said",
    [
        (torch.ones(2, 1).long(), ["the targets are classes in a column"]),
        (torch.ones(2, 3).long(), []),
        (torch.ones(2, 3), ["the targets are shares of classes"]),
    ],
)
def test_targets_with_rows_are_told_for_what_they_are(target, said):
    with pytest.raises(RuntimeError) as caught:
        F.nll_loss(torch.zeros(2, 3), target)
    lines = causes.what_helps(caught.value, None)
    assert len(lines) == len(said) and all(map(str.startswith, lines, said))


@pytest.mark.parametrize("content", [None, "torch\n".encode("utf-16")])  # as PowerShell writes it
def test_requirements_that_cannot_be_read_hint_nothing(tmp_path, monkeypatch, content):
    if content is not None:
        (tmp_path / "requirements.txt").write_bytes(content)
    monkeypatch.setattr(causes, "ROOT", tmp_path)
    assert causes.to_install(ModuleNotFoundError("No module named x", name="torch")) == ""
