"""What is wrong in a file of the user's before there is a batch, or after the last of an epoch."""

import pytest
import torch

import forked
import tiny
from machinery.files import read_json
from projects import copy_template, quick

#: What a user writes at the end of a file, and what is told: (file, text, told).
MISTAKES = {
    "no syntax": (
        "model/model.py",
        "\n\ndef half(x:\n    return x\n",
        ["error: SyntaxError: ", "model/model.py:", "def half(x:"],
    ),
    "no such module": (
        "model/metric.py",
        "\nimport no_such_package\n",
        ["ModuleNotFoundError: No module named 'no_such_package'", "model/metric.py:"],
    ),
    "no such name": (
        "model/loss.py",
        "\nfrom torch import no_such_name\n",
        ["ImportError: cannot import name 'no_such_name'", "model/loss.py:"],
    ),
    "raises": (
        "data_loader/data_loaders.py",
        "\nprint(undefined)\n",
        ["NameError: name 'undefined' is not defined", "data_loaders.py:", "print(undefined)"],
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_template(tmp_path_factory.mktemp("imports") / "project")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_file_that_cannot_be_imported_is_told_with_its_line_and_no_traceback(project, mistake):
    file, text, told = MISTAKES[mistake]
    right = (project / file).read_text()
    (project / file).write_text(right + text)
    try:
        result = quick(project, "train.py", "-c", "config.json")
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert len(result.stderr.strip().splitlines()) == 3, result.stderr
        for words in told:
            assert words in result.stderr
        shown = quick(project, "train.py", "-c", "config.json", "--check", "--traceback")
        assert "Traceback" in shown.stderr
    finally:
        (project / file).write_text(right)


class Median:
    """A metric that cannot be computed."""

    __module__ = "tiny"
    __name__ = "Median"

    def reset(self):
        self.values = []

    def update(self, output, target):
        self.values.append(output)

    def compute(self):
        return torch.cat(self.values).no_such_method()


def train_badly(config):
    tiny.build(config, run_id="run").train()


def test_a_metric_that_cannot_be_computed_is_named_with_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "Median", Median, raising=False)
    metrics = [{"type": "Median", "name": "middle"}]
    config = tiny.settings(tmp_path, trainer__epochs=1, metrics=metrics)
    process = forked.start(train_badly, config, output=tmp_path / "output.txt")
    assert forked.finish(process) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in output
    output = output.splitlines()[-4:]
    assert output[0].startswith("error: AttributeError: 'Tensor' object has no attribute")
    assert output[1] == "  in the metric middle"
    assert "test_own_files.py:" in output[2] and "no_such_method()" in output[2]
    info = (tmp_path / "log/Tiny/run/info.log").read_text()
    assert "Traceback" in info and "in the metric middle" in info
    assert read_json(tmp_path / "models/Tiny/run/status.json")["exit_code"] == 1
