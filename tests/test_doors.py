"""Doors for what people bring: optimizers, schedulers, trackers, a loss of the trainer's own; copies of configs."""

import copy
import json
import os
import pickle
import signal
import sys
import types

import pytest
import torch

import tiny
from bending.gan import GANTrainer
from machinery.checkpoints.run_folder import own
from machinery.config.optimization import init_optimizer, init_scheduler
from machinery.errors import CheckpointError, ConfigError, Stopped
from machinery.files import read_json
from machinery.update.runtime import Runtime
from parse_config import ConfigParser
from projects import command, copy_template
from test_bending import gan
from test_gpu_path import run
from test_resume import interrupted

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
    parts = (model, parser.init_ftn("loss", tiny.HERE), parser.init_ftns("metrics", tiny.HERE), optimizer)
    return tiny.Trainer(*parts, parser, torch.device("cpu"), loader, loader.split_validation(), scheduler)


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
    trainer = built(tiny.settings(tmp_path, optimizer=optimizer, lr_scheduler={"type": "Halving"}), optim)
    trainer.train()
    assert type(trainer.optimizer).__name__ == kind and type(trainer.lr_scheduler).__name__ == "Halving"
    again = built(tiny.settings(tmp_path, optimizer=optimizer, lr_scheduler={"type": "Halving"}), optim)
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
        ({"type": "SignSGD", "args": {"rat": 1.0}}, "SignSGD has no argument 'rat': did you mean 'rate'"),
        (
            {"type": "SignSDG"},
            "model.optim_of_the_test and torch.optim have no optimizer 'SignSDG': did you mean 'SignSGD'",
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
    config = tiny.settings(tmp_path, optimizer={"type": "renamed", "args": {"learning_rate": 0.05}}, lr_scheduler=None)
    trainer = built(config, optim)
    trainer.train()
    config["optimizer"]["args"]["learning_rate"] = 0.5
    again = built(config, optim)
    again.config.launch.task, again.config.launch.checkpoint = "continue", trainer.checkpoint_dir / "model_best.pth"
    with pytest.raises(ConfigError, match=r"optimizer.args.learning_rate of a running optimizer cannot be changed"):
        again.restore()


def test_an_evaluation_wants_the_weights_of_all_networks(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    again = tiny.build(tiny.settings(tmp_path))
    again.second = torch.nn.Linear(2, 2)
    again.config.launch.task, again.config.launch.checkpoint = "evaluate", trainer.checkpoint_dir / "model_best.pth"
    with pytest.raises(CheckpointError, match="holds no weights of second: it was trained without"):
        again.restore()


class Tracker:
    def __init__(self, fail_at=None):
        self.rows, self.closed, self.fail_at = [], 0, fail_at

    def log(self, numbers, step):
        if len(self.rows) == self.fail_at:
            raise ConnectionError("no network")
        self.rows.append((step, dict(numbers)))

    def close(self):
        self.closed += 1


def test_a_tracker_gets_windows_and_epochs(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__clip_grad_norm=1.0))
    tracker = Tracker()
    trainer.writers.add(tracker)
    trainer.train()
    assert tracker.closed == 1
    assert [step for step, row in tracker.rows if "epoch" in row] == [11, 22, 33]
    assert [step for step, row in tracker.rows if "loss/train" in row] == [4, 8, 11, 15, 19, 22, 26, 30, 33]
    assert all("grad_norm/train" in row for _, row in tracker.rows if "loss/train" in row)
    assert [row["val_loss"] for _, row in tracker.rows if "epoch" in row] == [
        row["loss/valid"] for _, row in tracker.rows if "loss/valid" in row
    ]
    header, *rows = tiny.rows(trainer)
    assert [float(row[header.index("loss")]) for row in rows] == [
        row["loss"] for _, row in tracker.rows if "epoch" in row
    ]


def test_a_tracker_that_fails_is_left_out(tmp_path, capfd):
    plain = tiny.train(tiny.settings(tmp_path / "plain"))
    trainer = tiny.build(tiny.settings(tmp_path))
    failing = Tracker(fail_at=2)
    trainer.writers.add(failing)
    trainer.train()
    assert failing.closed == 1
    text = "".join(capfd.readouterr())
    assert text.count("Tracker is off from here on, training goes on: ConnectionError: no network") == 1
    assert tiny.digest(trainer.model) == tiny.digest(plain.model) and len(tiny.rows(trainer)) == 4


def test_a_tracker_that_leaves_is_left_out(tmp_path, capfd):
    class Leaving(Tracker):
        def log(self, numbers, step):
            sys.exit()

    trainer = tiny.build(tiny.settings(tmp_path))
    trainer.writers.add(Leaving())
    trainer.train()
    assert "Leaving is off from here on, training goes on: SystemExit" in "".join(capfd.readouterr())
    assert len(tiny.rows(trainer)) == 4


def test_code_that_leaves_does_not_pass_for_done(tmp_path):
    class Leaving(tiny.Trainer):
        def _forward(self, batch):
            sys.exit()

    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Leaving)
    with pytest.raises(RuntimeError, match=r"exit\(None\) was called"):
        trainer.train()
    assert read_json(trainer.checkpoint_dir / "status.json")["exit_code"] == 1


def test_a_tracker_is_closed_at_a_stop(tmp_path):
    trackers = []

    def build(config, trainer_class, **kwargs):
        trainer = tiny_build(config, trainer_class=trainer_class, **kwargs)
        trackers.append(Tracker())
        trainer.writers.add(trackers[-1])
        return trainer

    tiny_build, tiny.build = tiny.build, build
    try:
        interrupted(tiny.settings(tmp_path), after=13)
    finally:
        tiny.build = tiny_build
    assert [tracker.closed for tracker in trackers] == [1]


def test_a_loss_may_be_left_out_by_a_trainer_that_has_its_own(tmp_path):
    class Own(tiny.Trainer):
        def _forward(self, batch):
            output = self.model(batch[0])
            return tiny.cross_entropy(output, batch[1]), output, batch[1]

    config = tiny.settings(tmp_path / "own")
    del config["loss"]
    assert tiny.train(config, trainer_class=Own).epoch == 3
    with pytest.raises(
        ConfigError, match=r"loss is missing: name one of model/loss.py, or give the trainer a _forward"
    ):
        tiny.build({**config, "trainer": {**config["trainer"], "save_dir": str(tmp_path / "none")}})
    assert not (tmp_path / "none").exists()


def test_lbfgs_is_refused_with_the_way_to_it(tmp_path):
    with pytest.raises(
        ConfigError, match=r"LBFGS computes its loss several times a step: set trainer.type=examples.lbfgs"
    ):
        tiny.build(tiny.settings(tmp_path / "runs", optimizer={"type": "LBFGS"}))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_a_config_can_be_copied_and_the_run_stays_owned(tmp_path, copied):
    class Copying(tiny.Trainer):
        def _train_epoch(self, epoch):
            configs.append(copied(self.config))
            configs.append(None)
            del configs[-2]
            return super()._train_epoch(epoch)

    configs = []
    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Copying)
    held = trainer.config.run._lock
    assert held >= 0 and copied(trainer.config).run._lock in (-1, held)
    trainer.train()
    assert trainer.epoch == 3
    one = copied(trainer.config)
    assert one.config == trainer.config.config and one.save_dir == trainer.checkpoint_dir
    assert one.init_obj("arch", tiny.HERE) is not None
    assert own(trainer.checkpoint_dir) >= 0  # and is free afterwards


def on_meta(trainer):
    trainer.device = torch.device("meta")
    trainer.runtime = Runtime(trainer.device, trainer.settings)
    for part in (trainer.model, trainer.critic):
        part.to("meta")
    trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), lr=0.01)
    trainer.critic_optimizer = torch.optim.Adam(trainer.critic.parameters(), lr=0.01)
    return trainer


def test_a_gan_s_update_runs_where_the_trainer_is(tmp_path):
    trainer = on_meta(gan(tmp_path, trainer_class=GANTrainer))
    run(trainer)
    assert trainer.step == 4 and trainer.train_metrics._sums["critic"].is_meta


def test_a_gan_s_update_is_in_the_precision_of_the_run(tmp_path):
    seen = set()

    class Watching(GANTrainer):
        def _forward(self, batch):
            terms, output, target = super()._forward(batch)
            seen.add((output.dtype, self.critic(output).dtype))
            return terms, output, target

    trainer = gan(tmp_path, trainer_class=Watching)
    trainer.runtime._dtype = torch.bfloat16
    trainer.train()
    assert seen == {(torch.bfloat16, torch.bfloat16)}


def test_a_second_network_handed_over_in_train_reaches_test(tmp_path):
    folder = copy_template(tmp_path / "project")
    text = (folder / "train.py").read_text()
    assert text.count("\n    return trainer\n\n\ndef load_run") == 1
    (folder / "train.py").write_text(text.replace("    return trainer\n\n\ndef load_run", f"{NETWORK}\n\ndef load_run"))
    short = ["--set", "trainer.epochs=1", "--set", "trainer.len_epoch=3", "--run_id", "one"]
    trained = command(folder, "train.py", "-c", "config.json", *short)
    assert trained.returncode == 0, trained.stderr
    result = command(folder, "test.py", "-r", "saved/models/Digits_LeNet/one")
    assert result.returncode == 0, result.stderr
    (told,) = [line for line in trained.stdout.splitlines() if "second network" in line][-1:]
    assert told in result.stdout


NETWORK = """    import torch

    trainer.second = torch.nn.BatchNorm1d(4).to(device)
    trainer.second.running_mean += 7 if data_loader is not None else 0
    forward = trainer._forward

    def shown(batch):
        print("second network", trainer.second.running_mean.tolist())
        return forward(batch)

    trainer._forward = shown
    return trainer
"""


def test_a_signal_after_the_templates_epoch_keeps_it(tmp_path):
    class Afterwards(tiny.Trainer):
        def _train_epoch(self, epoch):
            log = super()._train_epoch(epoch)
            if epoch == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return log

    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Afterwards)
    with pytest.raises(Stopped, match="after epoch 2"):
        trainer.train()
    assert (trainer.checkpoint_dir / "checkpoint-epoch2.pth").exists()


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    folder = tmp_path / "models" / "google" / "bert"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError):
        tiny.command_line("-r", folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]


@pytest.mark.parametrize("run_id", ["", "..", "a/b"])
def test_a_run_id_is_the_name_of_a_folder_also_for_auto(tmp_path, run_id):
    (tmp_path / "config.json").write_text(json.dumps(tiny.settings(tmp_path)))
    with pytest.raises(ConfigError, match="expected the name of a folder"):
        tiny.command_line("-c", tmp_path / "config.json", "-r", "auto", "--run_id", run_id)
