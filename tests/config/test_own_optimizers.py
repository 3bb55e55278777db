"""Optimizers and schedulers of the user's own, and mistakes with them."""

import sys
import types

import pytest
import torch

import tiny
from machinery.config.optimization import init_optimizer, init_scheduler
from machinery.errors import ConfigError
from parse_config import ConfigParser

OPTIM = '''
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import LRScheduler


class SignSGD(torch.optim.Optimizer):
    """Steps of one size (Bernstein et al. 2018, arXiv:1802.04434)."""

    def __init__(self, params, rate: float, lr: float = 0.0):
        super().__init__(params, {"rate": rate, "lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter -= group["rate"] * parameter.grad.sign()


def nesterov(params, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True)


def renamed(parameters, /, learning_rate: float = 0.1):
    return SGD(parameters, lr=learning_rate)


def nothing(parameters):
    pass


def plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")


class Halving(LRScheduler):
    def get_lr(self):
        return [rate * 0.5**self.last_epoch for rate in self.base_lrs]
'''


@pytest.fixture
def optim(monkeypatch):
    """A project's file of optimizers."""
    module = types.ModuleType("model.optim_of_the_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(OPTIM, vars(module))
    return module


def built(config, optim):
    parser = ConfigParser(config)
    loader, model = parser.init_obj("data_loader", tiny.HERE), parser.init_obj("arch", tiny.HERE)
    optimizer = init_optimizer(parser, model, optim)
    scheduler = init_scheduler(parser, optimizer, len(loader), optim)
    parts = (
        model,
        parser.init_ftn("loss", tiny.HERE),
        parser.init_ftns("metrics", tiny.HERE),
        optimizer,
    )
    return tiny.Trainer(
        *parts, parser, torch.device("cpu"), loader, loader.split_validation(), scheduler
    )


@pytest.mark.parametrize(
    ("optimizer", "kind"),
    [
        ({"type": "SignSGD", "args": {"rate": 0.01}}, "SignSGD"),
        ({"type": "nesterov"}, "SGD"),
        ({"type": "renamed", "args": {"learning_rate": 0.05}}, "SGD"),
        ({"type": "Adam"}, "Adam"),
    ],
)
def test_optimizers_and_schedulers_of_ones_own(tmp_path, optim, optimizer, kind):
    trainer = built(
        tiny.settings(tmp_path, optimizer=optimizer, lr_scheduler={"type": "Halving"}), optim
    )
    trainer.train()
    assert (
        type(trainer.optimizer).__name__ == kind
        and type(trainer.lr_scheduler).__name__ == "Halving"
    )
    again = built(
        tiny.settings(tmp_path, optimizer=optimizer, lr_scheduler={"type": "Halving"}), optim
    )
    again.config.launch.task, again.config.launch.checkpoint = (
        "continue",
        trainer.checkpoint_dir / "checkpoint-epoch2.pth",
    )
    again.config._run = trainer.config.run
    again.restore()
    assert again.start_epoch == 3


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"type": "SignSGD"}, "SignSGD needs 'rate'"),
        (
            {"type": "SignSGD", "args": {"rat": 1.0}},
            "SignSGD has no argument 'rat': did you mean 'rate'",
        ),
        (
            {"type": "SignSDG"},
            "model.optim_of_the_test and torch.optim have "
            "no optimizer 'SignSDG': did you mean 'SignSGD'",
        ),
        ({"type": "Halving"}, "have no optimizer 'Halving'"),
        ({"type": "nothing"}, "made a NoneType, not a Optimizer"),
    ],
)
def test_mistakes_with_them_are_told(tmp_path, optim, optimizer, message):
    with pytest.raises(ConfigError) as caught:
        built(tiny.settings(tmp_path, optimizer=optimizer), optim)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ({"type": "plateau", "interval": "step"}, "ReduceLROnPlateau judges epochs"),
        ({"type": "plateau"}, 'mode "max" watches trainer.monitor "min val_loss"'),
        ({"type": "Halving", "args": {"gamma": 1}}, "Halving has no argument 'gamma'"),
    ],
)
def test_mistakes_with_schedulers_are_told(tmp_path, optim, scheduler, message):
    with pytest.raises(ConfigError) as caught:
        built(tiny.settings(tmp_path, lr_scheduler=scheduler), optim)
    assert message in str(caught.value)


def test_what_an_optimizer_cannot_take_under_way_is_refused(tmp_path, optim):
    config = tiny.settings(
        tmp_path, optimizer={"type": "renamed", "args": {"learning_rate": 0.05}}, lr_scheduler=None
    )
    trainer = built(config, optim)
    trainer.train()
    config["optimizer"]["args"]["learning_rate"] = 0.5
    again = built(config, optim)
    again.config.launch.task, again.config.launch.checkpoint = (
        "continue",
        trainer.checkpoint_dir / "model_best.pth",
    )
    with pytest.raises(
        ConfigError, match=r"optimizer.args.learning_rate of a running optimizer cannot be changed"
    ):
        again.restore()
