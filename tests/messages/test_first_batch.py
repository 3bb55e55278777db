"""What the user's own code does wrong at the first batch is told in a few lines."""

import dataclasses
import sys
from collections import UserDict

import pytest
import torch
import torch.nn.functional as F
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401

import forked
import tiny
from machinery import telling
from machinery.errors import ConfigError
from projects import copy_template, quick

#: What a user writes into the file of a project, and what is told: (file, before, after, told).
MISTAKES = {
    "wrong channels": (
        "model/model.py",
        "self.conv1 = nn.Conv2d(1,",
        "self.conv1 = nn.Conv2d(3,",
        [
            "expected input[64, 1, 28, 28] to have 3 channels",
            "model/model.py:",
            "data [64, 1, 28, 28] float32",
        ],
    ),
    "float64 data": (
        "utils/in_memory.py",
        "return images, self.labels.index_select",
        "return images.double(), self.labels.index_select",
        ["RuntimeError: ", "model/model.py:", "data [64, 1, 28, 28] float64, target [64] int64"],
    ),
    "too few classes": (
        "model/model.py",
        "num_classes: int = 10",
        "num_classes: int = 5",
        ["is out of bounds", "model/loss.py:", "output [64, 5] float32", "target [64] int64"],
    ),
    "a loss that is a float": (
        "model/loss.py",
        "return F.nll_loss(output, target)",
        "return F.nll_loss(output, target).item()",
        ["the loss is a float: expected a tensor"],
    ),
    "a loss for each sample": (
        "model/loss.py",
        "return F.nll_loss(output, target)",
        'return F.nll_loss(output, target, reduction="none")',
        ["the loss is [64] float32: expected a tensor"],
    ),
    "a loss without a gradient": (
        "model/loss.py",
        "return F.nll_loss(output, target)",
        "return F.nll_loss(output.detach(), target)",
        ["the loss is [] float32 without a gradient: expected a tensor with a gradient"],
    ),
    "a metric that is a list": (
        "model/metric.py",
        "return (output.argmax(dim=1) == _main_class(target)).float()",
        "return [(output.argmax(dim=1) == target).float()]",
        ["error: accuracy: expected a number, found"],
    ),
    "a metric that raises": (
        "model/metric.py",
        "return (output.argmax(dim=1) == _main_class(target)).float()",
        "return (output == target).float()",
        [
            "The size of tensor a (10) must match",
            "model/metric.py:",
            "output [64, 10] float32, target [64] int64",
        ],
    ),
    "a dataset that raises": (
        "utils/in_memory.py",
        "images = self.images.index_select(0, indices)",
        'images = {}["pictures"]',
        ["could not make batch 0 of pass 1: KeyError: 'pictures'", "utils/in_memory.py:"],
    ),
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_template(tmp_path_factory.mktemp("mistakes") / "project")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_at_the_first_batch_is_told_in_six_lines(project, mistake):
    file, before, after, told = MISTAKES[mistake]
    right = (project / file).read_text()
    assert before in right
    (project / file).write_text(right.replace(before, after))
    try:
        result = quick(project, "train.py", "-c", "config.json", "--run_id", mistake)
        assert (
            result.returncode == {"a dataset that raises": 3}.get(mistake, result.returncode)
            and result.returncode
        )
        assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) <= 6, (
            result.stderr
        )
        for text in told:
            assert text in result.stderr
        info = (project / "saved/log/Digits_LeNet" / mistake / "info.log").read_text()
        assert ("Traceback" in info) == (result.returncode == 1)
        if result.returncode == 1:
            shown = quick(project, "train.py", "-c", "config.json", "--traceback", "--check").stderr
            assert "Traceback" in shown and told[0] in shown
    finally:
        (project / file).write_text(right)


#: What a dataset returns, and which lines are told.
DICTS = {
    "two keys": (
        '{"image": images, "label": labels}',
        """output = self.model(batch['image'])
        return self.criterion(output, batch['label']), output, batch['label']""",
    ),
    "three keys, of which one is no tensor": (
        '{"label": labels, "names": ["a"] * len(labels), "image": images}',
        """output = self.model(batch['image'])
        return self.criterion(output, batch['label']), output, batch['label']""",
    ),
    "keys that nobody knows": (
        '{"image": images, "kind": labels}',
        """output = self.model(batch['image'])
        return self.criterion(output, batch['kind']), output, batch['kind']""",
    ),
}


@pytest.mark.parametrize("kind", DICTS)
def test_a_batch_that_is_a_dict_is_told_with_the_lines_to_write(project, kind):
    returned, lines = DICTS[kind]
    data, trainer = project / "utils" / "in_memory.py", project / "trainer" / "trainer.py"
    before = data.read_text(), trainer.read_text()
    whole = "return images, self.labels.index_select(0, indices)"
    dicts = f"labels = self.labels.index_select(0, indices)\n        return {returned}"
    try:
        data.write_text(before[0].replace(whole, dicts))
        for words in ([], ["--check"]):
            result = quick(project, "train.py", "-c", "config.json", *words)
            assert result.returncode == 2 and "Traceback" not in result.stderr
            assert len(result.stderr.strip().splitlines()) == 5
            assert "it is a dict (" in result.stderr and lines in result.stderr
        written = "def _forward(self, batch):\n        " + lines
        assert written in result.stderr
        old = before[1][before[1].index("    def _forward(") : before[1].index("    def backward(")]
        trainer.write_text(before[1].replace(old, f"    {written}\n\n"))
        result = quick(project, "train.py", "-c", "config.json", "--check")
        assert result.returncode == 0, result.stderr
    finally:
        data.write_text(before[0])
        trainer.write_text(before[1])


class Scaled(tiny.Trainer):
    """Calls what it overrides, as many do, from within a decorator."""

    @torch.enable_grad()
    def _forward(self, batch):
        scaled = [2 * batch[0], batch[1]]
        return super()._forward(scaled)


class Leaves(tiny.Trainer):
    def _update(self, batches):
        sys.exit(3)


def train_badly(config, trainer_class):
    tiny.build(config, trainer_class=trainer_class).train()


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        (
            Scaled,
            [
                "IndexError: Target 7 is out of bounds",
                "data [8, 6] float32, target [8] int64, output [8, 3]",
            ],
        ),
        (Leaves, ["RuntimeError: sys.exit(3) was called", "batches (([8, 6] float32, [8] int64))"]),
    ],
)
def test_the_variables_of_the_innermost_method_are_told(tmp_path, monkeypatch, trainer, told):
    monkeypatch.setattr(
        tiny,
        "seventh",
        lambda output, target: F.cross_entropy(output, target * 0 + 7),
        raising=False,
    )
    tiny.seventh.__name__ = "seventh"
    config = tiny.settings(tmp_path / "runs", trainer__epochs=1, loss="seventh")
    process = forked.start(train_badly, config, trainer, output=tmp_path / "output.txt")
    assert forked.finish(process) == 1
    output = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in output and " shows all of it" in output
    for text in told:
        assert text in output


class Failing:
    """Stands for a trainer."""

    def method(self, batch, error):
        data = batch["data"]
        assert data is not None
        raise error

    def outer(self, batch, error):
        self.method(batch, error)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    n: int


@pytest.mark.parametrize("error", [IndexError("far"), Frozen(3)])
def test_an_exception_goes_on_as_it_is_with_the_variables_of_the_trainers_innermost_method(error):
    trainer = Failing()
    with pytest.raises(type(error)) as raised:
        try:
            trainer.outer({"data": torch.ones(2, 3)}, error)
        except Exception as caught:
            telling.note_batch(caught, trainer)
            telling.note_batch(caught, Failing())  # an outer loop's
            raise
    assert raised.value is error
    assert vars(raised.value)["batch_variables"] == {"data": "[2, 3] float32"}


def test_an_error_of_the_templates_own_needs_no_variables():
    error = ConfigError("mine")
    telling.note_batch(error, Failing())
    assert not vars(error)


def test_a_bug_of_the_template_s_own_keeps_its_traceback(project):
    right = (project / "machinery/update/watching.py").read_text()
    (project / "machinery/update/watching.py").write_text(
        right.replace("if not self.on:", "if not self.of:")
    )
    result = quick(project, "train.py", "-c", "config.json", "--check")
    (project / "machinery/update/watching.py").write_text(right)
    assert (
        result.returncode == 1
        and "Traceback" in result.stderr
        and "AttributeError" in result.stderr
    )


class Tokens(UserDict):
    """A batch as tokenizers make it."""

    def to(self, device):
        return Tokens({key: value.to(device) for key, value in self.data.items()})


class OfTokens(tiny.Trainer):
    def _forward(self, batch):
        assert isinstance(batch, Tokens)
        output = self.model(batch["x"])
        return self.criterion(output, batch["y"]), output, batch["y"]


def test_batches_of_a_class_of_their_own(tmp_path):
    from machinery.order.outstanding import first_tensor
    from machinery.update.runtime import to_device

    loader = [Tokens(x=torch.randn(8, 6), y=torch.arange(8) % 3) for _ in range(5)]
    config = tiny.settings(tmp_path, trainer__epochs=1, trainer__monitor="off", lr_scheduler=None)
    trainer = OfTokens(
        *_parts(config),
        device=torch.device("cpu"),
        data_loader=loader,
    )
    trainer.train()
    assert trainer.train_metrics.count("loss") == 40
    moved = to_device(loader[0], torch.device("meta"))
    assert (
        isinstance(moved, Tokens)
        and moved["x"].device.type == "meta"
        and first_tensor(moved).shape == (8, 6)
    )


def _parts(config):
    parser = tiny.ConfigParser(config)
    model = parser.init_obj("arch", tiny)
    optimizer = parser.init_obj("optimizer", torch.optim, list(model.parameters()))
    return (
        model,
        parser.init_ftn("loss", tiny),
        parser.init_ftns("metrics", tiny),
        optimizer,
        parser,
    )
