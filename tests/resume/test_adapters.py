"""`arch.adapter` puts an adapter around a network that has its weights: one of the project's own,
or one of peft's by name. With `trainer.save: "trained"` its checkpoints are as small as it is."""

import copy
import json
import sys

import pytest
import torch
from torch import nn

import tiny
from machinery.config.trust import words_for
from machinery.errors import CheckpointError, ConfigError
from machinery.launch import Launch, read_run
from machinery.update.runtime import unwrap
from parse_config import ConfigParser

#: Stands in for peft, where it is not installed: of all that it has, what is used here.
STAND_IN = """
from dataclasses import dataclass, field

from torch import nn


@dataclass
class PeftConfig:
    target_modules: list[str] = field(default_factory=list)


@dataclass
class LoraConfig(PeftConfig):
    r: int = 8


class PromptTuningConfig(PeftConfig):
    pass


class Lora(nn.Module):
    def __init__(self, layer, r):
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.Linear(layer.in_features, r, bias=False)
        self.lora_B = nn.Linear(r, layer.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


class PeftModel(nn.Module):
    def __init__(self, model, config):
        super().__init__()
        model.requires_grad_(False)
        self.base_model = nn.ModuleDict({"model": model})
        for name in config.target_modules:
            setattr(model, name, Lora(getattr(model, name), config.r))

    def forward(self, x):
        return self.base_model["model"](x)


def get_peft_model(model, config):
    return PeftModel(model, config)
"""
WIDTH = 512
try:
    import peft
except ImportError:
    peft = None
LORA = {"type": "peft.LoraConfig", "args": {"r": 2, "target_modules": ["fc1"]}}
OWN = {"type": "beside", "args": {"rank": 2}}


class Beside(nn.Module):
    """A layer, and one of low rank beside it."""

    def __init__(self, layer, rank):
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)

    def forward(self, x):
        return self.layer(x) + self.up(self.down(x))


def beside(model, rank: int):
    model.requires_grad_(False)
    model.fc1 = Beside(model.fc1, rank)
    return model


def nothing(model):
    return 3


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setattr(tiny, "beside", beside, raising=False)
    monkeypatch.setattr(tiny, "nothing", nothing, raising=False)


@pytest.fixture
def installed(tmp_path_factory, monkeypatch):
    """peft, or what stands in for it."""
    if peft is None:
        folder = tmp_path_factory.mktemp("packages")
        (folder / "peft.py").write_text(STAND_IN)
        monkeypatch.syspath_prepend(folder)
    yield
    if peft is None:
        sys.modules.pop("peft", None)


@pytest.fixture(params=["own", "peft"])
def adapter(request, installed):
    return {"own": OWN, "peft": LORA}[request.param]


def config_of(tmp_path, adapter, save="trained", **changes):
    file = tmp_path / "w.pth"
    if not file.exists():
        with torch.random.fork_rng():
            torch.manual_seed(9)
            torch.save(tiny.TinyModel(WIDTH).state_dict(), file)
    arch = {
        "type": "TinyModel",
        "args": {"width": WIDTH},
        "weights": str(file),
        "adapter": adapter,
    }
    changes = {"trainer__save": save, **changes}
    return tiny.settings(tmp_path / save, arch=arch, **changes)


def train(config, resume=None):
    trainer = tiny.init_optimizer_from(ConfigParser(copy.deepcopy(config), resume=resume))
    trainer.train()
    return trainer


def shorter(config, epochs):
    config = copy.deepcopy(config)
    config["trainer"]["epochs"] = epochs
    return config


def evaluated(path):
    checked, launch = read_run(path)
    trainer = tiny.build(ConfigParser(checked, launch=launch))
    trainer.restore()
    return trainer


def test_resumed_is_unbroken_and_tests_alike(tmp_path, adapter):
    config = config_of(tmp_path, adapter)
    unbroken = train(config)
    first = train(shorter(config, 1))
    path = first.checkpoint_dir / "checkpoint-epoch1.pth"
    assert tiny.digest(evaluated(path).model) == tiny.digest(first.model)
    resumed = train(config, path)
    whole = train(config_of(tmp_path, adapter, "all"))
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model) == tiny.digest(whole.model)
    sizes = [
        (each.checkpoint_dir / "checkpoint-epoch3.pth").stat().st_size for each in (first, whole)
    ]
    base = sum(value.nbytes for value in unwrap(whole.model).state_dict().values())
    assert sizes[1] - sizes[0] > 0.5 * 0.5 * base


def test_it_is_put_around_what_has_the_weights(tmp_path, adapter):
    config = config_of(tmp_path, adapter)
    trainer = tiny.init_optimizer_from(ConfigParser(config))
    weights = torch.load(config["arch"]["weights"], weights_only=True)
    state = unwrap(trainer.model).state_dict()
    found = [value for name, value in state.items() if name.endswith("layer.weight")]
    assert len(found) == 1 and torch.equal(found[0], weights["fc1.weight"])
    trained = [weight for group in trainer.optimizer.param_groups for weight in group["params"]]
    assert len(trained) == 2 and sum(weight.numel() for weight in trained) == 2 * (6 + WIDTH)


def test_its_draws_are_the_seed_s(tmp_path, adapter):
    def built(seed):
        return tiny.digest(tiny.build(ConfigParser(config_of(tmp_path, adapter, seed=seed))).model)

    assert built(1) == built(1) != built(2)


def test_patterns_are_of_the_names_that_it_gives(tmp_path):
    config = config_of(tmp_path, OWN)
    config["arch"]["freeze"] = ["fc1.down.*"]
    model = tiny.build(ConfigParser(config)).model
    trained = [name for name, weight in unwrap(model).named_parameters() if weight.requires_grad]
    assert trained == ["fc1.up.weight"]


def test_weights_of_r_go_below_it_or_into_it(tmp_path, adapter):
    config = config_of(tmp_path, adapter, "all")
    trained = train(shorter(config, 1))
    other = {name: value + 1 for name, value in torch.load(tmp_path / "w.pth").items()}
    torch.save(other, tmp_path / "other.pth")

    def begun(path, config=config):
        trainer = tiny.build(ConfigParser(config, launch=Launch("fine-tune", checkpoint=path)))
        trainer.restore()
        return trainer

    below = unwrap(begun(tmp_path / "other.pth").model).state_dict()
    (found,) = [value for name, value in below.items() if name.endswith("layer.weight")]
    assert torch.equal(found, other["fc1.weight"])
    into = begun(trained.checkpoint_dir / "checkpoint-epoch1.pth")
    assert tiny.digest(into.model) == tiny.digest(trained.model)
    config["trainer"]["save"] = "trained"
    with pytest.raises(ConfigError, match=r"trainer\.save: .*name it as arch\.weights"):
        begun(tmp_path / "other.pth")


def test_other_weights_below_it_are_told(tmp_path, adapter):
    first = train(shorter(config_of(tmp_path, adapter), 1))
    other = {name: value + 1 for name, value in torch.load(tmp_path / "w.pth").items()}
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=r"they come from arch\.weights: .*w\.pth"):
        evaluated(first.checkpoint_dir)


@pytest.mark.parametrize(
    "adapter, said",
    [
        (
            {"type": "besides"},
            r"arch\.adapter: tiny has no adapter 'besides': did you mean 'beside'",
        ),
        (
            {"type": "beside"},
            r"arch\.adapter\.args: beside needs 'rank'|arch\.adapter: beside needs",
        ),
        ({"type": "beside", "args": {"rang": 2}}, "has no argument 'rang': did you mean 'rank'"),
        ({"type": "beside", "args": {"rank": "2"}}, "takes rank as int, found"),
        ({"type": "beside", "args": {"model": 2, "rank": 2}}, "the program gives beside its model"),
        ({"args": {}}, "arch.adapter is no component"),
        ("beside", r"arch\.adapter: expected an object in braces"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(tmp_path, adapter, said):
    with pytest.raises(ConfigError, match=said):
        ConfigParser(config_of(tmp_path, adapter)).check(arch=tiny)


def test_what_makes_no_network_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"arch\.adapter \(nothing\): made a int, not a Module"):
        tiny.build(ConfigParser(config_of(tmp_path, {"type": "nothing"})))


@pytest.mark.skipif(peft is not None, reason="peft is installed")
@pytest.mark.parametrize("name", ["peft.LoraConfig", "torch.nn.Linear"])
def test_peft_that_is_not_installed_is_told(tmp_path, name):
    parser = ConfigParser(config_of(tmp_path, {"type": name}))
    with pytest.raises(
        ConfigError, match=r"arch\.adapter: peft is not installed: pip install peft"
    ):
        parser.check(arch=tiny)


def test_mistakes_in_peft_s_are_told(tmp_path, installed):
    for adapter, said in (
        ({"type": "peft.LoraConfi"}, "did you mean peft.LoraConfig"),
        ({"type": "peft.LoraConfig", "args": {"rr": 2}}, "LoraConfig has no argument 'rr'"),
        ({"type": "peft.LoraConfig", "args": {"r": "2"}}, "takes r as int, found"),
        ({"type": "torch.nn.Linear"}, r"is no adapter: neither a PeftConfig"),
    ):
        with pytest.raises(ConfigError, match=said):
            ConfigParser(config_of(tmp_path, adapter)).check(arch=tiny)
    nowhere = {"type": "peft.LoraConfig", "args": {"target_modules": ["fc9"]}}
    with pytest.raises(ConfigError, match=r"arch\.adapter \(peft\.LoraConfig\): .*fc9"):
        tiny.build(ConfigParser(config_of(tmp_path, nowhere)))


@pytest.mark.parametrize(
    "adapter, asks",
    [
        (LORA, False),
        (OWN, False),
        ({"type": "peft.PromptTuningConfig"}, True),
        ({"type": "peft.LoraConfig", "args": {"megatron_config": {"a": {"args": 1}}}}, True),
        ({"type": "peft.LoraConfig", "args": {"megatron_core": "antigravity"}}, True),
    ],
)
def test_what_reaches_out_needs_the_user_s_word(tmp_path, adapter, asks):
    words = words_for(config_of(tmp_path, adapter)).to_evaluate
    assert bool(words) == asks


def test_peft_is_imported_only_where_it_is_named(tmp_path):
    if peft is None:
        train(shorter(config_of(tmp_path, OWN), 1))
        assert "peft" not in sys.modules


def test_the_checkpoint_has_its_config(tmp_path, adapter):
    first = train(shorter(config_of(tmp_path, adapter), 1))
    saved = json.loads((first.checkpoint_dir / "config.json").read_text())
    assert saved["arch"]["adapter"] == adapter
