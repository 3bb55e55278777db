"""Parts of installed packages have their full names: only those of the section's kind, of packages
on the list; and a checkpoint's config gets nothing from the network without the user's word."""

import json
import re
import shlex
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import model
import tiny
from machinery.checkpoints import file as checkpoint
from machinery.checkpoints.run_folder import newest_whole
from machinery.config import installed, trust
from machinery.config.arguments import with_tensors
from machinery.config.components import KINDS
from machinery.config.source import Source
from machinery.config.trust import check_foreign
from machinery.errors import CheckpointError, ConfigError
from machinery.update.runtime import unwrap
from parse_config import ConfigParser
from projects import copy_template, quick

#: An installed package.
CODE = """
import os

import torch
from torch import nn


class Net(nn.Linear):
    def __init__(self, features: int = 6):
        super().__init__(features, 3)


def made(features: int = 6) -> Net:
    return Net(features)


def unannotated(features=6):
    return Net(features)


def a_number() -> int:
    return 3


class Hidden:
    def __call__(self, output, target):
        raise AssertionError


def remove(output, target):
    os.remove("all")


_private = Net
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that the project has added to the list."""
    (tmp_path / "sideboard.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(model, "PACKAGES", ("sideboard",))
    yield
    sys.modules.pop("sideboard", None)


def linear(path, **changes):
    """Settings of a network, a loss, an optimizer and a schedule of torch by their full names."""
    arch = {"type": "torch.nn.Linear", "args": {"in_features": 6, "out_features": 3}}
    optimizer = {"type": "torch.optim.SGD", "args": {"lr": 0.1, "momentum": 0.9}}
    schedule = {"type": "torch.optim.lr_scheduler.StepLR", "args": {"step_size": 1}}
    named = {"arch": arch, "optimizer": optimizer, "lr_scheduler": schedule}
    return tiny.settings(path, **{**named, "loss": "torch.nn.CrossEntropyLoss", **changes})


def test_a_run_of_full_names_is_the_run_of_short_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "Linear", nn.Linear, raising=False)
    monkeypatch.setattr(tiny, "cross_entropy_loss", F.cross_entropy, raising=False)
    full = tiny.train(linear(tmp_path / "full"))
    optimizer = {"type": "SGD", "args": {"lr": 0.1, "momentum": 0.9}}
    short = linear(
        tmp_path / "short",
        arch={"type": "Linear", "args": {"in_features": 6, "out_features": 3}},
        optimizer=optimizer,
        lr_scheduler={"type": "StepLR", "args": {"step_size": 1}},
        loss="cross_entropy_loss",
    )
    weights = unwrap(tiny.train(short).model).state_dict()
    for name, value in unwrap(full.model).state_dict().items():
        assert torch.equal(value, weights[name])


def test_it_continues_exactly(tmp_path):
    whole = tiny.train(linear(tmp_path / "whole", trainer__epochs=3))
    part = tiny.train(linear(tmp_path / "part", trainer__epochs=2))
    newest = newest_whole(part.checkpoint_dir)[0]
    again = tiny.train(linear(tmp_path / "part", trainer__epochs=3), resume=newest)
    weights = unwrap(whole.model).state_dict()
    for name, value in unwrap(again.model).state_dict().items():
        assert torch.equal(value, weights[name])


def test_metrics_and_losses_that_are_functions(tmp_path):
    loss = {"type": "torch.nn.functional.cross_entropy", "args": {"label_smoothing": 0.1}}
    trainer = tiny.train(linear(tmp_path, loss=loss, trainer__epochs=1))
    assert trainer.criterion.func is F.cross_entropy
    pytest.importorskip("torchmetrics")
    f1 = {"type": "torchmetrics.classification.MulticlassF1Score", "args": {"num_classes": 3}}
    trainer = tiny.train(linear(tmp_path, metrics=[{**f1, "name": "f1"}], trainer__epochs=1))
    assert [metric.__name__ for metric in trainer.metric_ftns] == ["f1"]


def test_networks_of_torchvision(tmp_path):
    arch = {"type": "torchvision.models.squeezenet1_1", "args": {"num_classes": 3}}
    config = ConfigParser(tiny.settings(tmp_path, arch=arch))
    assert type(config.init_obj("arch", tiny)).__name__ == "SqueezeNet"
    slip = {**arch, "args": {"num_clases": 3, "weights": "DEFAULT"}}
    config = ConfigParser(tiny.settings(tmp_path, arch=slip))
    config.check(arch=tiny)  # it passes others on, and weights are an enum's name
    wrong = {**arch, "args": {"weights": "DEFUALT"}}
    with pytest.raises(ConfigError, match=r"takes weights as Optional.*, found \"DEFUALT\""):
        ConfigParser(tiny.settings(tmp_path, arch=wrong)).check(arch=tiny)


def test_a_list_becomes_a_tensor_where_a_class_takes_one(tmp_path):
    loss = {"type": "torch.nn.CrossEntropyLoss", "args": {"weight": [1, 2, 0.5]}}
    trainer = tiny.train(linear(tmp_path, loss=loss, trainer__epochs=1))
    weight = torch.tensor([1, 2, 0.5])
    assert torch.equal(trainer.criterion.weight, weight)
    assert trainer.criterion.weight.dtype == torch.get_default_dtype()
    assert with_tensors(nn.CrossEntropyLoss, {"ignore_index": 3}) == {"ignore_index": 3}
    for wrong in ([True, False], ["a"], [], "a"):
        loss["args"] = {"weight": wrong}
        with pytest.raises(ConfigError, match="takes weight as"):
            ConfigParser(linear(tmp_path, loss=loss)).check(loss=tiny)
    loss["args"] = {"weight": [1, [2]]}
    with pytest.raises(ConfigError, match=r"loss \(torch.nn.CrossEntropyLoss\): "):
        ConfigParser(linear(tmp_path, loss=loss)).init_ftn("loss", tiny)
    function = {"type": "torch.nn.functional.cross_entropy", "args": {"weight": [1, 2]}}
    with pytest.raises(ConfigError, match="takes weight as"):  # it would stay on the CPU
        ConfigParser(linear(tmp_path, loss=function)).check(loss=tiny)


@pytest.mark.parametrize("name", ["sideboard.Net", "sideboard.made"])
def test_a_package_that_the_project_adds(tmp_path, package, name):
    trainer = tiny.train(linear(tmp_path, arch={"type": name}, trainer__epochs=1))
    assert type(unwrap(trainer.model)).__name__ == "Net"


#: A section, what it names, and what is said.
REFUSED = [
    ("arch", "sideboard.unannotated", "is no model: neither a Module nor a function annotated"),
    ("arch", "sideboard.a_number", "is no model"),
    ("arch", "sideboard.Nett", "has no model 'Nett': did you mean sideboard.Net?"),
    ("arch", "sideboard._private", "has no model '_private'"),
    ("arch", "sideboard.nn", "is no model"),
    ("arch", "sideboard.os.system", "there is no module sideboard.os"),
    ("loss", "sideboard.Hidden", "is no loss"),
    ("loss", "sideboard.remove", "is no loss"),
    ("metrics", "sideboard.remove", "is no metric"),
    ("optimizer", "sideboard.Net", "is no optimizer"),
    ("data_loader", "torchvision.datasets.FakeData", "is no data loader"),
    ("lr_scheduler", "torch.optim.SGD", "is no scheduler"),
    ("trainer.type", "torch.nn.Linear", "a trainer is the project's own"),
    ("arch", "torch.hub.load", "nothing of torch.hub may be named"),
    ("arch", "torch.jit.load", "nothing of torch.jit may be named"),
    ("loss", "torch.utils.cpp_extension.load", "nothing of torch.utils.cpp_extension may be"),
    ("loss", "torch.save", "is no loss"),
    ("loss", "torch.load", "is no loss"),
    ("loss", "torch.nn.functional.torch", "is no loss"),
    ("arch", "torch.nn._reduction.get_enum", "nothing of torch.nn._reduction may be named"),
    ("arch", "torch.nn.Module", "is no model"),
    ("arch", "torch..Linear", "there is no module 'torch.'"),
    ("arch", "Torch.nn.Linear", "did you mean torch?"),
    ("loss", "torch.nn.functional.handle_torch_function", "is no loss"),
    ("loss", "torch.nn.functional.boolean_dispatch", "is no loss"),
    ("arch", "os.system", "there is no module os in model, data_loader, trainer, examples, and os"),
    ("arch", "bookshelf.Net", r'PACKAGES = ("bookshelf",) in model/__init__.py adds it'),
    ("arch", "modle.model.Net", "did you mean model?"),
    ("loss", "metric.accuracy", "did you mean model.metric?"),
    ("arch", ".Net", "there is no module ''"),
    ("arch", "torch.nn.", "has no model ''"),
    ("arch", "torch.optim.sgdd.SGD", "there is no module torch.optim.sgdd"),
]


@pytest.mark.parametrize("section, name, said", REFUSED, ids=[row[1] for row in REFUSED])
def test_what_is_of_another_kind_is_refused(tmp_path, package, section, name, said):
    key = section.replace(".", "__")
    value = {"metrics": [name], "trainer.type": name}.get(section, {"type": name})
    config = ConfigParser(linear(tmp_path, **{key: value}))
    with pytest.raises(ConfigError, match=re.escape(said)):
        if section == "trainer.type":
            config.trainer_class(tiny, tiny.Trainer)
        config.check(**{section: tiny})


def test_rules_for_a_scheduler_hold_for_its_full_name(tmp_path):
    schedule = {"type": "torch.optim.lr_scheduler.OneCycleLR", "args": {"max_lr": 0.01}}
    config = linear(tmp_path, lr_scheduler=schedule)
    parser = ConfigParser(config, modification={"optimizer;args;lr": 0.5})
    with pytest.raises(ConfigError, match="the learning rate follows OneCycleLR"):
        tiny.init_optimizer_from(parser)


def test_what_it_suggests_helps(tmp_path, package):
    def said(name):
        config = ConfigParser(linear(tmp_path, arch={"type": name}))
        with pytest.raises(ConfigError) as caught:
            config.check(arch=tiny)
        return re.findall(r"did you mean (\S+)\?", str(caught.value))[0]

    for name in (said("sideboard.Nett"), f"{said('modle.model.MnistModel')}.model.MnistModel"):
        config = ConfigParser(linear(tmp_path, arch={"type": name}))
        assert config.init_obj("arch", tiny) is not None


@pytest.mark.parametrize(
    "section, name, meant",
    [
        ("arch", "resnet18", "torchvision.models.resnet18"),
        ("loss", "MSELoss", "torch.nn.MSELoss"),
        ("loss", "huber_loss", "torch.nn.functional.huber_loss"),
        ("metrics", "MulticlassF1Score", "torchmetrics.classification.MulticlassF1Score"),
        ("optimizer", "sgd", "SGD"),
        ("optimizer", "AdamWScheduleFree", "schedulefree.AdamWScheduleFree"),
    ],
)
def test_a_name_without_its_package_is_told_with_it(tmp_path, section, name, meant):
    pytest.importorskip(meant.partition(".")[0] if "." in meant else "torch")
    value = [name] if section == "metrics" else {"type": name}
    config = ConfigParser(linear(tmp_path, **{section: value}))
    with pytest.raises(
        ConfigError, match=re.escape(f"no {KINDS[section].words} '{name}': did")
    ) as e:
        config.check(**{section: torch.optim if section == "optimizer" else model})
    assert f"did you mean '{meant}'?" in str(e.value)


def test_a_dataset_for_a_loader_is_told_where_it_stands(tmp_path):
    pytest.importorskip("torchvision")
    loader = {"type": "torchvision.datasets.FakeData", "args": {"size": 9}}
    config = ConfigParser(linear(tmp_path, data_loader=loader))
    with pytest.raises(
        ConfigError, match=r'is no data loader.*: it stands inside a loader: "type"'
    ):
        config.check(data_loader=tiny)


def test_a_package_that_is_not_installed_is_told_with_what_installs_it(tmp_path, monkeypatch):
    listed = {**installed._PACKAGES, "not_there": "not-there"}
    monkeypatch.setattr(installed, "_PACKAGES", listed)
    config = ConfigParser(linear(tmp_path, arch={"type": "not_there.Net"}))
    with pytest.raises(ConfigError, match="not_there is not installed: pip install not-there"):
        config.check(arch=tiny)


def test_a_package_that_cannot_be_imported_is_told(tmp_path, package):
    (tmp_path / "sideboard.py").write_text("raise SystemExit(7)")
    config = ConfigParser(linear(tmp_path, arch={"type": "sideboard.Net"}))
    with pytest.raises(ConfigError, match="sideboard cannot be imported: SystemExit: 7"):
        config.check(arch=tiny)


def test_a_file_of_the_project_is_found_by_the_name_of_a_class_in_it(tmp_path):
    project = copy_template(tmp_path / "project")
    (project / "model" / "extra.py").write_text("from .model import MnistModel as Base\n\n\n")
    with open(project / "model" / "extra.py", "a") as file:
        file.write("class Extra(Base):\n    pass\n")
    said = quick(project, "train.py", "-c", "config.json", "--check", "--set", "arch.type=Extra")
    (full,) = re.findall("did you mean '(.*)'", said.stderr)
    words = ["--set", f"arch.type={full}", "--set", "trainer.len_epoch=2"]
    said = quick(project, "train.py", "-c", "config.json", "--check", *words)
    assert full == "model.extra.Extra" and said.returncode == 0, said.stderr


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished epoch, and a project without a config."""
    monkeypatch.setattr(trust, "ROOT", tmp_path / "project")
    return tiny.train(linear(tmp_path / "runs", trainer__epochs=1)).checkpoint_dir


def of_data(**args):
    """A loader whose arguments name what it is made of."""
    return {"type": "DatasetLoader", "args": args}


MNIST = {"type": "torchvision.datasets.MNIST", "args": {"root": "data", "download": True}}
LATER_MNIST = {**MNIST, "args": {"root": "data"}, "test_args": {"download": True}}
GREY = {"type": "albumentations.ToGray"}
SETS = "torchvision.datasets"
BACKBONE = "examples.backbone_classifier.model"


def asking(download):
    """A dataset that is asked for in an odd way."""
    return {**MNIST, "args": {"root": "data", "download": download}}


def made(name):
    """A dataset that makes its root, which is there."""
    return {"type": f"{SETS}.{name}", "args": {"root": "/tmp"}}


#: What a checkpoint's config may say of the network, and why it needs a word.
REACHES = [
    ("arch", {"type": "torchvision.models.detection.ssd300_vgg16"}, "may fetch what it needs"),
    ("arch", {"type": "torchvision.models.get_model", "args": {"name": "x"}}, "may fetch"),
    ("arch", {"type": "torchvision.models.resnet18", "args": {"weights": "DEFAULT"}}, "weights"),
    ("arch", {"type": "timm.create_model", "args": {"pretrained": True}}, "what pretrained says"),
    ("arch", {"type": "timm.create_model", "args": {"model_name": "hf-hub:a/b"}}, "an address"),
    ("arch", {"type": "timm.create_model", "args": {"model_name": "HF_hub:a/b"}}, "an address"),
    ("arch", {"type": "timm.create_model", "args": {"model_name": "Local-Dir:/"}}, "an address"),
    ("arch", {"type": "segmentation_models_pytorch.Unet"}, "may fetch what it needs"),
    ("loss", "transformers.Whatever", "may fetch what it needs"),
    ("metrics", [{"type": "torchmetrics.text.BERTScore"}], "may fetch what it needs"),
    ("metrics", ["torchmetrics.multimodal.CLIPScore"], "may fetch what it needs"),
    ("data_loader", of_data(dataset=MNIST), "what download says"),
    ("test_data_loader", of_data(dataset=MNIST), "what download says"),
    ("test_data_loader", {"day": of_data(dataset=MNIST)}, "what download says"),
    ("data_loader", of_data(dataset={"type": "x", "args": {"dataset": MNIST}}), "may fetch"),
    ("data_loader", of_data(dataset=LATER_MNIST), "what download says"),
    ("data_loader", of_data(dataset={"type": "torchvision.datasets.ImageNet"}), "or write it"),
    ("data_loader", of_data(dataset={"type": "timm.data.ImageDataset"}), "may fetch what it needs"),
    ("data_loader", of_data(transform="albumentations.ToGray"), "may fetch what it needs"),
    ("data_loader", of_data(collate_fn="a.b"), "may fetch what it needs"),
    ("data_loader", of_data(dataset={"type": "x", "args": {"transform": GREY}}), "may fetch"),
    ("data_loader", of_data(dataset={"type": "x", "args": {"f": [[GREY]]}}), "may fetch"),
    ("data_loader", of_data(dataset={"type": "x", "test_args": {"f": {"g": GREY}}}), "may fetch"),
    ("data_loader", of_data(dataset={"type": f"{SETS}.imagenet.ImageNet"}), "or write it"),
    ("data_loader", of_data(dataset={"type": f"{SETS}.cityscapes.Cityscapes"}), "or write it"),
    ("data_loader", of_data(dataset=made("Caltech101")), "outside the project"),
    ("data_loader", of_data(dataset=made("inaturalist.INaturalist")), "outside the project"),
    ("data_loader", of_data(dataset=asking([1])), "what download says"),
    ("data_loader", of_data(dataset=asking({"a": {"b": 0}})), "what download says"),
    ("data_loader", of_data(dataset={"type": "x", "args": {"d": [asking([0])]}}), "what download"),
    ("data_loader", {"type": "examples.mnist.MnistDataLoader", "args": {"download": True}}, "what"),
    ("arch", {"type": f"{BACKBONE}.Backbone", "args": {"weights": "default"}}, "what weights says"),
    ("arch", {"type": f"{BACKBONE}.Backbone", "args": {"weights": [True]}}, "what weights says"),
]


@pytest.mark.parametrize("section, value, why", REACHES)
def test_a_checkpoint_gets_nothing_from_the_network_without_a_word(run, section, value, why):
    for path in run.glob("*.pth"):
        state = checkpoint.load(path)
        state["config"][section] = value
        checkpoint.save(state, path)
    with pytest.raises(CheckpointError, match=why) as caught:
        tiny.command_line("-r", run)
    (words,) = re.findall(r"say so: (--set .*?)(?:;|$)", str(caught.value))
    assert tiny.command_line("-r", run, *shlex.split(words))[section] == value
    own = trust.ROOT
    own.mkdir()
    (own / "mine.json").write_text(json.dumps({section: value}))
    assert tiny.command_line("-r", run)[section] == value


def said_of(section, value):
    """What is told of a checkpoint's config."""
    source = Source.of(tiny.settings("unused", **{section: value}), name="a.pth")
    with pytest.raises(CheckpointError) as caught:
        check_foreign(source, trains=False, new_run=False, unused=())
    return str(caught.value)


def test_a_key_with_a_line_end_hides_nothing(run):
    assert "what download says" in said_of("data_loader", of_data(**{"a\nb": MNIST}))
    sets = {"d\ny": of_data(dataset=MNIST)}
    assert "what download says" in said_of("test_data_loader", sets)
    own = {"d\ny": {"type": "timm.data.Loader", "args": {}}}
    assert "may fetch what it needs" in said_of("test_data_loader", own)


def test_a_function_that_makes_something_else_is_not_called():
    name = "examples.backbone_classifier.model.downloaded"
    config = ConfigParser(tiny.settings("unused", arch={"type": name}))
    with pytest.raises(ConfigError, match="has no model 'downloaded'"):
        config.check(arch=tiny)


def test_starting_arguments_are_a_networks_alone(run):
    starting = {"weights": "DEFAULT"}
    arch = {"type": "torchvision.models.resnet18", "starting_args": starting}
    assert "what weights says" in said_of("arch", arch)
    loader = {"type": "TinyLoader", "args": {"n": 31}, "starting_args": {"n": 47}}
    config = tiny.ConfigParser(tiny.settings("unused", valid_data_loader={"a": loader}))
    assert config.init_obj("valid_data_loader", tiny)["a"].n_samples == 25  # a fifth is held out


def test_what_only_looks_like_a_name_needs_no_word(run):
    for path in run.glob("*.pth"):
        state = checkpoint.load(path)
        state["config"]["arch"]["freeze"] = ["net.conv1*"]
        state["config"]["data_loader"]["args"]["kind"] = "a.b"
        state["config"]["data_loader"]["args"]["of"] = {"type": "a.b", "download": True}
        state["config"]["data_loader"]["args"]["many"] = ["a.b"]
        state["config"]["data_loader"]["args"]["weights"] = "balanced"
        state["config"]["loss"] = {"type": "own", "args": {"weights": [0.5, 2]}}
        checkpoint.save(state, path)
    tiny.command_line("-r", run)


def test_data_that_are_there_need_no_word(run):
    grey = {"type": "torchvision.transforms.v2.Grayscale"}
    args = {"root": "data", "download": False, "transform": grey}
    dataset = {"type": "torchvision.datasets.MNIST", "args": args}
    sampler = {"type": "torch.utils.data.RandomSampler", "args": {"replacement": True}}
    value = of_data(dataset=dataset, sampler=sampler, transform="torchvision.transforms.ToTensor")
    for path in run.glob("*.pth"):
        state = checkpoint.load(path)
        state["config"]["data_loader"] = value
        checkpoint.save(state, path)
    assert tiny.command_line("-r", run)["data_loader"] == value


def test_a_download_goes_nowhere_outside_without_a_word(run, tmp_path):
    args = {"root": str(tmp_path / "elsewhere"), "download": True}
    for path in run.glob("*.pth"):
        state = checkpoint.load(path)
        state["config"]["data_loader"] = of_data(dataset={"type": "Own", "args": args})
        checkpoint.save(state, path)
    with pytest.raises(CheckpointError, match=r"args\.dataset\.args\.root: .* is outside the proj"):
        tiny.command_line("-r", run)


def test_what_needs_no_network_needs_no_word(run):
    assert tiny.command_line("-r", run)["loss"] == "torch.nn.CrossEntropyLoss"
