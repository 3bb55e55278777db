"""`optimizer.groups`: parameters that match a pattern have arguments for themselves."""

import re

import pytest
import torch

import ranks
import tiny
from exact import furthest
from machinery.checkpoints.run_folder import newest_whole
from machinery.config.optimization import init_optimizer, init_scheduler
from machinery.errors import ConfigError
from machinery.update.runtime import unwrap
from parse_config import ConfigParser

GROUPS = [
    {"params": ["*.bias", "norm.*"], "weight_decay": 0},
    {"params": ["fc2.*"], "lr": 0.003, "betas": [0.8, 0.99]},
]
ADAM = {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.3}}


def settings(path, groups=GROUPS, **changes):
    optimizer = {**ADAM, "groups": groups}
    arguments = {"n": 101, "validation_split": 20, "batch_size": 9}
    more = {"lr_scheduler": None, "data_loader__args": arguments, **changes}
    return tiny.settings(path, optimizer=optimizer, **more)


def train(config, resume=None):
    trainer = tiny.init_optimizer_from(ConfigParser(config, resume=resume))
    trainer.train()
    return trainer


def weights_of(trainer):
    weights = unwrap(trainer.model).state_dict()
    return {name: value.clone() for name, value in weights.items()}


def test_it_trains_as_with_groups_by_hand(tmp_path):
    trained = train(settings(tmp_path / "ours"))
    bare = tiny.init_optimizer_from(ConfigParser(settings(tmp_path / "by hand")))
    named = dict(bare.model.named_parameters())
    without_decay = ["fc1.bias", "norm.weight", "norm.bias", "fc2.bias"]
    bare.optimizer = torch.optim.AdamW(
        [
            {"params": [(name, named[name]) for name in ("fc1.weight",)]},
            {"params": [(name, named[name]) for name in without_decay], "weight_decay": 0},
            {"params": [("fc2.weight", named["fc2.weight"])], "lr": 0.003, "betas": (0.8, 0.99)},
        ],
        lr=0.01,
        weight_decay=0.3,
        fused=True,
    )
    bare.train()
    weights, expected = weights_of(trained), weights_of(bare)
    assert len(named) == 6 and furthest(weights, expected) == 0
    plain = weights_of(train(settings(tmp_path / "plain", groups=[])))
    assert furthest(weights, plain) > 0.01


def test_a_run_is_continued_exactly(tmp_path):
    whole = train(settings(tmp_path / "whole", trainer__epochs=4))
    part = train(settings(tmp_path / "part", trainer__epochs=2))
    newest = newest_whole(part.checkpoint_dir)[0]
    again = train(settings(tmp_path / "part", trainer__epochs=4), newest)
    assert furthest(weights_of(again), weights_of(whole)) == 0


def trained_weights(config):
    return weights_of(train(config))


def test_two_processes_are_one(tmp_path):
    groups = [{"params": ["*.bias"], "weight_decay": 0}, {"params": ["fc2.*"], "lr": 0.003}]
    config = settings(tmp_path, groups, arch__args={"dropout": 0.0, "norm": False})
    alone = ranks.run(tmp_path, 1, trained_weights, config)[0]
    for weights in ranks.run(tmp_path, 2, trained_weights, config):
        assert furthest(weights, alone) < 1e-5


def test_another_rate_on_the_way_is_of_those_without_their_own(tmp_path):
    part = train(settings(tmp_path, trainer__epochs=1))
    newest = newest_whole(part.checkpoint_dir)[0]
    config = settings(tmp_path, trainer__epochs=2)
    config["optimizer"]["args"] = {**ADAM["args"], "lr": 0.02}
    again = train(config, newest)
    assert [group["lr"] for group in again.optimizer.param_groups] == [0.02, 0.02, 0.003]


def test_other_groups_want_a_new_run(tmp_path):
    part = train(settings(tmp_path, trainer__epochs=1))
    newest = newest_whole(part.checkpoint_dir)[0]
    for groups in ([], GROUPS[:1], [{**GROUPS[0], "weight_decay": 0.1}, GROUPS[1]]):
        with pytest.raises(ConfigError, match=r"optimizer\.groups cannot be changed under way"):
            train(settings(tmp_path, groups, trainer__epochs=2), newest)


@pytest.mark.parametrize(
    "groups, said",
    [
        ([{"params": ["*.bais"]}], r"groups\.0: '\*\.bais' matches no parameter; there are: fc1\."),
        ([{"params": []}], r"groups\.0\.params: .* at least 1"),
        ([{"weight_decay": 0}], r"groups\.0\.params is missing"),
        ([{"params": ["*"], "weight_dekay": 0}], r"0\.weight_dekay: .*mean 'weight_decay'\?"),
        ([{"params": ["*"], "lr": "0.1"}], r'0\.lr: AdamW takes lr as .*, found "0\.1"'),
        ([{"params": ["*"]}, {"params": ["fc1.*"]}], r"groups\.1: the groups before it have all"),
        ([{"params": "*"}], r"groups\.0\.params: expected a valid list"),
        ([3], r"groups\.0: expected an object in braces, found 3"),
        (
            [{"params": ["*"], "typ": "SGD"}],
            r"0\.typ: AdamW has no argument 'typ': .*mean 'type'\?",
        ),
        ([{"params": ["*"], "args": {}}], r'0\.args: the arguments .* stand beside its "params"'),
        ([{"params": ["*"], "model": 3}], r"0\.model: AdamW has no argument 'model'"),
    ],
)
def test_mistakes_are_told(tmp_path, groups, said):
    with pytest.raises(ConfigError, match=said):
        train(settings(tmp_path, groups))


def test_all_parameters_may_be_in_groups_and_what_each_has_is_told(tmp_path, capfd):
    groups = [{"params": ["*.weight"], "weight_decay": 0.1}, {"params": ["*"], "lr": 0.5}]
    config = settings(tmp_path, groups, trainer__epochs=1, trainer__verbosity=1)
    trainer = train(config)
    assert [len(group["params"]) for group in trainer.optimizer.param_groups] == [3, 3]
    told = re.findall("optimizer group .*", capfd.readouterr().out)
    assert told == [
        "optimizer group 0 (weight_decay 0.1): 3 parameters: fc1.weight, norm.weight, fc2.weight",
        "optimizer group 1 (lr 0.5): 3 parameters: fc1.bias, norm.bias, fc2.bias",
    ]
    more = {**config, "trainer": {**config["trainer"], "epochs": 2}}
    train(more, newest_whole(trainer.checkpoint_dir)[0])
    assert "optimizer group" not in capfd.readouterr().out


class WithKeys(torch.optim.SGD):
    """Knows a key of groups that is no argument."""


def test_optimizers_of_others_may_know_more_keys(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "WithKeys", WithKeys, raising=False)
    config = settings(tmp_path)
    groups = [{"params": ["*.weight"], "whitened": True}]
    config["optimizer"] = {"type": "WithKeys", "args": {"lr": 0.1}, "groups": groups}
    parser = ConfigParser(config)
    optimizer = init_optimizer(parser, parser.init_obj("arch", tiny), tiny)
    assert [group.get("whitened") for group in optimizer.param_groups] == [None, True]


def one_cycle(max_lr):
    return {"type": "OneCycleLR", "args": {"max_lr": max_lr}, "interval": "step"}


def scheduled(config):
    parser = ConfigParser(config)
    optimizer = init_optimizer(parser, parser.init_obj("arch", tiny))
    init_scheduler(parser, optimizer, 9)
    return [group["max_lr"] for group in optimizer.param_groups]


def test_one_rate_for_all_does_not_overwrite_those_of_groups(tmp_path):
    with pytest.raises(ConfigError, match=r"groups\.1\.lr: .*give max_lr as a list") as caught:
        scheduled(settings(tmp_path, lr_scheduler=one_cycle(0.01)))
    in_full = {**one_cycle(0.01), "type": "torch.optim.lr_scheduler.OneCycleLR"}
    with pytest.raises(ConfigError, match=r"groups\.1\.lr: .*follows OneCycleLR"):
        scheduled(settings(tmp_path, lr_scheduler=in_full))
    assert "follows OneCycleLR" in str(caught.value)
    each = [0.01, 0.01, 0.003]
    assert scheduled(settings(tmp_path, lr_scheduler=one_cycle(each))) == each
    assert scheduled(settings(tmp_path, GROUPS[:1], lr_scheduler=one_cycle(0.01))) == [0.01, 0.01]


def makes_one(parameters, lr=0.1):
    return torch.optim.SGD(parameters, lr)


def test_a_function_makes_its_groups_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "makes_one", makes_one, raising=False)
    config = settings(tmp_path)
    for groups in (GROUPS, []):
        config["optimizer"] = {"type": "makes_one", "groups": groups}
        parser = ConfigParser(config)
        model = parser.init_obj("arch", tiny)
        if not groups:
            init_optimizer(parser, model, tiny)
            continue
        with pytest.raises(ConfigError, match="which makes its groups itself: leave them out"):
            init_optimizer(parser, model, tiny)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1}, r"optimizer\.groups\.0 \(AdamW\): ValueError: Invalid learning rate: -1"),
        ({"weight_decay": -1}, r"groups\.0 \(AdamW\): ValueError: Invalid weight_decay value: -1"),
        ({"betas": [0.9, 1.5]}, r"groups\.0 \(AdamW\): ValueError: Invalid beta parameter"),
    ],
)
def test_values_that_the_optimizer_refuses_are_refused_in_a_group(tmp_path, options, message):
    """Torch looks at them in the constructor's arguments alone."""
    with pytest.raises(ConfigError, match=message):
        tiny.as_train_py(settings(tmp_path, [{"params": ["fc2.*"], **options}]))
    assert not list(tmp_path.iterdir())


class Prodded(torch.optim.SGD):
    """An optimizer that knows more of a group than its constructor takes."""


def test_a_word_that_an_optimizer_may_not_look_for_is_told(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Prodded, "__module__", "tiny")
    monkeypatch.setattr(tiny, "Prodded", Prodded, raising=False)
    config = settings(tmp_path, [{"params": ["*.bias"], "prod": 2}], trainer__verbosity=1)
    config["optimizer"] = {**config["optimizer"], "type": "Prodded"}
    config["trainer"]["epochs"] = 1
    tiny.as_train_py(config).train()
    said = "optimizer group 0: 'prod' is no argument of Prodded: it counts only if"
    assert said in capfd.readouterr().out
