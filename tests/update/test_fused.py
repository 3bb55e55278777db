"""Optimizers that are fused by themselves: where torch can, by rule, and no run changes its way."""

import pytest
import torch
from torch import nn

import tiny
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
    with pytest.raises(ConfigError, match=r"sparse gradients: an .* optimizer.args.fused=false"):
        train(settings(tmp_path / "a", "SGD", **arch))
    assert train(settings(tmp_path / "b", "SGD", {"fused": False}, **arch)).epoch == 3
