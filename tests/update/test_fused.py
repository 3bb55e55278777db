"""Optimizers that are fused by themselves: where torch can, by rule, and no run changes its way."""

import pytest
import torch
from torch import nn

import tiny
from base import BaseModel
from exact import furthest
from machinery.checkpoints.run_folder import newest_whole
from machinery.config import optimization
from machinery.config.fusing import Fusing
from machinery.errors import ConfigError
from machinery.update.runtime import unwrap
from parse_config import ConfigParser


def settings(path, optimizer="Adam", arguments=None, **changes):
    found = {"type": optimizer, "args": {"lr": 0.01, **(arguments or {})}}
    # The gradient of a bias before a BatchNorm is rounding alone, which Adam makes large.
    changes = {"arch__args": {"norm": False}, **changes}
    return tiny.settings(path, optimizer=found, lr_scheduler=None, **changes)


def train(config, resume=None):
    trainer = tiny.init_optimizer_from(ConfigParser(config, resume=resume))
    trainer.train()
    return trainer


def weights_of(trainer):
    return {name: each.clone() for name, each in unwrap(trainer.model).state_dict().items()}


def ways(trainer):
    return [group.get("fused") for group in trainer.optimizer.param_groups]


@pytest.mark.parametrize("optimizer", ["Adam", "AdamW", "SGD", "Adagrad"])
def test_it_is_torch_s_and_told_once(tmp_path, capfd, optimizer):
    trained = train(settings(tmp_path / "a", optimizer, trainer__verbosity=2))
    assert ways(trained) == [True]
    told = f"{optimizer} is fused (optimizer.args.fused: false computes one weight after the other)"
    assert capfd.readouterr().out.count(told) == 1
    fused = train(settings(tmp_path / "b", optimizer, {"fused": True}, trainer__verbosity=2))
    plain = train(settings(tmp_path / "c", optimizer, {"fused": False}, trainer__verbosity=2))
    assert "is fused" not in capfd.readouterr().out
    assert ways(plain) == [False]
    assert furthest(weights_of(trained), weights_of(fused)) == 0
    assert furthest(weights_of(trained), weights_of(plain)) < 1e-4


class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 3, sparse=True)


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.waves = nn.Parameter(torch.zeros(3, dtype=torch.complex64))


class WithGaps(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4)[:, :2])


class OnMeta(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, device="meta"))


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "LBFGS"},
        {"optimizer": "RAdam"},
        {"arguments": {"foreach": True}},
        {"arguments": {"capturable": False}},
        {"arguments": {"differentiable": False}},
        {"network": Sparse},
        {"network": Wide},
        {"network": OnMeta},
        {"network": WithGaps},
        {"optimizer": "SGD", "arguments": {"momentum": 0.9, "dampening": 0.1}},
        {"groups": [{"params": ["*.bias"], "fused": False}]},
    ],
)
def test_what_torch_cannot_fuse_or_the_user_has_chosen_stays(tmp_path, changes):
    config = settings(tmp_path, changes.get("optimizer", "SGD" if "network" in changes else "Adam"))
    config["optimizer"]["args"].update(changes.get("arguments", {}))
    if "groups" in changes:
        config["optimizer"]["groups"] = changes["groups"]
    network = changes.get("network", tiny.TinyModel)()
    optimizer = optimization.init_optimizer(ConfigParser(config), network)
    assert not any(group.get("fused") for group in optimizer.param_groups)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_of_before_goes_on_as_it_was(tmp_path, monkeypatch, precision):
    """Also with fp16, whose scale a fused optimizer takes into its step."""
    switches = {"trainer__precision": precision}

    def of_before(folder, epochs, resume=None):
        with monkeypatch.context() as patch:
            patch.setattr(Fusing, "argument", lambda *given: {})
            return train(settings(folder, trainer__epochs=epochs, **switches), resume)

    whole = of_before(tmp_path / "whole", 4)
    part = of_before(tmp_path / "part", 2)
    newest = newest_whole(part.checkpoint_dir)[0]
    again = train(settings(tmp_path / "part", trainer__epochs=4, **switches), newest)
    assert ways(again) == [None] == ways(whole)
    assert not getattr(again.optimizer, "_step_supports_amp_scaling", False)
    assert furthest(weights_of(again), weights_of(whole)) == 0


def test_a_running_optimizer_keeps_its_way(tmp_path):
    part = train(settings(tmp_path, trainer__epochs=1))
    newest = newest_whole(part.checkpoint_dir)[0]
    with pytest.raises(ConfigError, match=r"fused of a running optimizer cannot be changed"):
        train(settings(tmp_path, arguments={"fused": False}, trainer__epochs=2), newest)
    again = train(settings(tmp_path, arguments={"fused": True}, trainer__epochs=2), newest)
    assert ways(again) == [True]


class Seen(BaseModel):
    """Six numbers as an image of two channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, (1, 2))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.conv(x.view(-1, 2, 1, 3)).relu().flatten(1))


Seen.__module__ = "tiny"
tiny.Seen = Seen


class Late(tiny.Trainer):
    """Learns a layer late, of gradients that lie otherwise; with fp16 they are infinite first."""

    def _forward(self, batch):
        data, target = batch
        output = self.model(data)
        if self.step < 2:
            output = self.model.conv(data.view(-1, 2, 1, 3)).flatten(1)[:, :3]
        return self.criterion(output, target), output, target

    def backward(self, computed, term=None):
        super().backward(computed, term)
        spoilt = [torch.full((4, 2, 1, 2), torch.nan) for _ in range(9)]
        del spoilt  # what a buffer begins with that nobody fills
        weight = self.model.conv.weight
        weight.grad = weight.grad.contiguous(memory_format=torch.channels_last)
        if self.step == 0 and self.settings.precision == "fp16":
            weight.grad.fill_(torch.inf)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("given", [["Adam"], ["SGD", {"momentum": 0.9}], ["Adagrad"]])
def test_weights_may_be_learnt_late_and_gradients_lie_otherwise(tmp_path, given, precision):
    optimizer, arguments = given[0], dict(*given[1:])
    found = []
    for fused in (None, False):
        extra = {} if fused is None else {"fused": fused}
        config = settings(tmp_path / str(fused), optimizer, {**arguments, **extra})
        config["trainer"].update(epochs=1, precision=precision, ema=0.9)
        config["arch"] = {"type": "Seen"}
        found.append(tiny.as_train_py(config, trainer_class=Late))
        found[-1].train()
    assert ways(found[0]) == [True] != ways(found[1])
    assert furthest(*map(weights_of, found)) < 1e-4
    assert furthest(*(each.ema.state_dict() for each in found)) < 1e-4


@pytest.mark.parametrize("before, after", [(True, False), (False, True)])
def test_a_run_goes_on_that_had_its_images_otherwise_in_memory(tmp_path, before, after):
    def trained(folder, epochs, channels_last, resume=None):
        config = settings(tmp_path / folder, trainer__epochs=epochs)
        config["arch"] = {"type": "Seen"}
        config["trainer"]["channels_last"] = channels_last
        return train(config, resume)

    whole = trained("a", 2, before)
    part = trained("b", 1, before)
    again = trained("b", 2, after, newest_whole(part.checkpoint_dir)[0])
    assert ways(again) == [True]
    assert furthest(weights_of(again), weights_of(whole)) < 1e-5


class SparseLoss(nn.Module):
    """Cross entropy with a learned shift of the scores of each class, whose gradient is sparse."""

    def __init__(self, says=True):
        super().__init__()
        self.table = nn.Embedding(3, 1, sparse=True)
        self.table.sparse = says  # F.embedding(…, sparse=True) says it to nobody

    def forward(self, output, target):
        shift = nn.functional.embedding(target, self.table.weight, sparse=True)
        return nn.functional.cross_entropy(output + shift.sum(), target)


SparseLoss.__module__ = "tiny"
tiny.SparseLoss = SparseLoss


def test_sparse_gradients_of_a_loss(tmp_path):
    config = settings(tmp_path / "a", "SGD", trainer__epochs=1)
    config["optimizer"]["loss"] = True
    config["loss"] = {"type": "SparseLoss"}
    trained = tiny.as_train_py(config)
    trained.train()
    assert not any(ways(trained))
    config["loss"]["args"] = {"says": False}
    with pytest.raises(ConfigError, match=r"fused SGD takes no sparse gradients: set optimizer\."):
        tiny.as_train_py(config).train()
    config["optimizer"]["args"]["fused"] = False
    tiny.as_train_py(config).train()


class SparseByHand(nn.Module):
    """Has sparse gradients that nobody can see before the first step, and a weight of that name."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(7, 3))
        self.sparse = nn.Parameter(torch.randn(3))

    def forward(self, x):
        return nn.functional.embedding(x.argmax(1), self.table, sparse=True) + self.sparse


def test_gradients_that_no_fused_one_takes_are_told_with_what_helps(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "SparseByHand", SparseByHand, raising=False)
    arch = {"arch__type": "SparseByHand", "arch__args": {}}
    with pytest.raises(ConfigError, match=r"fused SGD takes no sparse gradients: set optimizer\."):
        train(settings(tmp_path / "a", "SGD", **arch))
    assert train(settings(tmp_path / "b", "SGD", {"fused": False}, **arch)).epoch == 3
