"""What cannot work as a config has it says so in its own words: optimizers that want a model, or
derivatives of derivatives, and class weights of a function."""

import copy
import warnings

import pytest
import torch
from torch import nn

import ranks
import tiny
from machinery.config import installed
from machinery.errors import ConfigError
from parse_config import ConfigParser
from trainer import Trainer

PACKAGE = """
import torch

def create_optimizer(model: torch.nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr)

def of_parameters(parameters, model=None, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "someones_package.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    packages = {**installed._PACKAGES, "someones_package": "someones-package"}
    monkeypatch.setattr(installed, "_PACKAGES", packages)


def test_a_function_that_wants_the_model_is_told(tmp_path, package):
    config = tiny.settings(tmp_path, optimizer={"type": "someones_package.create_optimizer"})
    said = r"optimizer: someones_package\.create_optimizer takes a model, .*: name its class, or"
    parser = ConfigParser(config)
    with pytest.raises(ConfigError, match=said):
        parser.check(optimizer=(torch.optim,))
    with pytest.raises(ConfigError, match=said):
        tiny.build(parser)
    config["optimizer"] = {"type": "someones_package.of_parameters"}
    tiny.train(tiny.settings(tmp_path, optimizer=config["optimizer"], trainer__epochs=1))


class Curved(torch.optim.Optimizer):
    """Scales gradients by the curvature, along a vector of ones."""

    def __init__(self, params, lr=0.01):
        super().__init__(params, {"lr": lr})

    def step(self, closure=None):
        weights = [w for group in self.param_groups for w in group["params"] if w.grad is not None]
        gradients = [weight.grad for weight in weights]
        ones = [torch.ones_like(each) for each in gradients]
        curves = torch.autograd.grad(gradients, weights, ones)
        with torch.no_grad():
            for weight, gradient, curve in zip(weights, gradients, curves, strict=True):
                weight -= self.param_groups[0]["lr"] * gradient / (1 + curve.abs())


class TwiceDerived(Trainer):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.runtime.creates_graph = True


class Recording(TwiceDerived):
    """Keeps the batches, and the model of before."""

    def __init__(self, model, *args, **kwargs):
        self.first, self.batches = copy.deepcopy(model), []
        super().__init__(model, *args, **kwargs)

    def _forward(self, batch):
        if self.model.training:
            self.batches.append(batch)
        return super()._forward(batch)


def test_second_derivatives_are_told_and_a_trainer_may_have_them(tmp_path):
    arch = {"type": "TinyModel", "args": {"dropout": 0.0, "norm": False}}
    config = tiny.settings(tmp_path, arch=arch, trainer__epochs=1, lr_scheduler=None)
    trainer = tiny.build(config)
    trainer.optimizer = Curved(trainer.model.parameters())
    said = r"a Curved takes second derivatives: .* self\.runtime\.creates_graph = True"
    with pytest.raises(ConfigError, match=said):
        trainer.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer = tiny.build(config, trainer_class=Recording)
        trainer.optimizer = Curved(trainer.model.parameters())
        trainer.train()
    model = trainer.first
    optimizer = Curved(model.parameters())
    for data, target in trainer.batches:
        nn.functional.cross_entropy(model(data), target).backward(create_graph=True)
        optimizer.step()
        optimizer.zero_grad()
    assert tiny.digest(model) == tiny.digest(trainer.model)


def derived_twice(config):
    with pytest.raises(ConfigError, match="second derivatives are computed by one process"):
        tiny.train(config, trainer_class=TwiceDerived)


def test_several_processes_derive_once(tmp_path):
    arch = {"type": "TinyModel", "args": {"norm": False}}
    ranks.run(tmp_path, 2, derived_twice, tiny.settings(tmp_path / "runs", arch=arch))


@pytest.mark.parametrize(
    "name, key, instead",
    [
        ("cross_entropy", "weight", "CrossEntropyLoss"),
        ("nll_loss", "weight", "NLLLoss"),
        ("multi_margin_loss", "weight", "MultiMarginLoss"),
        ("multilabel_soft_margin_loss", "weight", "MultiLabelSoftMarginLoss"),
        ("binary_cross_entropy", "weight", "BCELoss"),
        ("binary_cross_entropy_with_logits", "pos_weight", "BCEWithLogitsLoss"),
    ],
)
def test_class_weights_of_a_function_name_the_class(tmp_path, name, key, instead):
    loss = {"type": f"torch.nn.functional.{name}", "args": {key: [1, 2.5, 1]}}
    said = rf"loss\.args\.{key}: {name} takes {key} as .*, found a list of 3: torch\.nn\.{instead} "
    with pytest.raises(ConfigError, match=said + "takes one$"):
        ConfigParser(tiny.settings(tmp_path, loss=loss)).check(loss=tiny)
    loss["type"] = f"torch.nn.{instead}"
    config = ConfigParser(tiny.settings(tmp_path, loss=loss))
    config.check(loss=tiny)
    assert getattr(config.init_ftn("loss", tiny), key).tolist() == [1, 2.5, 1]


def test_a_class_that_takes_none_is_not_named(tmp_path):
    loss = {"type": "torch.nn.functional.mse_loss", "args": {"weight": [1, 2, 1]}}
    with pytest.raises(ConfigError, match=r"takes weight as .*Tensor.*, found a list of 3$"):
        ConfigParser(tiny.settings(tmp_path, loss=loss)).check(loss=tiny)
