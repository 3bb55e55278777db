"""Several validation or test sets by name: each has its own numbers."""

import json

import pytest
import torch

import test as module_test
import tiny
from machinery.config.source import Source
from machinery.config.trust import check_foreign
from machinery.errors import CheckpointError, ConfigError
from machinery.update.schedule import step_scheduler
from machinery.update.watching import Monitor
from parse_config import ConfigParser
from tiny import interrupted

FEW = {"type": "TinyLoader", "args": {"n": 31, "validation_split": 0.0, "shuffle": False}}
MANY = {"type": "TinyLoader", "args": {"n": 47, "validation_split": 0.0, "shuffle": False}}
SETS = {"few": FEW, "many-2": MANY}


def settings(folder, **changes):
    whole = {"valid_data_loader": SETS, "trainer__monitor": "max val_many-2_accuracy"}
    return tiny.settings(folder, **{**whole, **changes})


def build(config, **kwargs):
    parser = config
    if not isinstance(config, ConfigParser):
        parser = ConfigParser(config, resume=kwargs.pop("resume", None))
    loaders = parser.init_obj("valid_data_loader", tiny.HERE)
    return tiny.build(parser, valid_data_loader=loaders, **kwargs)


def train(config, **kwargs):
    trainer = build(config, **kwargs)
    trainer.train()
    return trainer


def test_each_set_has_its_own_numbers(tmp_path):
    trainer = train(settings(tmp_path))
    assert list(trainer.valid_data_loader) == ["few", "many-2"]
    header, *rows = tiny.rows(trainer)
    row = dict(zip(header, rows[-1], strict=True))
    for name, loader in trainer.valid_data_loader.items():
        alone = trainer.evaluate(loader, trainer._tracker())
        for metric, value in alone.items():
            assert float(row[f"val_{name}_{metric}"]) == value
    assert "val_loss" not in row
    tracker = trainer._tracker()
    trainer.evaluate(trainer.valid_data_loader, tracker)
    assert tracker.samples_everywhere() == 31 + 47
    assert trainer.monitor.best_epoch > 0
    held = trainer._held().parts
    assert not [name for name in held if "loader" in name]


@pytest.mark.parametrize("after", [5, 11])
def test_a_run_that_is_stopped_in_a_validation_goes_on(tmp_path, after):
    whole = train(settings(tmp_path / "a"))
    config = settings(tmp_path / "b")
    parser = ConfigParser(config)
    loaders = parser.init_obj("valid_data_loader", tiny.HERE)
    path = interrupted(parser, after, in_validation=True, valid_data_loader=loaders)
    assert tiny.rows(train(config, resume=path)) == tiny.rows(whole)


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"a b": FEW}, r'valid_data_loader.a b: expected a name of letters, digits, "_" and "-"'),
        (
            {"a": {"type": "TinyLoader", "arg": {}}},
            r"valid_data_loader.a.arg is unknown: did you mean 'args'\?",
        ),
        ({"a": {"args": {}}, "b": FEW}, r"valid_data_loader.a is no component"),
        ({"a": {"type": "TinyLoder"}}, r"valid_data_loader.a: .* no data loader 'TinyLoder'"),
        ({"a": {"type": "TinyLoader", "args": {"m": 3}}}, r"valid_data_loader.a.args.m: TinyLo"),
    ],
)
def test_a_mistake_is_told_where_it_is(tmp_path, sets, message):
    with pytest.raises(ConfigError, match=message):
        ConfigParser(tiny.settings(tmp_path, valid_data_loader=sets)).init_obj(
            "valid_data_loader", tiny.HERE
        )


def test_the_training_data_is_one(tmp_path):
    with pytest.raises(ConfigError, match=r"data_loader.few is unknown|data_loader"):
        ConfigParser(tiny.settings(tmp_path, data_loader=SETS)).init_obj("data_loader", tiny.HERE)


def test_a_number_that_no_set_has_is_told_with_those_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"'val_loss' \(each validation set has its own\); there"):
        build(settings(tmp_path, trainer__monitor="min val_loss"))
    loss = {"type": "accuracy", "name": "few_loss"}
    with pytest.raises(ConfigError, match="the name 'val_few_loss' is taken"):
        both = {"few": FEW, "very_few": FEW}
        metrics = [{"type": "accuracy", "name": "val_few_loss"}, loss]
        build(settings(tmp_path, valid_data_loader=both, metrics=metrics))


def test_samples_that_nobody_sees_are_told(tmp_path, capfd):
    build(settings(tmp_path))  # TinyLoader holds out a fifth by itself
    assert "validation_split holds out samples that nobody sees" in capfd.readouterr().out
    build(settings(tmp_path, data_loader__args={"validation_split": 0}))
    assert "nobody sees" not in capfd.readouterr().out


def test_a_set_may_be_switched_off(tmp_path):
    sets = {"few": FEW, "many-2": None}
    config = settings(tmp_path, valid_data_loader=sets, trainer__monitor="min val_few_loss")
    parser = ConfigParser(config)
    assert list(parser.init_obj("valid_data_loader", tiny.HERE)) == ["few"]
    source = Source.of(config, name="a.pth")
    check_foreign(source, trains=False, new_run=False, unused=())


def test_sets_whose_numbers_would_have_one_name_are_refused(tmp_path):
    metrics = [{"type": "accuracy", "name": "few_loss"}]
    config = settings(tmp_path, valid_data_loader={"a": FEW, "a_few": FEW}, metrics=metrics)
    with pytest.raises(ConfigError, match="the name 'val_a_few_loss' is taken"):
        build({**config, "trainer": {**config["trainer"], "monitor": "off"}})


def test_a_base_is_laid_below(tmp_path):
    base = tmp_path / "base.json"
    base.write_text(json.dumps(tiny.settings(tmp_path, valid_data_loader=FEW)))
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"base": "base.json", "valid_data_loader": SETS}))
    assert ConfigParser(own)["valid_data_loader"] == SETS
    base.write_text(json.dumps(tiny.settings(tmp_path, valid_data_loader=SETS)))
    own.write_text(
        json.dumps({"base": "base.json", "valid_data_loader": {"few": {"args": {"n": 9}}}})
    )
    merged = ConfigParser(own)["valid_data_loader"]
    assert merged["few"]["args"]["n"] == 9 and merged["many-2"] == MANY
    own.write_text(json.dumps({"base": "base.json", "valid_data_loader": FEW}))
    assert ConfigParser(own)["valid_data_loader"] == FEW


def test_a_checkpoint_s_sets_may_not_reach_out(tmp_path):
    part = {"type": "torchvision.ops.x", "args": {}}
    fetching = {"type": "transformers.Fetch", "args": {}}
    for sets in ({"a": part, "b": fetching}, {"a": {**FEW, "args": {"data_dir": "/no/where/x"}}}):
        source = Source.of(tiny.settings(tmp_path, valid_data_loader=sets), name="a.pth")
        with pytest.raises(CheckpointError, match=r"valid_data_loader\.(b|a\.args\.data_dir)"):
            check_foreign(source, trains=False, new_run=False, unused=())


def test_a_plateau_that_nothing_is_said_of_follows_the_first_set():
    seen = []

    class Plateau(torch.optim.lr_scheduler.ReduceLROnPlateau):
        def __init__(self):
            pass

        def step(self, value):
            seen.append(value)

    off = Monitor("off", None)
    log = {"loss": 3.0, "val_few_loss": 2.0, "val_many_loss": 1.0}
    step_scheduler(Plateau(), log, off, "loss")
    step_scheduler(Plateau(), {"loss": 3.0}, off, "loss")
    step_scheduler(Plateau(), {"loss": 3.0, "val_loss": 4.0}, off, "loss")
    step_scheduler(Plateau(), {"total": 3.0, "val_total": 5.0, "val_aux_loss": 1.0}, off, "total")
    step_scheduler(Plateau(), {"loss": 3.0, "val_a-b_loss": 6.0}, off, "loss")
    assert seen == [2.0, 3.0, 4.0, 5.0, 6.0]


@pytest.mark.parametrize("split", ["valid", "test"])
def test_test_py_and_tools_take_them(tmp_path, monkeypatch, split):
    from tools.trained import evaluation_loader, split_of

    config = ConfigParser(settings(tmp_path, test_data_loader=SETS))
    config.launch.args.bs = 5
    module_test._set_batch_size(config)
    loaders = {
        "valid": lambda: module_test.valid_loader(config, tiny.HERE),
        "test": lambda: module_test.test_loader(config, tiny.HERE),
    }[split]()
    assert [loader.batch_size for loader in loaders.values()] == [5, 5]
    monkeypatch.setattr("tools.trained.module_data", tiny.HERE)
    assert evaluation_loader(config, f"{split}.few").n_samples == {"valid": 31, "test": 25}[split]
    with pytest.raises(ConfigError, match=rf"several sets: {split}.few, {split}.many-2"):
        evaluation_loader(config, split)
    assert split_of(("test", "valid"), f"{split}.few") == f"{split}.few"
