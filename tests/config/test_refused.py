"""What would go wrong silently is refused before a run folder is made, with the reason."""

import os
import types

import pytest
import torch
from torch import nn

import tiny
from machinery.checkpoints import file as checkpoint
from machinery.config.optimization import init_optimizer
from machinery.errors import CheckpointError, ConfigError
from parse_config import ConfigParser
from tiny import ADAM, changed_config


@pytest.mark.parametrize("config", [{}, {"name": b"x"}, {"name": torch.ones(2)}])
def test_configs_that_are_none_are_refused(tmp_path, config):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    state = checkpoint.load(folder / "checkpoint-epoch1.pth")
    state["config"] = config
    checkpoint.save(state, folder / "checkpoint-epoch1.pth")
    with pytest.raises((CheckpointError, ConfigError)):
        tiny.command_line("-r", folder / "checkpoint-epoch1.pth")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"validation_split": 0.2, "sampler": range(20)}, "validation_split has no effect"),
        (
            {"validation_split": 3, "batch_sampler": [[0, 1]], "shuffle": False},
            "validation_split has no effect",
        ),
        ({"batch_sampler": [[0, 1]]}, "shuffle and drop_last have no effect"),
        (
            {"batch_sampler": [[0, 1]], "shuffle": False, "drop_last": True},
            "shuffle and drop_last have no effect",
        ),
        ({"num_workers": 100_000}, "100000 processes are too many"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        tiny.TinyLoader(**{"validation_split": 0, **options})


def test_a_metric_that_is_called_like_the_validation_of_another(tmp_path):
    config = tiny.settings(tmp_path, metrics=[{"type": "accuracy", "name": "val_loss"}])
    with pytest.raises(ConfigError, match="the name 'val_loss' is taken"):
        tiny.build(config)


@pytest.mark.parametrize("name", ["peak_gib", "grad_norm", "samples_per_second", "~best/loss"])
def test_a_metric_that_is_called_like_another_number_in_tensorboard(tmp_path, name):
    config = tiny.settings(tmp_path, metrics=[{"type": "accuracy", "name": name}])
    with pytest.raises(ConfigError, match=f"the name '{name}' is taken"):
        tiny.build(config)


def test_a_default_that_is_written_out_is_no_change(tmp_path):
    config = tiny.settings(tmp_path, trainer__epochs=1)
    assert "seed" not in config
    path = tiny.newest(tiny.train(config).checkpoint_dir)
    more = {**config, "seed": 123, "trainer": {**config["trainer"], "epochs": 2, "ema": None}}
    assert tiny.train(more, resume=path).epoch == 2


MOMENTUM = {"type": "RMSprop", "args": {"lr": 0.01}}


@pytest.mark.parametrize(
    "before, after, message",
    [
        (
            {},
            {"optimizer": {**ADAM, "args": {"lr": 0.01, "amsgrad": True}}},
            "optimizer.args.amsgrad of a running",
        ),
        (
            {"optimizer": MOMENTUM},
            {"optimizer": {**MOMENTUM, "args": {"momentum": 0.9}}},
            "optimizer.args.momentum of a",
        ),
        (
            {"arch__freeze": ["fc1.bias"]},
            {"arch__freeze": ["fc2.bias"]},
            "arch.freeze cannot be changed under way",
        ),
        ({}, {"lr_scheduler__interval": "step"}, "lr_scheduler.interval cannot be changed"),
        ({}, {"lr_scheduler": None}, "lr_scheduler.type cannot be changed"),
        ({}, {"seed": 7}, "seed cannot be changed"),
        ({}, {"optimizer": {"type": "SGD", "args": {"lr": 0.01}}}, "optimizer.type cannot be"),
        (
            {},
            {"lr_scheduler__args": {"step_size": 2, "gamma": 0.5, "last_epoch": -1}},
            "last_epoch of a running StepLR",
        ),
        (
            {"lr_scheduler": {"type": "LinearLR", "args": {"total_iters": 4}}},
            {"lr_scheduler": {"type": "LinearLR", "args": {"total_iters": 3}}},
            "total_iters of a running LinearLR cannot be changed",
        ),
    ],
)
def test_what_would_go_wrong_silently_is_refused(tmp_path, before, after, message):
    shared = {} if "optimizer" in before else {"optimizer": ADAM}
    trainer = changed_config(tmp_path, {**shared, **before}, {**shared, **after})
    with pytest.raises(ConfigError, match=message):
        trainer.train()


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a\x00b"},
        {"name": "a\nb"},
        {"name": "\x1b[31mred"},
        {"name": "x" * 300},
        {"trainer__save_dir": "a\x00"},
        {"metrics": [{"type": "accuracy", "name": "\x1b[31m"}]},
        {"metrics": [{"type": "accuracy", "name": "\ud800"}]},
        {"metrics": ["accu\nracy"]},
        {"loss": {"type": "a\x00"}},
    ],
)
def test_control_characters_are_no_part_of_names(tmp_path, changes):
    with pytest.raises(ConfigError):
        tiny.build(tiny.settings(tmp_path, **changes))


def test_a_loss_that_lacks_a_keyword(tmp_path, monkeypatch):
    def weighted(output, target, *, weight):
        return (output[:, 0] * weight).mean()

    monkeypatch.setattr(tiny, "weighted", weighted, raising=False)
    with pytest.raises(ConfigError, match="weighted needs 'weight'"):
        tiny.build(tiny.settings(tmp_path, loss="weighted"))
    tiny.train(
        tiny.settings(
            tmp_path, trainer__epochs=1, loss={"type": "weighted", "args": {"weight": 2.0}}
        )
    )


def test_lazy_modules_are_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(
        tiny, "Lazy", type("Lazy", (nn.LazyLinear,), {"__module__": "tiny"}), raising=False
    )
    config = ConfigParser(
        tiny.settings(tmp_path, arch={"type": "Lazy", "args": {"out_features": 3}})
    )
    with pytest.raises(ConfigError, match="lazy modules have no weights yet"):
        init_optimizer(config, config.init_obj("arch", tiny))


def test_lbfgs_is_refused_with_the_way_to_it(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"LBFGS computes its loss several times a step: set trainer.type=examples.lbfgs",
    ):
        tiny.build(tiny.settings(tmp_path / "runs", optimizer={"type": "LBFGS"}))
    assert not (tmp_path / "runs").exists()


def test_names_that_a_component_may_have(tmp_path, monkeypatch):
    import functools

    module = types.ModuleType("model.names_of_the_test")
    module.MSELoss, module.instance = torch.nn.MSELoss, torch.nn.L1Loss()
    module.half = functools.partial(torch.nn.functional.huber_loss, delta=0.5)
    module.sorted, module.os = sorted, os

    def kinds(section, name):
        parser = tiny.ConfigParser(tiny.settings(tmp_path, **{section: name}))
        return (
            parser.init_ftn(section, module)
            if section == "loss"
            else parser.init_ftns(section, module)
        )

    x, y = torch.tensor([1.0, 4.0]), torch.zeros(2)
    assert kinds("loss", "MSELoss")(x, y) == 8.5 and kinds("loss", "instance")(x, y) == 2.5
    assert kinds("loss", "half")(x, y) == pytest.approx(1.125)
    reduced = kinds("loss", {"type": "MSELoss", "args": {"reduction": "sum"}})
    assert reduced(x, y) == 17 and reduced.__name__ == "MSELoss"
    first, second = kinds("metrics", ["instance", {"type": "instance", "name": "again"}])
    assert (first.__name__, second.__name__) == ("instance", "again")
    for name in ("os", "sorted", "os.system", "nothing", "__class__"):
        with pytest.raises(
            ConfigError, match="there is no module os in" if "." in name else "has no loss"
        ):
            kinds("loss", name)


def test_mistakes_with_classes_of_losses_are_told(tmp_path):
    module = types.ModuleType("model.names_of_the_test")

    class Weighted(torch.nn.Module):
        def __init__(self, weight, *, scale=1.0):
            super().__init__()
            if weight < 0:
                raise ValueError("weight below 0")

    module.Weighted = Weighted
    for args, message in (
        ({}, "Weighted needs 'weight'"),
        ({"weight": -1}, "ValueError: weight below 0"),
        ({"weight": 1, "scal": 2}, "did you mean 'scale'"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny.ConfigParser(
                tiny.settings(tmp_path, loss={"type": "Weighted", "args": args})
            ).init_ftn("loss", module)


def test_a_function_that_makes_something_else_is_refused(tmp_path):
    module = types.ModuleType("data_loader.of_the_test")
    exec("def read_digits(n):\n    return [n]", vars(module))
    config = tiny.settings(tmp_path, data_loader={"type": "read_digits", "args": {"n": 3}})
    with pytest.raises(
        ConfigError, match=r"data_loader \(read_digits\): made a list, not a DataLoader"
    ):
        tiny.ConfigParser(config).init_obj("data_loader", module)
