"""`trainer.save: "trained"`: checkpoints leave out the weights that are not trained. They are made
again, compared with those of the run, and all goes on as with a whole file."""

import copy

import pytest
import torch
from torch import nn

import ranks
import tiny
from exact import Exact, furthest, settings, train
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError, ConfigError
from machinery.launch import Launch, read_run
from machinery.update.runtime import unwrap
from parse_config import ConfigParser
from trainer import Trainer


def base_weights(path, **args):
    with torch.random.fork_rng():
        torch.manual_seed(9)
        torch.save(tiny.TinyModel(**args).state_dict(), path)
    return path


def config_of(tmp_path, save="trained", weights=True, freeze=("fc1.*",), **changes):
    """A run whose first layer is not trained."""
    arch = {"type": "TinyModel", "freeze": list(freeze)}
    if weights:
        arch["weights"] = str(base_weights(tmp_path / "w.pth"))
    return tiny.settings(tmp_path / save, arch=arch, trainer__save=save, **changes)


def shorter(config, epochs):
    config = copy.deepcopy(config)
    config["trainer"]["epochs"] = epochs
    return config


def file_of(trainer, name="checkpoint-epoch1.pth"):
    return trainer.checkpoint_dir / name


def evaluated(folder):
    checked, launch = read_run(folder)
    trainer = tiny.build(ConfigParser(checked, launch=launch))
    trainer.restore()
    return trainer


def test_a_file_has_what_is_trained_and_the_buffers(tmp_path):
    trainer = tiny.train(config_of(tmp_path, trainer__epochs=1))
    content = checkpoint.load(file_of(trainer))
    whole = set(unwrap(trainer.model).state_dict())
    assert content["state_dict"].keys() == whole - {"fc1.weight", "fc1.bias"}
    assert "norm.running_mean" in content["state_dict"]
    assert content["frozen"].keys() == {"model"}
    assert content["frozen"]["model"].keys() == {"fc1.weight", "fc1.bias"}
    assert all(len(digest) == 64 for digest in content["frozen"]["model"].values())
    best = checkpoint.load(file_of(trainer, "model_best.pth"))
    assert best["frozen"] == content["frozen"]


def test_a_whole_file_is_as_before(tmp_path):
    trainer = tiny.train(config_of(tmp_path, "all", trainer__epochs=1))
    content = checkpoint.load(file_of(trainer))
    assert "frozen" not in content
    assert content["state_dict"].keys() == unwrap(trainer.model).state_dict().keys()


@pytest.mark.parametrize("weights", [True, False])
def test_resumed_is_unbroken_and_as_with_whole_files(tmp_path, weights):
    config = config_of(tmp_path, weights=weights)
    unbroken = tiny.train(config)
    first = tiny.train(shorter(config, 1))
    resumed = tiny.train(config, resume=file_of(first))
    whole = tiny.train(config_of(tmp_path, "all", weights=weights))
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model) == tiny.digest(whole.model)
    assert tiny.rows(resumed) == tiny.rows(unbroken) == tiny.rows(whole)
    a, b = (evaluated(each.checkpoint_dir).model for each in (resumed, whole))
    assert tiny.digest(a) == tiny.digest(b)


def test_a_stop_inside_an_epoch_is_exact_too(tmp_path):
    config = config_of(tmp_path, trainer__save_step=3)
    unbroken = tiny.train(config)
    stopped = tiny.interrupted(config, 14)
    assert "-step" in stopped.name
    resumed = tiny.train(config, resume=stopped)
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)


class Averaging(Trainer):
    """Holds a network that never changes, and one that is an average of the model."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            self.teacher = tiny.TinyModel().requires_grad_(False).eval()
        self.average = copy.deepcopy(unwrap(self.model)).requires_grad_(False)

    def _update(self, batches):
        super()._update(batches)
        for mine, its in zip(
            self.average.parameters(), unwrap(self.model).parameters(), strict=True
        ):
            mine.data.mul_(0.9).add_(its.data, alpha=0.1)  # which torch does not count


def test_what_changes_though_it_is_not_trained_is_saved(tmp_path):
    config = config_of(tmp_path)
    unbroken = tiny.train(config, trainer_class=Averaging)
    first = tiny.train(shorter(config, 1), trainer_class=Averaging)
    content = checkpoint.load(file_of(first))
    assert content["frozen"].keys() == {"model", "teacher"}
    assert "fc2.weight" in content["states"]["average"]
    assert not [name for name in content["states"]["teacher"] if "running" not in name][1:]
    resumed = tiny.train(config, resume=file_of(first), trainer_class=Averaging)
    for name in ("model", "average", "teacher"):
        assert tiny.digest(getattr(resumed, name)) == tiny.digest(getattr(unbroken, name))


class Thawing(Trainer):
    """Trains the first layer in the second epoch alone."""

    def _train_epoch(self, epoch):
        unwrap(self.model).fc1.requires_grad_(epoch == 2)
        return super()._train_epoch(epoch)


class Freezing(Trainer):
    """Trains the first layer in the first epoch alone."""

    def _train_epoch(self, epoch):
        unwrap(self.model).fc1.requires_grad_(epoch == 1)
        return super()._train_epoch(epoch)


@pytest.mark.parametrize("kind, freeze", [(Thawing, ["fc1.*"]), (Freezing, [])])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_layers_that_are_trained_for_a_while_are_saved(tmp_path, kind, freeze, after):
    config = config_of(tmp_path, freeze=freeze, trainer__epochs=4)
    unbroken = tiny.train(config, trainer_class=kind)
    first = tiny.train(shorter(config, after), trainer_class=kind)
    left_out = (
        "fc1.weight"
        not in checkpoint.load(first.checkpoint_dir / f"checkpoint-epoch{after}.pth")["state_dict"]
    )
    assert left_out == (kind is Thawing and after == 1)
    resumed = tiny.train(
        config, resume=file_of(first, f"checkpoint-epoch{after}.pth"), trainer_class=kind
    )
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)


def test_what_is_missing_or_another_is_told(tmp_path):
    config = config_of(tmp_path, trainer__epochs=1)
    trainer = tiny.train(config)
    path = file_of(trainer)
    (tmp_path / "w.pth").rename(tmp_path / "moved.pth")
    what = r"that are not trained come from arch\.weights: .*w\.pth, which is missing: --set arch"
    said = f"{path}: the weights {what}"
    with pytest.raises(CheckpointError, match=said):
        tiny.command_line("-r", path)
    with pytest.raises(CheckpointError, match=what):
        evaluated(trainer.checkpoint_dir)
    moved = f"arch.weights={tmp_path / 'moved.pth'}"
    tiny.build(tiny.command_line("-r", path, "--set", moved)).restore()
    other = torch.load(tmp_path / "moved.pth", weights_only=True)
    other["fc1.bias"][0] += 1e-7
    other["fc2.bias"] += 1  # which is trained
    torch.save(other, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as caught:
        evaluated(trainer.checkpoint_dir)
    first, second = str(caught.value).splitlines()
    assert first.endswith(f"that are not trained: they come from arch.weights: {tmp_path}/w.pth")
    assert second == "  others than in the run, or missing: model: fc1.bias"


def test_those_of_another_seed_are_told(tmp_path):
    trainer = tiny.train(config_of(tmp_path, weights=False, trainer__epochs=1))
    path = file_of(trainer)
    content = checkpoint.load(path)
    for part in ("config", "progress"):
        content[part]["seed"] = 5
    checkpoint.save(content, path)
    with pytest.raises(CheckpointError, match="they come from building model again"):
        tiny.build(tiny.command_line("-r", path)).restore()


def test_the_next_run_begins_with_such_a_file(tmp_path):
    config = config_of(tmp_path, trainer__epochs=1)
    first = tiny.train(config)
    trainer = tiny.build(
        ConfigParser(config, launch=Launch("fine-tune", checkpoint=file_of(first)))
    )
    trainer.restore()
    assert tiny.digest(trainer.model) == tiny.digest(first.model)
    without = copy.deepcopy(config)
    del without["arch"]["weights"]
    with pytest.raises(CheckpointError, match=r"they come from arch\.weights: .*w\.pth"):
        tiny.build(ConfigParser(without, launch=Launch("fine-tune", checkpoint=file_of(first))))


def test_weights_of_r_that_no_file_would_have_are_refused(tmp_path):
    config = config_of(tmp_path, weights=False, trainer__epochs=1)
    path = base_weights(tmp_path / "w.pth")

    def build(config):
        return tiny.build(ConfigParser(config, launch=Launch("fine-tune", checkpoint=path)))

    with pytest.raises(ConfigError, match=r"trainer\.save: .*w\.pth gives: name it as arch"):
        build(config)
    assert not (tmp_path / "trained").exists()
    build({**config, "arch": {"type": "TinyModel"}})  # all of it is trained
    build({**config, "arch": {**config["arch"], "skip": ["fc1.*"]}})
    config["trainer"]["save"] = "all"
    build(config)


@pytest.mark.parametrize("before, after", [("all", "trained"), ("trained", "all")])
def test_a_run_may_change_it(tmp_path, before, after):
    config = config_of(tmp_path, before)
    unbroken = tiny.train(config)
    first = tiny.train(shorter(config, 1))
    config["trainer"]["save"] = after
    path = first.checkpoint_dir
    for epoch in (1, 2):
        longer = shorter(config, epoch + 1)
        again = tiny.train(longer, resume=path / f"checkpoint-epoch{epoch}.pth")
    assert tiny.digest(again.model) == tiny.digest(unbroken.model)
    content = checkpoint.load(path / "checkpoint-epoch3.pth")
    assert "fc1.weight" in content["state_dict"]


def test_the_average_of_trainer_ema_leaves_them_out_too(tmp_path):
    config = config_of(tmp_path, trainer__ema=0.9)
    unbroken = tiny.train(config)
    first = tiny.train(shorter(config, 1))
    path = file_of(first)
    content = checkpoint.load(path)
    assert content["frozen"]["ema"].keys() == {"module.fc1.weight", "module.fc1.bias"}
    whole = tiny.train(shorter(config_of(tmp_path, "all", trainer__ema=0.9), 1))
    assert tiny.digest(evaluated(path).model) == tiny.digest(evaluated(file_of(whole)).model)
    launch = Launch("fine-tune", checkpoint=path)
    begun = tiny.build(ConfigParser({**config, "trainer": whole.config["trainer"]}, launch=launch))
    begun.restore()
    average = evaluated(path).model.state_dict()
    for name, value in unwrap(begun.model).state_dict().items():
        assert torch.equal(value, average[name])
    resumed = tiny.train(config, resume=path)
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)
    assert tiny.digest(resumed.ema) == tiny.digest(unbroken.ema)


class Half(nn.Module):
    """Weights of several names, types and layouts; one has two names."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(6, 6, dtype=torch.bfloat16)
        self.two = nn.Linear(6, 6, dtype=torch.bfloat16)
        self.two.weight = self.one.weight
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.fc = nn.Linear(6, 3)
        for part in (self.one, self.two):
            part.requires_grad_(False)
        self.empty.requires_grad_(False)

    def forward(self, x):
        return self.fc(self.two(self.one(x.bfloat16())).float())


def test_weights_of_all_kinds_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "Half", Half, raising=False)
    config = tiny.settings(tmp_path, arch={"type": "Half"}, trainer__save="trained")
    unbroken = tiny.train(config)
    first = tiny.train(shorter(config, 1))
    assert checkpoint.load(file_of(first))["state_dict"].keys() == {"fc.weight", "fc.bias"}
    resumed = tiny.train(config, resume=file_of(first))
    assert torch.equal(unwrap(resumed.model).fc.weight, unwrap(unbroken.model).fc.weight)


def test_starting_args_are_used_again(tmp_path, monkeypatch):
    class Started(tiny.TinyModel):
        def __init__(self, weights=None):
            super().__init__()
            if weights is not None:
                self.load_state_dict(torch.load(weights, weights_only=True))

    monkeypatch.setattr(tiny, "Started", Started, raising=False)
    starting = {"weights": str(base_weights(tmp_path / "w.pth"))}
    arch = {"type": "Started", "starting_args": starting, "freeze": ["fc1.*"]}
    config = tiny.settings(tmp_path / "runs", arch=arch, trainer__save="trained")
    unbroken = tiny.train(config)
    first = tiny.train(shorter(config, 1))
    assert tiny.digest(evaluated(first.checkpoint_dir).model) == tiny.digest(first.model)
    resumed = tiny.train(config, resume=file_of(first))
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)


class ExactAveraging(Exact, Averaging):
    """As it is, on several processes."""


def trained_in_ranks(config, resume=None):
    return train(config, resume, ExactAveraging)


def test_several_processes_do_as_one(tmp_path):
    config = settings(
        tmp_path / "runs",
        arch__freeze=["fc1.*"],
        arch__weights=str(base_weights(tmp_path / "w.pth", norm=False)),
        trainer__save="trained",
    )
    (alone,) = ranks.run(tmp_path, 1, trained_in_ranks, config)
    first = ranks.run(tmp_path, 2, trained_in_ranks, shorter(config, 1))[0]
    path = first[-1] / "checkpoint-epoch1.pth"
    content = checkpoint.load(path)
    assert content["frozen"].keys() == {"model", "teacher"}
    assert content["state_dict"].keys() == {"fc2.weight", "fc2.bias"}
    resumed = ranks.run(tmp_path, 2, trained_in_ranks, config, path)
    for weights, *_ in resumed:
        assert furthest(weights, alone[0]) < 1e-12
    unbroken = ranks.run(tmp_path, 2, trained_in_ranks, config)[0]
    assert furthest(resumed[0][0], unbroken[0]) == 0


@pytest.mark.parametrize("whole", [True, False])
def test_a_stranger_s_starting_args_need_the_user_s_word(tmp_path, whole):
    trainer = tiny.train(config_of(tmp_path, trainer__epochs=1))
    content = checkpoint.load(file_of(trainer))
    content["config"]["arch"]["starting_args"] = {"weights": "https://example.com/w.pth"}
    if whole:
        del content["frozen"]
    checkpoint.save(content, file_of(trainer))
    if whole:  # they are not used
        tiny.command_line("-r", file_of(trainer))
        return
    with pytest.raises(
        CheckpointError, match=r"arch\.starting_args\.weights: .* may fetch what weights"
    ):
        tiny.command_line("-r", file_of(trainer))


def test_a_stranger_s_weights_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = tiny.train(config_of(tmp_path, trainer__epochs=1))
    torch.save({"state_dict": {}, "x": Code()}, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match=r"arch\.weights: refused: .*globals"):
        evaluated(file_of(trainer))
    assert not (tmp_path / "ran").exists()


class Code:
    def __reduce__(self):
        return (open, ("ran", "w"))
