"""What the user's own code does wrong at the first batch is told in a few lines, and a loss that is no mean is told."""

import dataclasses
import sys
from collections import UserDict
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401
from torch import nn

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
        ["expected input[64, 1, 28, 28] to have 3 channels", "model/model.py:", "data [64, 1, 28, 28] float32"],
    ),
    "float64 data": (
        "data_loader/data_loaders.py",
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
    "a metric that is a dict": (
        "model/metric.py",
        "return (output.argmax(dim=1) == target).float()",
        'return {"right": (output.argmax(dim=1) == target).float()}',
        ["error: accuracy: expected a number, found (right: [64] float32)"],
    ),
    "a metric that raises": (
        "model/metric.py",
        "return (output.argmax(dim=1) == target).float()",
        "return (output == target).float()",
        ["The size of tensor a (10) must match", "model/metric.py:", "output [64, 10] float32, target [64] int64"],
    ),
    "a dataset that raises": (
        "data_loader/data_loaders.py",
        "images = self.images.index_select(0, indices)",
        'images = {}["pictures"]',
        ["could not make batch 0 of pass 1: KeyError: 'pictures'", "data_loader/data_loaders.py:"],
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
        assert result.returncode == {"a dataset that raises": 3}.get(mistake, result.returncode) and result.returncode
        assert "Traceback" not in result.stderr and len(result.stderr.strip().splitlines()) <= 6, result.stderr
        for text in told:
            assert text in result.stderr
        info = (project / "saved/log/Digits_LeNet" / mistake / "info.log").read_text()
        assert ("Traceback" in info) == (result.returncode == 1)
        if result.returncode == 1:
            shown = quick(project, "train.py", "-c", "config.json", "--traceback", "--check").stderr
            assert "Traceback" in shown and told[0] in shown
    finally:
        (project / file).write_text(right)


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
        (Scaled, ["IndexError: Target 7 is out of bounds", "data [8, 6] float32, target [8] int64, output [8, 3]"]),
        (Leaves, ["RuntimeError: sys.exit(3) was called", "batches (([8, 6] float32, [8] int64))"]),
    ],
)
def test_the_variables_of_the_innermost_method_are_told(tmp_path, monkeypatch, trainer, told):
    monkeypatch.setattr(tiny, "seventh", lambda output, target: F.cross_entropy(output, target * 0 + 7), raising=False)
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
    (project / "machinery/update/watching.py").write_text(right.replace("if not self.on:", "if not self.of:"))
    result = quick(project, "train.py", "-c", "config.json", "--check")
    (project / "machinery/update/watching.py").write_text(right)
    assert result.returncode == 1 and "Traceback" in result.stderr and "AttributeError" in result.stderr


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
    assert isinstance(moved, Tokens) and moved["x"].device.type == "meta" and first_tensor(moved).shape == (8, 6)


def _parts(config):
    parser = tiny.ConfigParser(config)
    model = parser.init_obj("arch", tiny)
    optimizer = parser.init_obj("optimizer", torch.optim, list(model.parameters()))
    return model, parser.init_ftn("loss", tiny), parser.init_ftns("metrics", tiny), optimizer, parser


def broadcast(output, target):
    return ((output[:, :1] - target.float()) ** 2).mean()


def summed(output, target):
    return F.cross_entropy(output, target, reduction="sum")


def contrastive(output, target):
    normed = F.normalize(output, dim=1)
    return F.cross_entropy(normed @ normed.T, torch.arange(len(output)))


def in_batch(output, target):
    return contrastive(output, target)


in_batch.in_batch = True


class Weighted(nn.Module):
    """A mean over classes' weights in float32, which cannot be judged in float64."""

    def forward(self, output, target):
        return F.cross_entropy(output, target, weight=torch.tensor([1.0, 5.0, 0.1]))


@pytest.mark.parametrize(
    "loss, told",
    [
        ("cross_entropy", False),
        ("broadcast", True),
        ("summed", True),
        ("contrastive", True),
        ("in_batch", False),
        ({"type": "cross_entropy", "name": "renamed"}, False),
        ({"type": "in_batch", "name": "renamed"}, False),
        ("Weighted", False),
    ],
)
@pytest.mark.parametrize("kind", ["points", "whole"])
def test_a_loss_that_is_no_mean_over_samples_is_told_once(tmp_path, monkeypatch, capfd, loss, told, kind):
    for function in (broadcast, summed, contrastive, in_batch, Weighted):
        monkeypatch.setattr(tiny, function.__name__, function, raising=False)
    tiny.train(tiny.settings(tmp_path, trainer__epochs=2, loss=loss, data_loader__args={"kind": kind}))
    lines = [line for line in capfd.readouterr().out.splitlines() if "averages depend on the batch size" in line]
    assert len(lines) == told
    if told:
        assert "output [8, 3] float32, target [8] int64" in lines[0]


def test_looking_at_the_loss_changes_nothing(tmp_path, monkeypatch):
    with_look = tiny.train(tiny.settings(tmp_path / "a"))
    monkeypatch.setattr("trainer.trainer.warn_of_loss", lambda *_: None)
    without = tiny.train(tiny.settings(tmp_path / "b"))
    assert tiny.digest(with_look.model) == tiny.digest(without.model)


def test_a_random_forward_pass_is_not_judged(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(tiny, "noisy", lambda output, target: summed(output, target) * torch.rand(()), raising=False)
    tiny.noisy.__name__ = "noisy"
    tiny.train(tiny.settings(tmp_path, trainer__epochs=1, loss="noisy"))
    assert "averages depend on the batch size" not in capfd.readouterr().out


def test_a_check_tells_it_too(project):
    right = (project / "model/loss.py").read_text()
    (project / "model/loss.py").write_text(
        right.replace("F.nll_loss(output, target)", "F.nll_loss(output, target) * len(target)")
    )
    result = quick(project, "train.py", "-c", "config.json", "--check")
    (project / "model/loss.py").write_text(right)
    assert (
        result.returncode == 0
        and "averages depend on the batch size" in result.stdout
        and "check passed" in result.stdout
    )


SCORES = torch.randn(16, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
CLASSES = torch.arange(16) % 5
YES_OR_NO = (torch.arange(80).reshape(16, 5) % 2).float()
PIXELS = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
UNEVEN = torch.arange(1.0, 6.0)


@pytest.mark.parametrize(
    "loss, output, target, told",
    [
        (F.nll_loss, SCORES, CLASSES, "the loss takes log-probabilities, but the model gives none"),
        (F.nll_loss, SCORES.log_softmax(1), CLASSES, ""),
        (partial(F.nll_loss, weight=UNEVEN), SCORES, CLASSES, "the loss takes log-probabilities"),
        (F.nll_loss, PIXELS, torch.zeros(4, 3, 3, dtype=torch.int64), "the loss takes log-probabilities"),
        (F.nll_loss, PIXELS.log_softmax(1), torch.zeros(4, 3, 3, dtype=torch.int64), ""),
        (F.cross_entropy, SCORES, CLASSES, ""),
        (F.cross_entropy, SCORES.log_softmax(1), CLASSES, ""),
        (F.cross_entropy, SCORES.softmax(1), CLASSES, "the loss takes scores, but the rows are probabilities"),
        (partial(F.cross_entropy, weight=UNEVEN), SCORES.softmax(1), CLASSES, "the loss takes scores"),
        (nn.CrossEntropyLoss(), SCORES.softmax(1), CLASSES, "the loss takes scores"),
        (F.multi_margin_loss, SCORES.softmax(1), CLASSES, ""),
        (F.binary_cross_entropy_with_logits, SCORES, YES_OR_NO, ""),
        (F.binary_cross_entropy_with_logits, SCORES.sigmoid(), YES_OR_NO, "the loss takes logits"),
        (F.binary_cross_entropy_with_logits, SCORES.sigmoid().view(-1), YES_OR_NO.view(-1), "the loss takes logits"),
        (F.binary_cross_entropy, SCORES.sigmoid(), YES_OR_NO, ""),
        (F.mse_loss, SCORES.sigmoid(), YES_OR_NO, ""),
        (F.l1_loss, SCORES, YES_OR_NO, ""),
    ],
)
def test_a_loss_that_takes_something_else_than_the_model_gives_is_told(caplog, loss, output, target, told):
    from machinery.checks.loss import warn_of_loss

    warn_of_loss(loss, output, target)
    found = [line for line in caplog.messages if line.startswith("the loss takes")]
    assert len(found) == bool(told) and told in str(found)


def test_a_loss_of_one_number_is_all_that_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "column", lambda output, target: summed(output, target)[None] / 8, raising=False)
    with pytest.raises(ConfigError):
        tiny.train(tiny.settings(tmp_path, loss="column"))


@pytest.mark.parametrize("output", [torch.zeros(64, 1), torch.randn(64, 1, generator=torch.Generator().manual_seed(1))])
@pytest.mark.parametrize("scale", [1.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shapes_that_are_broadcast_are_seen_whatever_the_numbers_are(caplog, output, scale, dtype):
    from machinery.checks.loss import warn_of_loss

    target = scale * torch.randn(64, generator=torch.Generator().manual_seed(2))
    warn_of_loss(lambda o, t: ((o - t) ** 2).mean(), output.to(dtype), target)
    assert caplog.text.count("Shapes that are broadcast?") == 1
    warn_of_loss(lambda o, t: ((o.squeeze(1) - t) ** 2).mean(), output.to(dtype), target)
    warn_of_loss(F.l1_loss, output[:, 0].to(dtype), target)
    warn_of_loss(F.binary_cross_entropy_with_logits, output[:, 0].to(dtype), (target > 0).float())
    warn_of_loss(F.cross_entropy, torch.cat([output, -output], 1).to(dtype), (target > 0).long())
    assert caplog.text.count("averages depend on the batch size") == 1
