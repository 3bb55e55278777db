"""Nothing silently wrong: what attacks on the template found, and their neighbours."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, SubsetRandomSampler

import tiny
from base import BaseDataLoader
from examples.ema import EMATrainer
from machinery.checkpoints import file as checkpoint
from machinery.checkpoints.run_folder import check_run_id
from machinery.config.optimization import init_optimizer
from machinery.errors import CheckpointError, ConfigError, DataError, StorageError
from machinery.telling import printable
from parse_config import ConfigParser
from projects import ROOT
from test_resume import interrupted
from utils import MetricTracker


@pytest.mark.parametrize("batch_size", [8, 200])
def test_an_evaluation_drops_no_batch(tmp_path, batch_size):
    args = {"batch_size": batch_size, "drop_last": True, "training": False, "validation_split": 0}
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1))
    log = trainer.evaluate(tiny.TinyLoader(**args), trainer.valid_metrics)
    assert trainer.valid_metrics.count("loss") == 103
    args["drop_last"] = False
    assert log == trainer.evaluate(tiny.TinyLoader(**args), trainer.valid_metrics)
    assert len(tiny.TinyLoader(batch_size=8, drop_last=True, validation_split=0)) == 12  # in training


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_sampler_of_the_user_s_own_draws_in_each_pass(shuffle):
    loader = tiny.TinyLoader(shuffle=shuffle, validation_split=0, sampler=SubsetRandomSampler(range(0, 40, 2)))
    first, second = (torch.cat([y for _, y in loader.batches(epoch)]) for epoch in (1, 2))
    assert len(first) == 20 and not torch.equal(first, second)
    split = tiny.TinyLoader(shuffle=shuffle, validation_split=0.2, kind="whole")
    first, second = (torch.cat([y for _, y in split.batches(epoch)]) for epoch in (1, 2))
    assert torch.equal(first, second) != shuffle  # the split's side is shuffled as the loader says


def test_a_subset_class_of_the_user_s_own_is_not_bypassed():
    class Scaled(Subset):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return 0 * x, y

        def __getitems__(self, indices):  # torch asks for it, too
            return [self[i] for i in indices]

    loader = BaseDataLoader(Scaled(tiny.WholePoints(40, noise=False), range(10)), 4, True, 0.0, 0)
    assert all(x.eq(0).all() for x, _ in loader)
    plain = BaseDataLoader(Subset(tiny.WholePoints(40, noise=False), range(10)), 4, True, 0.0, 0)
    assert not any(x.eq(0).all() for x, _ in plain)


class Noisy(Dataset):
    def __len__(self):
        return 80

    def __getitem__(self, i):
        return torch.randn(6) + i / 80, i % 3


@pytest.mark.parametrize("persistent", [False, True])
def test_a_foreign_loader_with_workers_resumes_exactly(tmp_path, persistent):
    def loader():
        return DataLoader(Noisy(), 8, shuffle=True, num_workers=2, persistent_workers=persistent)

    def kwargs():
        return {"data_loader": loader(), "valid_data_loader": None}

    class Foreign(tiny.Trainer):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, **kwargs()})

    config = tiny.settings(tmp_path / "a", trainer__monitor="off", trainer__len_epoch=10)
    unbroken = tiny.train(config, trainer_class=Foreign)
    config["trainer"]["save_dir"] = str(tmp_path / "b")

    class Stopping(Foreign):
        def _update(self, batches):
            super()._update(batches)
            if (self.epoch, self.step) == (2, 3):
                os.kill(os.getpid(), signal.SIGTERM)

    stopping = tiny.build(config, trainer_class=Stopping)
    with pytest.raises(BaseException, match="stopped by SIGTERM"):
        stopping.train()
    (path,) = stopping.checkpoint_dir.glob("*step*")
    assert tiny.digest(tiny.train(config, resume=path, trainer_class=Foreign).model) == tiny.digest(unbroken.model)


def test_the_sampler_of_a_foreign_loader_hears_of_the_epoch():
    from base.base_data_loader import training_batches

    class Heard(list):
        def set_epoch(self, epoch):
            self.append(epoch)

        def __iter__(self):
            return iter(range(16))

        def __len__(self):
            return 16

    sampler = Heard()
    list(training_batches(DataLoader(Noisy(), 8, sampler=sampler), 0, 6, 1))
    assert list.__getitem__(sampler, slice(None)) == [1, 2, 3]


@pytest.mark.parametrize("shape", [(1,), (4,), (5, 2), (5, 1)])
def test_a_value_of_another_shape_is_an_error(shape):
    tracker = MetricTracker("x")
    with pytest.raises(ConfigError, match=r"x: expected one value, or one for each of 5 samples, found a tensor \["):
        tracker.update("x", torch.ones(shape), 5)
    tracker.update("x", torch.arange(5.0), 5)
    tracker.update("x", torch.tensor(1.0), 5)
    assert tracker.avg("x") == 1.5
    tracker.update("x", torch.ones(7))  # the classic call, without a number of samples
    assert tracker.count("x") == 17


@pytest.mark.parametrize(
    "options, message",
    [
        ({"validation_split": 0.2, "sampler": range(20)}, "validation_split has no effect"),
        ({"validation_split": 3, "batch_sampler": [[0, 1]], "shuffle": False}, "validation_split has no effect"),
        ({"batch_sampler": [[0, 1]]}, "shuffle and drop_last have no effect"),
        ({"batch_sampler": [[0, 1]], "shuffle": False, "drop_last": True}, "shuffle and drop_last have no effect"),
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


@pytest.mark.parametrize("workers, drop_last", [(0, False), (2, False), (2, True)])
def test_iterable_data_with_workers_is_all_there(workers, drop_last):
    loader = tiny.TinyLoader(kind="stream", validation_split=0, n=102, num_workers=workers, drop_last=drop_last)
    sizes = [len(x) for x, _ in loader]
    assert len(sizes) == len(loader) and (sum(sizes) == 102 or drop_last)


class Versioned(nn.Module):
    """A module whose weights of an older version mean something else, as torchvision's MNASNet."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64) * 1j)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        assert local_metadata.get("version") == 2
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        self.seen = state["seen"]


def test_versions_complex_weights_and_extra_state_come_back(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    content = checkpoint.load(folder / "checkpoint-epoch1.pth")
    content["state_dict"] = nn.Sequential(Versioned()).state_dict()
    checkpoint.save(content, folder / "x.pth")
    model = nn.Sequential(Versioned())
    nn.init.zeros_(model[0].phase)
    model.load_state_dict(checkpoint.load(folder / "x.pth")["state_dict"])
    assert model[0].seen == 3 and model[0].phase.tolist() == [1j, 1j]


def test_a_network_with_extra_state_can_be_fine_tuned(tmp_path, monkeypatch):
    class Extra(tiny.TinyModel):
        def get_extra_state(self):
            return {"seen": 3}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    monkeypatch.setattr(tiny, "TinyModel", Extra)
    config = tiny.settings(tmp_path, trainer__epochs=1)
    path = tiny.train(config).checkpoint_dir / "checkpoint-epoch1.pth"
    (tmp_path / "c.json").write_text(json.dumps(config))
    assert tiny.train(tiny.command_line("-c", tmp_path / "c.json", "-r", path)).model.seen == 3


ADAM = {"type": "Adam", "args": {"lr": 0.01}}


def changed(tmp_path, before, after, epochs=2):
    """A run of two epochs, and a trainer that continues it with another config."""
    path = tmp_path / "c.json"
    command = ["-c", path, "--run_id", "one", "-r", "auto"]
    path.write_text(json.dumps(tiny.settings(tmp_path, trainer__epochs=epochs, **before)))
    tiny.init_optimizer_from(tiny.command_line(*command)).train()
    path.write_text(json.dumps(tiny.settings(tmp_path, trainer__epochs=epochs + 4, **after)))
    return tiny.init_optimizer_from(tiny.command_line(*command))


@pytest.mark.parametrize(
    "scheduler",
    [
        {"type": "LinearLR", "args": {"start_factor": 0.1, "total_iters": 4}},
        {"type": "ConstantLR", "args": {"factor": 0.5, "total_iters": 3}},
        {"type": "StepLR", "args": {"step_size": 1, "gamma": 0.5}},
        {"type": "CosineAnnealingLR", "args": {"T_max": 6}},
        {"type": "PolynomialLR", "args": {"total_iters": 5}},
        {"type": "CosineAnnealingWarmRestarts", "args": {"T_0": 3}},
        None,
    ],
)
def test_another_learning_rate_keeps_the_schedule_where_it_is(tmp_path, scheduler):
    def rates(lr, folder):
        optimizer = {"type": "Adam", "args": {"lr": lr}}
        trainer = tiny.init_optimizer_from(
            ConfigParser(tiny.settings(folder, trainer__epochs=6, optimizer=optimizer, lr_scheduler=scheduler))
        )
        trainer.train()
        return [float(row[-1]) for row in tiny.rows(trainer)[1:]]

    other = {"optimizer": {"type": "Adam", "args": {"lr": 0.002}}, "lr_scheduler": scheduler}
    trainer = changed(tmp_path, {"optimizer": ADAM, "lr_scheduler": scheduler}, other)
    trainer.train()
    wanted = rates(0.01, tmp_path / "a")[:2] + rates(0.002, tmp_path / "b")[2:]
    assert [float(row[-1]) for row in tiny.rows(trainer)[1:]] == pytest.approx(wanted, rel=1e-6)


def test_a_value_that_is_the_default_changes_nothing(tmp_path):
    scheduler = {"type": "StepLR", "args": {"step_size": 1, "gamma": 0.5}}
    before = {"optimizer": {"type": "Adam", "args": {"lr": 0.001}}, "lr_scheduler": scheduler}
    trainer = changed(tmp_path, before, {"optimizer": {"type": "Adam"}, "lr_scheduler": scheduler})
    trainer.restore()
    assert trainer.optimizer.param_groups[0]["lr"] == 0.00025


MOMENTUM = {"type": "RMSprop", "args": {"lr": 0.01}}


@pytest.mark.parametrize(
    "before, after, message",
    [
        ({}, {"optimizer": {**ADAM, "args": {"lr": 0.01, "amsgrad": True}}}, "optimizer.args.amsgrad of a running"),
        (
            {"optimizer": MOMENTUM},
            {"optimizer": {**MOMENTUM, "args": {"momentum": 0.9}}},
            "optimizer.args.momentum of a",
        ),
        ({"arch__freeze": ["fc1.bias"]}, {"arch__freeze": ["fc2.bias"]}, "parameters in its groups"),
        ({}, {"lr_scheduler__interval": "step"}, "lr_scheduler.interval cannot be changed"),
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
    trainer = changed(tmp_path, {**shared, **before}, {**shared, **after})
    with pytest.raises((ConfigError, CheckpointError), match=message):
        trainer.train()


def test_layers_in_another_order_are_refused(tmp_path, monkeypatch):
    path = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir / "checkpoint-epoch1.pth"

    class Reordered(tiny.TinyModel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            first = next(iter(self._modules))
            self._modules[first] = self._modules.pop(first)

    Reordered.__name__ = "TinyModel"
    monkeypatch.setattr(tiny, "TinyModel", Reordered)
    with pytest.raises(CheckpointError, match="in another order: "):
        tiny.train(tiny.settings(tmp_path, trainer__epochs=2), resume=path)


def test_a_skipped_step_leaves_reassigned_buffers_and_the_average_alone(tmp_path, monkeypatch):
    class Averaging(tiny.TinyModel):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.register_buffer("seen", torch.zeros(6))

        def forward(self, x):
            if self.training:
                self.seen = 0.9 * self.seen + 0.1 * x.mean(0)
            return super().forward(x)

    class Spoilt(EMATrainer):
        def _update(self, batches):
            bad = self.step == 4
            before = [value.clone() for value in self.ema.module.state_dict().values()]
            super()._update([(x * float("nan"), y) for x, y in batches] if bad else batches)
            self.bad = (bad, before)

        def _after_update(self, batches):
            super()._after_update(batches)
            bad, before = self.bad
            same = all(torch.equal(a, b) for a, b in zip(before, self.ema.module.state_dict().values(), strict=True))
            assert same == bad or self.step == 1

    monkeypatch.setattr(tiny, "TinyModel", Averaging)
    settings = {"trainer__on_nan": "skip", "trainer__ema_decay": 0.5, "trainer__epochs": 1}
    trainer = tiny.train(tiny.settings(tmp_path, **settings), trainer_class=Spoilt)
    assert torch.isfinite(trainer.model.seen).all()


def test_points_after_a_crash_in_the_first_epoch_are_dropped(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    class Crashing(tiny.Trainer):
        def _update(self, batches):
            super()._update(batches)
            if self.step == 8:
                raise ValueError("crash")

    settings = {"trainer__tensorboard": True, "trainer__save_step": 3, "trainer__epochs": 1, "trainer__log_step": 1}
    config = tiny.settings(tmp_path, **settings)
    crashed = tiny.build(config, trainer_class=Crashing)
    with pytest.raises(ValueError, match="crash"):
        crashed.train()
    path = crashed.checkpoint_dir / "checkpoint-epoch1-step6.pth"
    log_dir = tiny.train(config, resume=path).config.log_dir
    accumulator = EventAccumulator(str(log_dir / "train"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("loss")] == list(range(1, 12))


def spoil(**changes):
    """What puts values into the content of a checkpoint, by dotted__path."""

    def put(content):
        for path, value in changes.items():
            target = content
            *keys, last = path.split("__")
            for key in keys:
                target = target[key]
            if value is ...:
                del target[last]
            else:
                target[last] = value

    return put


NONSENSE = [
    *({"epoch": value} for value in ("x", None, -1, 0, 3.5, [], torch.ones(2))),
    *({"state_dict": value} for value in (None, [1], torch.ones(1), 3)),
    {"state_dict__fc1.bias": None},
    {"state_dict__fc1.bias": -1},
    {"state_dict__fc1.bias": torch.zeros(16, dtype=torch.complex64)},
    *({"optimizer": value} for value in (None, {}, [1], "x", {"param_groups": None, "state": {}})),
    {"optimizer__state": None},
    {"optimizer__param_groups": [{"params": None}]},
    *({"progress": value} for value in (None, {}, [1])),
    *({"progress__step": value} for value in ("x", -1, 0, {}, float("nan"), torch.ones(2))),
    {"progress__lr": ...},
    {"progress__finished": ...},
    *({"classes": value} for value in (None, -1, [1], {"optimizer": 3})),
    *({"states": value} for value in (None, [1], {"monitor": 3}, {"monitor": {}})),
    {"states__monitor": {"setting": "min val_loss"}},
    {"states__train_metrics": {"sums": None}},
    *({"environment": value} for value in (None, 3)),
    *({"config": value} for value in (None, [1], "x")),
    {"monitor_best": "x"},
    {"arch": 3},
    {"format_version": 0},
    {"format_version": True},
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    path = tiny.train(tiny.settings(folder, trainer__epochs=1)).checkpoint_dir / "checkpoint-epoch1.pth"
    return path, folder


@pytest.mark.parametrize("changes", NONSENSE, ids=lambda changes: str(changes)[:40])
def test_nonsense_with_a_right_checksum_is_refused(whole, changes):
    path, folder = whole
    content = checkpoint.load(path)
    spoil(**changes)(content)
    checkpoint.save(content, path.parent / "nonsense.pth")
    with pytest.raises(CheckpointError) as caught:
        tiny.train(tiny.settings(folder, trainer__epochs=2), resume=path.parent / "nonsense.pth")
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("content", ["[]", "null", "3", '{"trainer": 3}', "[" * 100_000, "", '{"name": null}'])
@pytest.mark.parametrize("name", ["config.json", "status.json"])
def test_an_odd_run_of_the_same_name_stops_nobody(tmp_path, name, content):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny.settings(tmp_path, trainer__epochs=1)))
    odd = tmp_path / "models" / "Tiny" / "odd"
    odd.mkdir(parents=True)
    (odd / "config.json").write_text(config.read_text())
    (odd / "checkpoint-epoch1.pth").symlink_to("/nowhere")
    (odd / name).write_text(content)
    assert tiny.command_line("-c", config, "-r", "auto").launch.run is None
    (odd / name).write_text('{"exit_code": 1e999}')
    assert tiny.command_line("-c", config, "-r", "auto").launch.run is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_in_a_run_folder_stop_nobody(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    for path in (trainer.checkpoint_dir / "status.json", trainer.config.log_dir / "metrics.csv"):
        path.unlink()
        os.mkfifo(path)
    (trainer.checkpoint_dir / ".lock").unlink()
    os.mkfifo(trainer.checkpoint_dir / ".lock")
    with pytest.raises(Exception, match="is not a regular file"):
        tiny.train(tiny.settings(tmp_path, trainer__epochs=2), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")


@pytest.mark.parametrize("run_id", ["", "a/b", "a\\b", "..", "a\x00b", "a\nb", "\x1b[31mred", "x" * 300, "\ud800"])
def test_run_ids_that_are_no_names(run_id):
    with pytest.raises(ConfigError, match="expected the name of a folder"):
        check_run_id(run_id)


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


def test_a_terminal_is_not_commanded(capfd):
    assert printable("a\x1b[31mb\r\x9b\ud800 é…\n\t") == "a?[31mb??? é…\n\t"
    ConfigParser({**tiny.CONFIG, "my\x1b[31mkey": 1, "trainer": {**tiny.CONFIG["trainer"], "verbosity": 2}})
    assert "\x1b" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("path", ["x" * 300, "loop.json", "a\x00b"])
@pytest.mark.parametrize("option", ["-c", "-r"])
def test_paths_that_cannot_be(tmp_path, monkeypatch, option, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop.json").symlink_to("loop.json")
    with pytest.raises((ConfigError, CheckpointError), match=r"cannot be read|does not exist"):
        tiny.command_line(option, path)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_is_a_polite_stop_unless_it_is_ignored(tmp_path, ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:

        class HungUp(tiny.Trainer):
            def _update(self, batches):
                super()._update(batches)
                if (self.epoch, self.step) == (2, 3):
                    os.kill(os.getpid(), signal.SIGHUP)

        trainer = tiny.build(tiny.settings(tmp_path), trainer_class=HungUp)
        if ignored:
            trainer.train()
        else:
            with pytest.raises(BaseException, match="stopped by SIGHUP") as caught:
                trainer.train()
            assert caught.value.exit_code == 129
    finally:
        signal.signal(signal.SIGHUP, before)


def test_exit_codes_survive_streams_that_cannot_be_written():
    for stream in ("2>/dev/full", ">/dev/full 2>/dev/full", "2>&-"):
        line = f"{sys.executable} train.py -c nope.json {stream}"
        assert subprocess.run(line, shell=True, cwd=ROOT).returncode == 2


def test_a_run_that_ended_before_its_record_did_is_put_in_order(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=2))
    folder = trainer.checkpoint_dir
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "state": "running"}))
    (folder / "x.pth.9.tmp").write_text("")
    tiny.train(tiny.command_line("-r", folder))
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert not (folder / "x.pth.9.tmp").exists()


def test_the_best_that_is_named_at_the_end_is_the_file_s(tmp_path, capfd):
    class Best(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": [5.0, 4.0, 3.0][epoch - 1]}

    trainer = tiny.train(tiny.settings(tmp_path, trainer__verbosity=1), trainer_class=Best)
    first = trainer.checkpoint_dir / "checkpoint-epoch2.pth"
    capfd.readouterr()
    tiny.train(tiny.command_line("-r", first, "--set", "trainer.epochs=2"), trainer_class=Best)
    told = capfd.readouterr().out
    assert "best val_loss" not in told and "checkpoint-epoch2.pth" in told.split("test:")[1].splitlines()[0]


def test_validation_data_with_shuffle_is_the_same_each_time(tmp_path):
    loader = tiny.TinyLoader(shuffle=True, validation_split=0)
    orders = [torch.cat([y for _, y in loader.batches(0)]) for _ in range(2)]
    assert torch.equal(*orders)


def test_metrics_that_change_inside_an_epoch_are_refused(tmp_path):
    path = interrupted(tiny.settings(tmp_path), after=16)
    with pytest.raises(CheckpointError, match="cannot be continued with metrics"):
        tiny.train(tiny.settings(tmp_path, metrics=["accuracy", {"type": "accuracy", "name": "again"}]), resume=path)
    with pytest.raises(CheckpointError, match="cannot be continued with shuffle"):
        tiny.train(tiny.settings(tmp_path, data_loader__args={"shuffle": False}), resume=path)
    assert np.isfinite(tiny.train(tiny.settings(tmp_path), resume=path).monitor.best)


def test_a_split_without_shuffle_says_so(tmp_path, capfd):
    tiny.train(tiny.settings(tmp_path, trainer__epochs=1, trainer__verbosity=1, data_loader__args={"shuffle": False}))
    assert "the loader 'train' reads its samples in one order" in capfd.readouterr().out
    tiny.train(tiny.settings(tmp_path, trainer__epochs=1, trainer__verbosity=1))
    assert "in one order" not in capfd.readouterr().out


class WithState(DataLoader):
    """As torchdata's loaders are: it would go on from a place of its own."""

    def state_dict(self):
        return {"place": 5}

    def load_state_dict(self, state):
        raise AssertionError("the loader is read up to the place")


def test_a_foreign_loader_with_a_state_is_no_part(tmp_path):
    class Foreign(tiny.Trainer):
        def __init__(self, *args, **options):
            loader = WithState(Noisy(), 8, shuffle=True)
            super().__init__(*args, **{**options, "data_loader": loader, "valid_data_loader": WithState(Noisy(), 8)})

    config = tiny.settings(tmp_path / "a")
    unbroken = tiny.train(config, trainer_class=Foreign)
    config["trainer"]["save_dir"] = str(tmp_path / "b")
    path = interrupted(config, after=14, cls=(Foreign,))
    assert tiny.digest(tiny.train(config, resume=path, trainer_class=Foreign).model) == tiny.digest(unbroken.model)


def test_another_length_of_epochs_says_where_the_data_goes_on(tmp_path, capfd):
    config = tiny.settings(tmp_path, trainer__epochs=1, trainer__len_epoch=4)
    path = tiny.train(config).checkpoint_dir / "checkpoint-epoch1.pth"
    config["trainer"] |= {"epochs": 2, "len_epoch": 7}
    tiny.train(config, resume=path)
    assert "4 -> 7 batches in an epoch: epoch 2 begins at batch 7 of the data, not at 4" in capfd.readouterr().out


def test_a_stop_does_not_wait_for_a_slow_fetch(tmp_path):
    stopped_in = []

    class Slow(Noisy):
        def __getitem__(self, i):
            if len(stopped_in) == 0 and torch.utils.data.get_worker_info() is None and Slow.armed:
                stopped_in.append(i)
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("the fetch went on")
            return super().__getitem__(i)

    def build(config, **kwargs):
        trainer = tiny.build(config, **kwargs)
        trainer.data_loader = BaseDataLoader(Slow(), 8, True, 0.0, 0)
        trainer.valid_data_loader = BaseDataLoader(Slow(), 8, False, 0.0, 0, name="valid")
        return trainer

    for arm_at in (3, "valid"):
        Slow.armed, where = False, tmp_path / str(arm_at)
        unbroken = build(tiny.settings(where / "a", trainer__epochs=1))
        unbroken.train()
        trainer = build(tiny.settings(where / "b", trainer__epochs=1))
        update, evaluate = trainer._update, trainer.evaluate

        def armed_update(batches, trainer=trainer, update=update, arm_at=arm_at):
            update(batches)
            Slow.armed = trainer.step + 1 == arm_at

        def armed_evaluate(*args, evaluate=evaluate, arm_at=arm_at):
            Slow.armed = arm_at == "valid"
            return evaluate(*args)

        trainer._update, trainer.evaluate = armed_update, armed_evaluate
        with pytest.raises(BaseException, match=f"stopped by SIGTERM in epoch 1, step {arm_at if arm_at == 3 else 11}"):
            trainer.train()
        Slow.armed = False
        stopped_in.clear()
        (path,) = trainer.checkpoint_dir.glob("*step*")
        again = build(tiny.settings(where / "b", trainer__epochs=1), resume=path)
        again.train()
        assert tiny.digest(again.model) == tiny.digest(unbroken.model) and tiny.rows(again) == tiny.rows(unbroken)


def test_a_stopped_check_names_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py"])
    config = tiny.settings(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(config))
    trainer = tiny.build(tiny.command_line("-c", tmp_path / "tiny.json", "--check"))
    update = trainer._update
    trainer._update = lambda batches: (update(batches), os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(BaseException, match="nothing of it is kept") as caught:
        trainer.train()
    assert "resume" not in str(caught.value)


def test_a_check_says_that_no_run_folder_can_be_made(tmp_path):
    (tmp_path / "tiny.json").write_text(json.dumps(tiny.settings("/proc/nobody")))
    with pytest.raises(StorageError, match="/proc/nobody/models/Tiny cannot be made"):
        tiny.build(tiny.command_line("-c", tmp_path / "tiny.json", "--check"))


class Shrinking:
    """Promises more batches than it has."""

    def __len__(self):
        return 9

    def __iter__(self):
        return iter([[1, 2], [3, 4]])


class Breaking(IterableDataset):
    def __len__(self):
        return 40

    def __iter__(self):
        yield torch.randn(6), 1
        raise FileNotFoundError("shard-7.tar")


@pytest.mark.parametrize(
    "loader, told",
    [
        (lambda: BaseDataLoader(Noisy(), 8, False, 0.0, 0, batch_sampler=Shrinking()), "batch 2 of pass 1: IndexError"),
        (
            lambda: BaseDataLoader(Breaking(), 8, False, 0.0, 0),
            "shard-7.tar\n  at .*test_silent.py:",
        ),
        (lambda: BaseDataLoader(Breaking(), 8, False, 0.0, 2), "FileNotFoundError: shard-7.tar"),
        (lambda: DataLoader(Breaking(), 8), "the loader 'DataLoader' could not .*FileNotFoundError: shard-7.tar"),
        (lambda: DataLoader(Breaking(), 8, num_workers=2), "FileNotFoundError: shard-7.tar"),
        (
            lambda: DataLoader([(lambda: 1, 2)] * 9, 3, num_workers=1, multiprocessing_context="spawn"),
            "could not make batch 0 of pass 1: .*pickle",
        ),
        (
            lambda: BaseDataLoader([(lambda: 1, 2)] * 9, 3, False, 0.0, 1, multiprocessing_context="spawn"),
            "could not make batch 0 of pass 1: .*pickle",
        ),
    ],
)
def test_what_a_loader_raises_is_about_the_data(tmp_path, loader, told):
    class Own(tiny.Trainer):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "data_loader": loader(), "valid_data_loader": None})

    with pytest.raises(DataError, match=told) as caught:
        tiny.train(tiny.settings(tmp_path, trainer__monitor="off"), trainer_class=Own)
    assert "nothing had been saved yet" in str(caught.value)


def test_a_loss_that_lacks_a_keyword(tmp_path, monkeypatch):
    def weighted(output, target, *, weight):
        return (output[:, 0] * weight).mean()

    monkeypatch.setattr(tiny, "weighted", weighted, raising=False)
    with pytest.raises(ConfigError, match="weighted needs 'weight'"):
        tiny.build(tiny.settings(tmp_path, loss="weighted"))
    tiny.train(tiny.settings(tmp_path, trainer__epochs=1, loss={"type": "weighted", "args": {"weight": 2.0}}))


def test_lazy_modules_are_refused_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "Lazy", type("Lazy", (nn.LazyLinear,), {"__module__": "tiny"}), raising=False)
    config = ConfigParser(tiny.settings(tmp_path, arch={"type": "Lazy", "args": {"out_features": 3}}))
    with pytest.raises(ConfigError, match="lazy modules have no weights yet"):
        init_optimizer(config, config.init_obj("arch", tiny))


def test_a_missing_file_of_a_loader_is_about_the_data(tmp_path, monkeypatch):
    def missing(**_):
        return open(tmp_path / "nothing.csv")

    monkeypatch.setattr(tiny.TinyLoader, "__init__", lambda self, **_: missing())
    with pytest.raises(DataError, match=r"data_loader \(TinyLoader\): FileNotFoundError"):
        tiny.build(tiny.settings(tmp_path))


def test_a_config_from_a_checkpoint_makes_nothing_outside_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny.TinyLoader, "__init__", _with_data_dir(tiny.TinyLoader.__init__))
    config = tiny.settings(tmp_path, trainer__epochs=1, data_loader__args={"data_dir": str(tmp_path / "outside")})
    run = tiny.train(config).checkpoint_dir
    for value in (str(tmp_path / "outside"), "../../outside-of-it"):
        state = checkpoint.load(run / "checkpoint-epoch1.pth")
        state["config"]["data_loader"]["args"]["data_dir"] = value
        checkpoint.save(state, run / "checkpoint-epoch1.pth")
        with pytest.raises(CheckpointError, match=r"args.data_dir: .* is outside .* --set data_loader.args"):
            tiny.command_line("-r", run / "checkpoint-epoch1.pth")
        tiny.command_line("-r", run / "checkpoint-epoch1.pth", "--set", f"data_loader.args.data_dir={value}")
    (tmp_path / "outside").mkdir()  # what is there may be read
    tiny.command_line("-r", run / "checkpoint-epoch1.pth", "--set", f"data_loader.args.data_dir={tmp_path / 'outside'}")


def _with_data_dir(init):
    return lambda self, data_dir="data", **options: init(self, **options)
