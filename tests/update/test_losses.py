"""A loss is one number with a gradient, the mean over the samples of its batch, and is told if it
is not."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401
from torch import nn

import tiny
from machinery.errors import ConfigError
from projects import copy_template, quick


def test_a_loss_may_be_left_out_by_a_trainer_that_has_its_own(tmp_path):
    class Own(tiny.Trainer):
        def _forward(self, batch):
            output = self.model(batch[0])
            return tiny.cross_entropy(output, batch[1]), output, batch[1]

    config = tiny.settings(tmp_path / "own")
    del config["loss"]
    assert tiny.train(config, trainer_class=Own).epoch == 3
    with pytest.raises(
        ConfigError,
        match=r"loss is missing: name one of model/loss.py, or give the trainer a _forward",
    ):
        tiny.build({**config, "trainer": {**config["trainer"], "save_dir": str(tmp_path / "none")}})
    assert not (tmp_path / "none").exists()


def test_loss_terms_must_be_those_of_forward(tmp_path):
    class Two(tiny.Trainer):
        loss_terms = ("loss", "kl")

        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            return {"loss": loss, "l1": loss}, output, target

    with pytest.raises(
        ConfigError, match="loss_terms says loss, kl, but _forward returns loss, l1"
    ):
        tiny.train(tiny.settings(tmp_path), trainer_class=Two)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return copy_template(tmp_path_factory.mktemp("mistakes") / "project")


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
    """A mean over classes' weights in float32, which cannot be judged in float64 alone."""

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
        ("Weighted", True),
    ],
)
@pytest.mark.parametrize("kind", ["points", "whole"])
def test_a_loss_that_is_no_mean_over_samples_is_told_once(
    tmp_path, monkeypatch, capfd, loss, told, kind
):
    for function in (broadcast, summed, contrastive, in_batch, Weighted):
        monkeypatch.setattr(tiny, function.__name__, function, raising=False)
    tiny.train(
        tiny.settings(tmp_path, trainer__epochs=2, loss=loss, data_loader__args={"kind": kind})
    )
    lines = [
        line
        for line in capfd.readouterr().out.splitlines()
        if "averages depend on the batch size" in line
    ]
    assert len(lines) == told
    if told:
        assert "output [8, 3] float32, target [8] int64" in lines[0]


def test_looking_at_the_loss_changes_nothing(tmp_path, monkeypatch):
    with_look = tiny.train(tiny.settings(tmp_path / "a"))
    monkeypatch.setattr("trainer.trainer.warn_of_loss", lambda *_: None)
    without = tiny.train(tiny.settings(tmp_path / "b"))
    assert tiny.digest(with_look.model) == tiny.digest(without.model)


def test_a_random_forward_pass_is_not_judged(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        tiny, "noisy", lambda output, target: summed(output, target) * torch.rand(()), raising=False
    )
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
        (
            F.nll_loss,
            PIXELS,
            torch.zeros(4, 3, 3, dtype=torch.int64),
            "the loss takes log-probabilities",
        ),
        (F.nll_loss, PIXELS.log_softmax(1), torch.zeros(4, 3, 3, dtype=torch.int64), ""),
        (F.cross_entropy, SCORES, CLASSES, ""),
        (F.cross_entropy, SCORES.log_softmax(1), CLASSES, ""),
        (
            F.cross_entropy,
            SCORES.softmax(1),
            CLASSES,
            "the loss takes scores, but the rows are probabilities",
        ),
        (
            partial(F.cross_entropy, weight=UNEVEN),
            SCORES.softmax(1),
            CLASSES,
            "the loss takes scores",
        ),
        (nn.CrossEntropyLoss(), SCORES.softmax(1), CLASSES, "the loss takes scores"),
        (F.multi_margin_loss, SCORES.softmax(1), CLASSES, ""),
        (F.binary_cross_entropy_with_logits, SCORES, YES_OR_NO, ""),
        (F.binary_cross_entropy_with_logits, SCORES.sigmoid(), YES_OR_NO, "the loss takes logits"),
        (
            F.binary_cross_entropy_with_logits,
            SCORES.sigmoid().view(-1),
            YES_OR_NO.view(-1),
            "the loss takes logits",
        ),
        (F.binary_cross_entropy, SCORES.sigmoid(), YES_OR_NO, ""),
        (F.mse_loss, SCORES.sigmoid(), YES_OR_NO, ""),
        (F.l1_loss, SCORES, YES_OR_NO, ""),
    ],
)
def test_a_loss_that_takes_something_else_than_the_model_gives_is_told(
    caplog, loss, output, target, told
):
    from machinery.checks.loss import warn_of_loss

    warn_of_loss(loss, output, target)
    found = [line for line in caplog.messages if line.startswith("the loss takes")]
    assert len(found) == bool(told) and told in str(found)


def test_a_loss_of_one_number_is_all_that_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tiny, "column", lambda output, target: summed(output, target)[None] / 8, raising=False
    )
    with pytest.raises(ConfigError):
        tiny.train(tiny.settings(tmp_path, loss="column"))


@pytest.mark.parametrize(
    "output", [torch.zeros(64, 1), torch.randn(64, 1, generator=torch.Generator().manual_seed(1))]
)
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


class KeepingLoss(nn.Module):
    """A loss that keeps its last term, which has a graph and cannot be copied."""

    def forward(self, output, target):
        self.last = nn.functional.cross_entropy(output, target)
        return self.last


def test_losses_that_cannot_be_copied_train(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "KeepingLoss", KeepingLoss, raising=False)
    KeepingLoss.__module__ = "tiny"
    assert tiny.train(tiny.settings(tmp_path, loss="KeepingLoss", trainer__epochs=1)).epoch == 1
