"""Parameters that nobody trains are named, and those of a loss are trained if the config says
so."""

import pytest
import torch

import tiny
from machinery.checkpoints import file as checkpoint
from machinery.errors import ConfigError, Stopped
from parse_config import ConfigParser
from tiny import Interrupted, newest


def built(folder, trained=True, resume=None, **kwargs):
    optimizer = {"type": "Adam", "args": {"lr": 0.01}, "loss": trained}
    config = tiny.settings(
        folder, loss={"type": "Shifted"}, optimizer=optimizer, trainer__verbosity=1
    )
    return tiny.init_optimizer_from(ConfigParser(config, resume=resume), **kwargs)


def test_a_loss_is_trained_saved_and_continued_exactly(tmp_path):
    whole = built(tmp_path / "whole")
    assert whole.optimizer.param_groups[0]["param_names"][-1] == "loss.shift"
    whole.train()
    shift = whole.criterion.shift.detach()
    assert float(shift.abs().min()) > 0.001
    part = built(tmp_path, trainer_class=type("Stopping", (Interrupted,), {"after": 17}))
    with pytest.raises(Stopped):
        part.train()
    again = built(tmp_path, resume=newest(part.checkpoint_dir))
    again.train()
    assert torch.equal(again.criterion.shift, shift)
    assert tiny.digest(again.model) == tiny.digest(whole.model) and tiny.rows(again) == tiny.rows(
        whole
    )
    saved = checkpoint.load(again.checkpoint_dir / "model_best.pth")
    assert saved["states"]["criterion"]["shift"].shape == (3,)


def test_a_loss_that_nobody_trains_is_named_with_two_ways_out(tmp_path, messages):
    trainer = built(tmp_path, trained=False)
    trainer.train()
    told = (
        "the loss has parameters that no optimizer "
        "trains: shift: requires_grad_(False) freezes them"
    )
    assert f"{told}, --set optimizer.loss=true trains them" in messages()
    frozen = built(tmp_path, trained=False)
    frozen.criterion.requires_grad_(False)
    frozen.train()
    assert "no optimizer trains" not in messages()


def test_parameters_of_the_model_that_no_optimizer_has_are_named(tmp_path, messages):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__verbosity=1, lr_scheduler=None))
    trainer.optimizer = torch.optim.SGD(trainer.model.fc2.parameters(), lr=0.1)
    trainer.train()
    told = (
        "the model has parameters that no optimizer trains: "
        "fc1.weight, fc1.bias, norm.weight, … (4): freeze them"
    )
    assert told in messages()
    other = tiny.build(tiny.settings(tmp_path, trainer__verbosity=1, lr_scheduler=None))
    other.optimizer = torch.optim.SGD(other.model.fc2.parameters(), lr=0.1)
    body = [*other.model.fc1.parameters(), *other.model.norm.parameters()]
    other.others = [torch.optim.SGD(body, lr=0.1)]
    other.train()
    assert "no optimizer trains" not in messages()


def test_weights_that_the_model_does_not_know_are_named(tmp_path, messages):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__verbosity=1, lr_scheduler=None))
    model = trainer.model
    model.blocks = [torch.nn.Linear(2, 2), torch.nn.ReLU()]
    model.norm.heads = {"a": (torch.nn.Linear(2, 2),)}
    model.token = torch.zeros(3, requires_grad=True)
    # What it knows, what is frozen, and what was computed are none of them.
    model.alias = [model.fc1]
    model.teacher = [torch.nn.Linear(2, 2).requires_grad_(False)]
    model.seen = [model.fc1.weight * 2]
    trainer.train()
    told = "neither trains nor saves: blocks, token, norm.heads: keep layers in nn.ModuleList"
    assert told in messages()
    known = tiny.build(tiny.settings(tmp_path, trainer__verbosity=1, lr_scheduler=None))
    known.model.blocks = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    known.optimizer = torch.optim.SGD(known.model.parameters(), lr=0.1)
    known.train()
    assert "does not know" not in messages()


def test_a_loss_without_parameters_cannot_be_trained(tmp_path):
    optimizer = {"type": "Adam", "args": {"lr": 0.01}, "loss": True}
    config = ConfigParser(tiny.settings(tmp_path, optimizer=optimizer))
    with pytest.raises(ConfigError, match=r"optimizer\.loss: the loss has no parameter to train"):
        tiny.init_optimizer_from(config)
