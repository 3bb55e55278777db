"""Configs: what is read, merged, checked and refused, with the words of the errors."""

import json
import re
import sys
import types

import pytest
import torch

import tiny
from base import BaseTrainer
from machinery.config.components import find
from machinery.config.json_text import parse as parse_json
from machinery.config.source import Source, leaves
from machinery.errors import ConfigError
from machinery.files import shown_command
from parse_config import ConfigParser, CustomArgs
from projects import ROOT

CONFIG = json.loads((ROOT / "config.json").read_text())


def write(folder, text, name="config.json"):
    path = folder / name
    path.write_text(text if isinstance(text, str) else json.dumps(text, indent=4), encoding="utf-8")
    return path


def parse(folder, text):
    return ConfigParser(Source.read(write(folder, text)))


def error(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    return str(caught.value)


def test_values_are_those_that_the_user_wrote(tmp_path):
    config = {
        **changed(trainer__early_stop=...),
        "comment": "mine",
        "optimizer_D": {"type": "SGD"},
        "my_loss": "x",
    }
    config = parse(tmp_path, config)
    assert "accumulate" not in config["trainer"] and "valid_data_loader" not in config
    assert config["trainer"].get("early_stop", 7) == 7 and config.settings.trainer.accumulate == 1
    assert config["comment"] == "mine" and "optimizer_D" in config and "arch2" not in config
    assert type(config["trainer"]) is dict


def test_reading_writes_nothing(tmp_path):
    ConfigParser(tiny.settings(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "config.json:1:1: the file is empty: a config is an object in braces { … }"),
        ("[1]", "config.json:1:1: a config is an object in braces { … }, found a list"),
        ("// nothing", "config.json:1:1: the file is empty"),
        ("{,}", "config.json:1:2: a comma, but no value before it"),
        ('{"a": [1,,]}', "config.json:1:10: a comma, but no value before it"),
        ('{"a":,}', "config.json:1:6: a comma, but no value before it"),
        ('{"a": "C:\\data"}', "config.json:1:10: a backslash in a string is written twice"),
        ('{"a": 1 "b": 2}', "config.json:1:9: Expecting ',' delimiter"),
        (
            '{"a": 1,\n "a": 2}',
            "config.json:2:2: the key 'a' is there twice (first at config.json:1:2)",
        ),
        ('{\n"a": NaN}', "config.json:2:6: NaN is no JSON number"),
        ('{"a": -Infinity}', "config.json:1:7: -Infinity is no JSON number"),
        ('{"a": True}', "config.json:1:7: write true, false and null, not True, False and None"),
        ("{'a': 1}", "config.json:1:2: strings and keys stand in double quotes"),
        ("{\"a\": 'x'}", "config.json:1:7: strings and keys stand in double quotes"),
        ('{"a": 1 # note\n}', "config.json:1:9: comments begin with //"),
        ('{"a": 1 /* note\n}', "config.json:1:9: a comment that begins with /* ends with */"),
        ('{"a": 1 // note }', "config.json:1:18: the file ends too early"),
        ('{"a": /* x\n */ "b" // y\n 1}', "config.json:3:2: Expecting ',' delimiter"),
        ('{"a": ' + '"\\' * 50_000, "config.json:1:7: Unterminated string"),  # in no time
        ('{"a": ' + "/*" + "/* " * 50_000, "config.json:1:7: a comment that begins"),
        ('{"a": 1e-4, "b": .5}', "config.json:1:18: a number begins with a digit: 0.5"),
        ("name: Mine\nn_gpu: 0\n", "config.json:1:1: a config is JSON, an object in braces"),
        ('{"a": "x\ty"}', "config.json:1:9: Invalid control character at"),
        ('{"a": 1', "config.json:1:8: the file ends too early"),
        ('{"a":', "config.json:1:6: the file ends too early"),
        ('{"a" 1}', "config.json:1:6: Expecting ':' delimiter"),
        ('{"a": 1} x', "config.json:1:10: Extra data"),
        ('{"a": ' + "1" * 5000 + "}", "config.json: Exceeds the limit"),
        ('{"a": ' + "[" * 100_000, "config.json: nested too deeply"),
    ],
)
def test_slips_in_json(text, message):
    assert message in error(Source.parse, text, "config.json")


def test_comments_and_last_commas_are_as_people_write_them():
    text = """// of a run, }
{
  /* the first, ] */ "a": [1, 2, /* and, */ ], // ]
  "b//": {"c": "http://x/*y*/,]", "d\\"//": 3,
  }, // "e": 4,
}
// the end"""
    parsed = parse_json(text, "c")
    assert parsed.values == {"a": [1, 2], "b//": {"c": "http://x/*y*/,]", 'd"//': 3}}
    places = {(): "2:1", ("a",): "3:22", ("a", 1): "3:31", ("b//",): "4:3", ("b//", "c"): "4:11"}
    for path, place in places.items():
        assert parsed.origins[path] == f"c:{place}"


def test_several_slips_are_told_together():
    text = '{\n"a": NaN,\n"b": [1, {"b": -Infinity}],\n"b": [1]\n}'
    lines = error(Source.parse, text, "c").split("\n  ")
    assert [line.partition(": ")[0] for line in lines] == ["c:2:6", "c:3:16", "c:4:1"]


def test_files_that_are_no_text(tmp_path):
    assert "does not exist" in error(Source.read, tmp_path / "no.json") or "No such file" in error(
        Source.read, tmp_path / "no.json"
    )
    said = "is a folder: a config is a file; -r takes the folder of a run"
    assert said in error(Source.read, tmp_path)
    (tmp_path / "model_best.pth").write_bytes(b"PK\3\4\0\0\xff")
    said = "model_best.pth is no text: a config is JSON; -r takes a checkpoint"
    assert said in error(Source.read, tmp_path / "model_best.pth")
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf{}")
    assert Source.read(tmp_path / "bom.json").values == {}  # as of Windows' editors
    (tmp_path / "latin.json").write_bytes(b'{\n"a": "\xe9"}')
    assert "latin.json:2: the file is not UTF-8" in error(Source.read, tmp_path / "latin.json")


def test_json_agrees_with_the_standard_library():
    texts = [
        '{"a": [1, -2.5e3, "\\u00e9\\n", {"b": null}], "c": {}, "d": [], "e": true, "f": "x"}',
        '{"a\\"{": "}, \\\\", "\\u0041": [[], [[1]], {"x": {}}]}',
        (ROOT / "config.json").read_text(),
    ]
    for text in texts:
        source = Source.parse(text, "c")
        assert source.values == json.loads(text)
        for path, value in leaves(source.values):
            line, column = map(int, source.origins[path].split(":")[1:])
            rest = "\n".join(text.split("\n")[line - 1 :])[
                column - 1 :
            ]  # the key, or the item of a list
            key = json.dumps(path[-1], ensure_ascii=False) if isinstance(path[-1], str) else ""
            rest = rest if rest.startswith(key) else rest.replace("\\u0041", "A", 1)
            assert rest.startswith(key)
            assert json.JSONDecoder().raw_decode(rest[len(key) :].lstrip(": "))[0] == value


def changed(**changes):
    config = json.loads(json.dumps(CONFIG))
    for path, value in changes.items():
        target = config
        *keys, last = path.split("__")
        for key in keys:
            target = target[key]
        if value is ...:
            del target[last]
        else:
            target[last] = value
    return config


def test_keys_of_the_user_s_own_that_resemble_ours(capfd):
    own = {"speed": 3, "game": "go", "same": 1, "comment": "x", "optimizer_D": {"type": "Adam"}}
    config = ConfigParser(changed(**own, trainer__epoch=3, arch__arg={"a": 1}))
    assert (
        config["speed"] == 3
        and config["trainer"]["epoch"] == 3
        and config["arch"]["arg"] == {"a": 1}
    )
    told = capfd.readouterr().out.splitlines()
    assert [line for line in told if "beside" in line] == [
        "speed is a key of your own, beside seed",
        "game is a key of your own, beside name",
        "same is a key of your own, beside name",
        "arch.arg is a key of your own, beside args",
        "trainer.epoch is a key of your own, beside epochs",
    ]
    assert "speed is unknown: did you mean 'seed'?" in error(
        ConfigParser, changed(seed=..., speed=3)
    )


@pytest.mark.parametrize(
    "config, messages",
    [
        (changed(trainer__epochs="3"), ['trainer.epochs: expected a valid integer, found "3"']),
        (changed(trainer__epochs=True), ["trainer.epochs: expected a valid integer, found true"]),
        (
            changed(trainer__epochs=0),
            ["trainer.epochs: expected greater than or equal to 1, found 0"],
        ),
        (
            changed(trainer__clip_grad_norm=0),
            ["trainer.clip_grad_norm: expected greater than 0, found 0"],
        ),
        (
            changed(trainer__precision="bf"),
            ['trainer.precision: expected "fp32", "tf32", "bf16" or "fp16", found "bf"'],
        ),
        (
            changed(trainer__compile="block"),
            [
                'trainer.compile: expected false, true, "blocks", "reduce-overhead", '
                '"max-autotune" or "max-autotune-no-cudagraphs"'
            ],
        ),
        (changed(trainer=...), ["trainer is missing"]),
        (changed(trainer=[]), ["trainer: expected an object in braces, found a list"]),
        (
            changed(trainer__epochs=..., trainer__epoch=3),
            ["trainer.epoch is unknown: did you mean 'epochs'?"],
        ),
        (changed(trainer__early_stop=..., trainer__early_stopp=3), ["did you mean 'early_stop'?"]),
        (
            changed(trainer__save_dir=..., trainer__saveDir="x"),
            ["trainer.saveDir is unknown: did you mean 'save_dir'"],
        ),
        (
            changed(optimizer=..., optimiser={"type": "SGD"}),
            ["optimiser is unknown: did you mean 'optimizer'?"],
        ),
        (changed(arch=..., Arch={"type": "X"}), ["Arch is unknown: did you mean 'arch'?"]),
        (changed(arch__args=..., arch__arg={}), ["arch.arg is unknown: did you mean 'args'?"]),
        (
            changed(lr_scheduler__interval="batch"),
            ["lr_scheduler.interval: expected", 'found "batch"'],
        ),
        (
            changed(trainer__monitor="val_loss"),
            ['trainer.monitor: expected "min NAME" or "max NAME", a number of the log', 'or "off"'],
        ),
        (changed(trainer__precision="fp64"), ["trainer.precision: expected"]),
        (changed(trainer__clip_grad_norm=0), ["trainer.clip_grad_norm: expected greater than 0"]),
        (changed(trainer__keep_last=1), ["trainer.keep_last: expected greater than or equal to 2"]),
        (changed(name="a/b"), ["name: expected"]),
        (changed(metrics="accuracy"), ["metrics: expected a valid list"]),
        (
            changed(metrics=[{"typ": "accuracy"}]),
            ["metrics.0.typ is unknown: did you mean 'type'?"],
        ),
        (changed(loss=3), ["loss"]),
        (changed(seed=-1), ["seed: expected greater than or equal to 0"]),
        (
            changed(seed=0.5, n_gpu="1"),
            ["seed: expected a valid integer", "n_gpu: expected a valid integer"],
        ),
    ],
)
def test_types_bounds_and_unknown_keys(tmp_path, config, messages):
    text = error(parse, tmp_path, config)
    for message in messages:
        assert message in text
    assert "config.json:" in text
    assert "pydantic" not in text


def test_an_error_names_line_and_column(tmp_path):
    text = '{\n  "name": 5,\n' + json.dumps({k: v for k, v in CONFIG.items() if k != "name"})[1:]
    assert f"{tmp_path}/config.json:2:3: name: expected a valid string, found 5" in error(
        parse, tmp_path, text
    )


def test_components_are_found_by_their_public_names(tmp_path):
    import model.model as module_arch

    def build(name, module, **changes):
        return error(parse(tmp_path, changed(**changes)).init_obj, name, module)

    assert "did you mean 'MnistModel'?\n  there are: " in build(
        "arch", module_arch, arch__type="MnistModl"
    )
    for bad in ("os", "nn", "F", "BaseModel", "__import__", "torch"):
        assert f"has no model {bad!r}" in build("arch", module_arch, arch__type=bad)
    for bad in (
        "os.system",
        "nn.Linear",
        "machinery.files.write_json",
        "tools.migrate.main",
        "..model.X",
        "model.X",
        "train.X",
    ):
        assert "there is no module" in build("arch", module_arch, arch__type=bad)
    assert "model.model has no model 'X'" in build("arch", module_arch, arch__type="model.model.X")
    # What a module has imported is not for a config to call, and a trainer is a class.
    imported = "examples.ema.unwrap"
    assert "has no model 'unwrap'" in build("arch", module_arch, arch__type=imported)
    for wrong in (imported, "model.loss.nll_loss", "examples.lbfgs.model.SoftmaxRegression"):
        with pytest.raises(ConfigError, match="has no trainer"):
            find((module_arch,), wrong, Source({}), ("trainer", "type"), BaseTrainer)
    for bad in ("lr_scheduler", "Optimizer", "Adam ", "adam"):
        assert f"has no optimizer {bad!r}" in build("optimizer", torch.optim, optimizer__type=bad)
    assert "did you mean 'Adam'?" in build("optimizer", torch.optim, optimizer__type="adam")


def test_arguments_are_bound_before_anything_is_built(tmp_path):
    import model.model as module_arch

    parser = parse(tmp_path, changed(arch__args={"num_clases": 3, "width": 1}))
    text = error(parser.init_obj, "arch", module_arch)
    assert (
        "arch.args.num_clases: MnistModel has no argument 'num_clases': did you mean 'num_classes'?"
        in text
    )
    assert "arch.args.width: MnistModel has no argument 'width' (it takes num_classes)" in text
    parser = parse(tmp_path, changed(optimizer__type="SGD", optimizer__args={"params": 1}))
    text = error(parser.init_obj, "optimizer", torch.optim, [torch.zeros(1)])
    assert "the program gives SGD its params: leave it out" in text


def test_an_error_in_a_constructor_names_the_place_and_the_users_line(tmp_path):
    import model.model as module_arch

    parser = parse(tmp_path, changed(arch__args={"num_classes": -3}))
    text = error(parser.init_obj, "arch", module_arch)
    assert (
        "arch (MnistModel)" in text
        and "model/model.py:" in text
        and "self.fc2 = nn.Linear(50, num_classes)" in text
    )
    parser = parse(tmp_path, changed(optimizer__args={"lr": -1}))
    text = error(parser.init_obj, "optimizer", torch.optim, [torch.zeros(1, requires_grad=True)])
    assert "optimizer (Adam): ValueError: Invalid learning rate: -1" in text and "\n" not in text


def test_losses_and_metrics_take_arguments_and_names(tmp_path):
    import model.metric as module_metric

    metrics = [
        "accuracy",
        {"type": "top_k_acc", "args": {"k": 2}, "name": "top2"},
        {"type": "top_k_acc"},
    ]
    functions = parse(tmp_path, changed(metrics=metrics)).init_ftns("metrics", module_metric)
    assert [function.__name__ for function in functions] == ["accuracy", "top2", "top_k_acc"]
    scores = torch.tensor([[0.5, 0.3, 0.2]])
    assert functions[1](scores, torch.tensor([2])).item() == 0
    twice = parse(tmp_path, changed(metrics=["accuracy", {"type": "accuracy"}]))
    assert "metrics.1: there are two 'accuracy'" in error(twice.init_ftns, "metrics", module_metric)


def test_lists_serve_as_tuples(tmp_path):
    parser = parse(tmp_path, changed(optimizer__args={"lr": 0.1, "betas": [0.8, 0.9]}))
    optimizer = parser.init_obj("optimizer", torch.optim, [torch.zeros(1, requires_grad=True)])
    optimizer.step()
    assert list(optimizer.param_groups[0]["betas"]) == [0.8, 0.9]


def test_an_optional_component_is_none(tmp_path):
    parser = parse(tmp_path, changed(lr_scheduler=None))
    assert parser.init_obj("lr_scheduler", torch.optim.lr_scheduler, None) is None
    assert parser.init_obj("generator", torch.optim) is None


def test_base_merges_objects_and_replaces_the_rest(tmp_path):
    (tmp_path / "sub").mkdir()
    write(tmp_path, CONFIG)
    write(
        tmp_path,
        {"base": "config.json", "optimizer": {"type": "SGD", "args": {"lr": 1}}},
        "middle.json",
    )
    top = {
        "base": "../middle.json",
        "trainer": {"epochs": 4},
        "metrics": [],
        "lr_scheduler": None,
        "seed": "x",
    }
    # Another trainer has the same keys.
    other = Source.read(
        write(tmp_path / "sub", {**top, "trainer": {"type": "Other"}}, "other.json")
    )
    assert other.values["trainer"] == {**CONFIG["trainer"], "type": "Other"}
    source = Source.read(write(tmp_path / "sub", top, "top.json"))
    assert source.values["optimizer"] == {
        "type": "SGD",
        "args": {"lr": 1},
    }  # another type: nothing of Adam's is left
    assert source.values["trainer"] == {**CONFIG["trainer"], "epochs": 4}
    assert source.values["metrics"] == [] and source.values["lr_scheduler"] is None
    assert "base" not in source.values
    assert source.where(("trainer", "epochs")).endswith("sub/top.json:4:9")
    assert "middle.json:" in source.where(("optimizer", "args", "lr"))
    assert "config.json:" in source.where(("trainer", "save_dir"))
    assert "sub/top.json:8:5: seed: expected a valid integer" in error(ConfigParser, source)


def test_a_base_that_goes_in_a_circle_or_nowhere(tmp_path):
    write(tmp_path, {"base": "b.json"}, "a.json")
    write(tmp_path, {"base": "a.json"}, "b.json")
    assert "inherits from itself: a.json -> b.json -> a.json" in error(
        Source.read, tmp_path / "a.json"
    )
    path = write(tmp_path, {"base": "none.json"}, "c.json")
    assert "none.json cannot be read: No such file" in error(Source.read, path)


def from_args(monkeypatch, *arguments, options=(), **kwargs):
    import argparse

    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    return ConfigParser.from_args(argparse.ArgumentParser(), options, **kwargs)


def test_set_overrides_any_key(tmp_path, monkeypatch):
    path = write(tmp_path, CONFIG)
    settings = [
        "trainer.epochs=3",
        "arch.args.num_classes=4",
        "metrics.1.args.k=5",
        "trainer.monitor=max val_accuracy",
    ]
    settings += [
        "lr_scheduler=null",
        "trainer.len_epoch=7",
        "data_loader.args.drop_last=true",
        "name=1e",
        "seed=7",
    ]
    config = from_args(monkeypatch, "-c", path, *[word for s in settings for word in ("--set", s)])
    assert config["trainer"]["epochs"] == 3 and config["arch"]["args"] == {"num_classes": 4}
    assert (
        config["metrics"][1]["args"] == {"k": 5}
        and config["trainer"]["monitor"] == "max val_accuracy"
    )
    assert config["lr_scheduler"] is None and config["trainer"]["len_epoch"] == 7
    assert (
        config["data_loader"]["args"]["drop_last"] is True
        and config["name"] == "1e"
        and config["seed"] == 7
    )


@pytest.mark.parametrize(
    "setting, message",
    [
        (
            "trainer.epoch=3",
            "trainer.epoch is neither in the config nor a known key: did you mean trainer.epochs?",
        ),
        ("trainer.epochs", "expected KEY=VALUE"),
        (
            "trainer.epochs=x",
            '(--set trainer.epochs): trainer.epochs: expected a valid integer, found "x"',
        ),
        ("metrics.9=x", "metrics.9: the list has 2 items"),
        ("metrics.0.acc=1", "metrics.0 is no section"),  # a name is none, whatever it contains
        ("name.x=1", "name is no section"),
        ("trainer.x.y=1", "trainer.x is no section"),
        ("trainer.epochs.x=1", "trainer.epochs is no section of the config\n"),
    ],
)
def test_set_refuses(tmp_path, monkeypatch, setting, message):
    path = write(tmp_path, CONFIG)
    assert message in error(from_args, monkeypatch, "-c", path, "--set", setting) + "\n"


def test_what_is_set_in_a_list_says_where_it_comes_from(tmp_path, monkeypatch):
    config = from_args(monkeypatch, "-c", write(tmp_path, CONFIG), "--set", "metrics.0=x")
    assert config.where("metrics", 0) == "command line (--set metrics.0)"
    assert "config.json" in config.where("metrics", 1)


def test_the_launch_knows_the_script_that_was_started(tmp_path, monkeypatch):
    path = write(tmp_path, CONFIG)
    monkeypatch.chdir(tmp_path)
    assert from_args(monkeypatch, "-c", path).launch.script == tmp_path / "train.py"
    assert ConfigParser(CONFIG).launch.script == ROOT / "train.py"


def test_custom_options(tmp_path, monkeypatch):
    from collections import namedtuple

    Own = namedtuple("Own", "flags type target")  # as classic programs declare them
    path = write(tmp_path, CONFIG)
    options = [
        Own(["--lr", "--learning_rate"], float, ("optimizer", "args", "lr")),
        Own(["--ep"], int, "trainer;epochs"),
    ]
    config = from_args(monkeypatch, "-c", path, "--learning_rate", "0.5", options=options)
    assert (
        config["optimizer"]["args"]["lr"] == 0.5
        and config["trainer"]["epochs"] == CONFIG["trainer"]["epochs"]
    )
    assert (
        from_args(monkeypatch, "-c", path, "--ep", "9", options=options)["trainer"]["epochs"] == 9
    )
    wrong = [Own(["--lr"], float, "optimizer;arg;lr")]
    assert "command line (optimizer.arg.lr)" in error(
        lambda: from_args(monkeypatch, "-c", path, "--lr", "1", options=wrong)
    )


@pytest.mark.parametrize(
    ("word", "value"), [("False", False), ("no", False), ("0", False), ("true", True), ("ON", True)]
)
def test_an_option_that_is_a_bool_takes_a_word_for_it(tmp_path, monkeypatch, word, value):
    options = [CustomArgs(["--shuffle"], type=bool, target="data_loader;args;shuffle")]
    path = write(tmp_path, CONFIG)
    config = from_args(monkeypatch, "-c", path, "--shuffle", word, options=options)
    assert config["data_loader"]["args"]["shuffle"] is value
    with pytest.raises(SystemExit):
        from_args(monkeypatch, "-c", path, "--shuffle", "maybe", options=options)


def test_a_partial_config_for_fine_tuning_suggests_base(tmp_path, monkeypatch):
    state = tmp_path / "weights.pth"
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    state = next(trainer.checkpoint_dir.glob("checkpoint-*.pth"))
    path = write(tmp_path, {"optimizer": {"type": "SGD", "args": {"lr": 1}}})
    text = error(lambda: from_args(monkeypatch, "-c", path, "-r", state, partial=False))
    assert 'name is missing; a config that has it may be its "base"' in text
    path = write(
        tmp_path,
        {"name": "x", "trainer": {"epochs": 1}, "optimizer": {"type": "SGD", "args": {"lr": 1}}},
    )
    config = from_args(monkeypatch, "-c", path, "-r", state, partial=False)
    text = error(lambda: config.check(arch=tiny, data_loader=tiny, optimizer=torch.optim))
    assert all(
        f'{name} is missing; a config that has it may be its "base"' in text
        for name in ("arch", "data_loader")
    )


def test_what_the_classic_template_asks_for_is_all_that_is_needed(tmp_path):
    config = parse(
        tmp_path,
        {"name": "x", "trainer": {"save_dir": "saved/"}, "lr_scheduler": {}, "arch": {"args": {}}},
    )
    assert config.init_obj("lr_scheduler", torch.optim.lr_scheduler) is None
    assert config.init_obj("data_loader", tiny) is None and config.init_ftn("loss", tiny) is None
    assert "arch is no component" in error(lambda: config.init_obj("arch", tiny))
    config = tiny.settings(tmp_path)
    del config["trainer"]["epochs"]
    assert "trainer.epochs is missing" in error(lambda: tiny.build(config))
    assert not [*tmp_path.glob("models*")]


def test_a_component_may_be_the_trainer(tmp_path):
    config = ConfigParser(
        tiny.settings(tmp_path, trainer__type="OwnTrainer", trainer__args={"size": 3})
    )
    module = types.ModuleType("own")
    module.OwnTrainer = lambda model, size: (model, size)
    assert config.init_obj("trainer", module, "model") == ("model", 3)


def test_places_in_long_configs_are_found_at_once():
    lines = ",\n".join(f'"key{i}": {i}' for i in range(20_000))
    source = Source.parse("{\n" + lines + "\n}", "long.json")
    assert source.where(("key19999",)) == "long.json:20001:1"


def test_deep_json_stops_nobody(tmp_path):
    from machinery.files import read_json

    (tmp_path / "status.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "status.json")
    config = tiny.command_line("-c", written(tmp_path), "--set", "arch.args.width=" + "[" * 50_000)
    assert config["arch"]["args"]["width"].startswith("[[")  # no JSON: a text


def written(folder):
    (folder / "c.json").write_text(json.dumps(tiny.settings(folder)))
    return folder / "c.json"


@pytest.mark.parametrize("inside", ["x", [], {"x": 1}])
def test_a_config_that_no_checkpoint_could_be_read_back_with_is_refused(tmp_path, inside):
    for _ in range(200):
        inside = [inside]
    with pytest.raises(ConfigError, match=r"mine: nested too deeply"):
        ConfigParser(tiny.settings(tmp_path, mine=inside))


def test_a_key_that_is_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected a valid string"):
        ConfigParser({**tiny.settings(tmp_path), "\ud800": 1})


def test_a_learning_rate_of_hundreds_of_digits(tmp_path):
    with pytest.raises(ConfigError, match=r"makes learning rates of inf|Adam takes lr as"):
        tiny.build(tiny.settings(tmp_path, optimizer__args={"lr": 10**400}))


@pytest.mark.parametrize(
    "path", ["optimizer.args.lr", "optimizer;args;lr", ("optimizer", "args", "lr")]
)
def test_a_program_sets_keys_by_paths_of_any_form(tmp_path, path):
    config = ConfigParser(tiny.settings(tmp_path), modification={path: 0.5})
    assert config["optimizer"]["args"]["lr"] == 0.5
    assert config.where("optimizer", "args", "lr") == "modification (optimizer.args.lr)"
    for odd in (3, ()):
        with pytest.raises(ConfigError, match=r"^modification: .* is no path of keys, such as "):
            ConfigParser(tiny.settings(tmp_path), modification={odd: 1})
    wrong = {"trainer.epochs": "x", "seed": None}
    with pytest.raises(ConfigError, match=r"^modification \(trainer\.epochs\): trainer\.epochs: "):
        ConfigParser(tiny.settings(tmp_path), modification=wrong)


def test_commands_for_a_notebook_are_for_a_cell_of_it(tmp_path, monkeypatch):
    command = shown_command(tmp_path / "it's.py", "-r", tmp_path / "run")
    monkeypatch.setitem(sys.modules, "ipykernel", sys)
    assert shown_command(tmp_path / "it's.py", "-r", tmp_path / "run") == f"!{command}"


def test_an_object_for_the_trainer_keeps_what_it_does_not_say(tmp_path):
    settings = tiny.settings(tmp_path)
    config = ConfigParser(settings, modification={"trainer": {"epochs": 2, "ema": 0.9}})
    assert config["trainer"] == {**settings["trainer"], "epochs": 2, "ema": 0.9}
    with pytest.raises(ConfigError, match=r"trainer\.epoch is neither .*mean trainer\.epochs\?"):
        ConfigParser(settings, modification={"trainer": {"epoch": 2}})
    # Another optimizer has other arguments.
    other = {"type": "SGD", "args": {"lr": 0.5}}
    assert ConfigParser(settings, modification={"optimizer": other})["optimizer"] == other


def test_what_is_wrong_in_a_section_that_was_null_is_told_where_it_was_made(tmp_path):
    made = {"lr_scheduler.type": "StepLR"}
    config = ConfigParser(tiny.settings(tmp_path, lr_scheduler=None), modification=made)
    with pytest.raises(ConfigError, match=r"^modification \(lr_scheduler\.type\): .* needs 'step_"):
        config.check(lr_scheduler=torch.optim.lr_scheduler)


def test_a_slip_in_the_name_of_a_module_is_told(tmp_path):
    config = ConfigParser(tiny.settings(tmp_path, arch={"type": "model.modell.MnistModel"}))
    with pytest.raises(ConfigError) as caught:
        config.check(arch=tiny)
    (meant,) = re.findall(r"did you mean (\S+)\?", str(caught.value))
    right = ConfigParser(tiny.settings(tmp_path, arch={"type": f"{meant}.MnistModel"}))
    assert right.init_obj("arch", tiny) is not None
