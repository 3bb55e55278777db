"""What a user sees and sets on the first day: progress, the table of layers, threads, GPUs of any make."""

import logging
import os
import types

import pytest
import torch
from torch import nn

import logger.progress
import tiny
from logger.logger import ConsoleHandler
from logger.progress import Progress
from machinery.checkpoints import environment
from machinery.checks.layer_table import layer_table, watch
from machinery.errors import ConfigError
from machinery.order import seeding
from machinery.update.metrics import MetricTracker
from parse_config import ConfigParser
from utils import prepare_device


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(logger.progress.time, "monotonic", lambda: self.now)


def test_a_long_epoch_says_how_far_it_is_every_half_minute(monkeypatch, caplog):
    clock = Clock(monkeypatch)
    caplog.set_level(logging.INFO, "trainer")
    progress = Progress("epoch 2/9", 100, 1100, 6400, hidden=None)
    for seconds, step in ((10, 200), (31, 310), (50, 500), (62, 620)):
        clock.now = 100 + seconds
        progress.show(step, f"loss {1 / seconds:.3g}", 64 * step)
    progress.close()
    assert [record.message for record in caplog.records] == [
        "epoch 2/9: step 310 of 1,100, loss 0.0323, 434 samples/s, 01:56 left",
        "epoch 2/9: step 620 of 1,100, loss 0.0161, 537 samples/s, 00:57 left",
    ]


def test_beside_a_bar_the_line_goes_to_the_files_alone(monkeypatch, capfd, tmp_path):
    clock = Clock(monkeypatch)
    shown, kept = ConsoleHandler(), logging.FileHandler(tmp_path / "info.log")
    logs = logging.getLogger("trainer")
    monkeypatch.setattr(logs, "level", logging.INFO)
    for handler in (shown, kept):
        logs.addHandler(handler)
    try:
        for hidden in (False, True):
            progress = Progress("epoch 1/2", 0, 10, 0, hidden=hidden)
            clock.now += 40
            progress.show(5, "loss 1", 40)
            progress.close()
    finally:
        for handler in (shown, kept):
            logs.removeHandler(handler)
            handler.close()
    assert capfd.readouterr().out.count("epoch 1/2: step 5 of 10") == 1
    assert (tmp_path / "info.log").read_text().count("epoch 1/2: step 5 of 10") == 2


def test_an_epoch_is_told_by_the_trainer(tmp_path, monkeypatch, capfd):
    clock = Clock(monkeypatch)

    class Slow(tiny.Trainer):
        def _update(self, batches):
            clock.now += 16
            super()._update(batches)

    config = tiny.settings(tmp_path, trainer__epochs=1, trainer__log_step=1, trainer__verbosity=2)
    tiny.train(config, trainer_class=Slow)
    lines = [line for line in capfd.readouterr().out.splitlines() if "samples/s, " in line]
    assert len(lines) == 5 and lines[0].startswith("epoch 1/1: step 2 of 11, loss 1.")
    assert lines[0].endswith("0 samples/s, 02:24 left")


def test_the_layers_are_told_with_the_first_batch_of_each_process(tmp_path, capfd):
    config = tiny.settings(tmp_path, trainer__epochs=2, trainer__verbosity=2)
    trainer = tiny.train(config)
    tiny.train(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    lines = capfd.readouterr().out.splitlines()
    first, second = (i for i, line in enumerate(lines) if line.startswith("layer "))
    assert (
        lines[first : first + 6]
        == lines[second : second + 6]
        == [
            "layer   type         output   parameters",
            "model   TinyModel    [8, 3]          147",
            "  fc1   Linear       [8, 12]          84",
            "  norm  BatchNorm1d  [8, 12]          24",
            "  drop  Dropout      [8, 12]           0",
            "  fc2   Linear       [8, 3]           39",
        ]
    )
    assert not trainer.model._forward_hooks and not trainer.model.fc1._forward_hooks


def test_a_deep_network_is_folded_and_a_long_one_cut():
    def block():
        return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))

    deep = nn.Sequential(*[block() for _ in range(12)])
    told = watch(deep)
    deep(torch.zeros(5, 2))
    lines = told().splitlines()
    assert len(lines) == 1 + 1 + 12 * 3 and lines[2] == "  0    Sequential    [5, 2]          12"
    assert lines[4] == "    1  Sequential …  [5, 2]           6"
    long = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(60)])
    long[0].requires_grad_(False)
    lines = layer_table(long, {}).splitlines()
    assert len(lines) == 40 and lines[-2] == "… 24 layers more"
    assert lines[-1] == "4 of the parameters are frozen"


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_networks_of_any_kind_have_a_table():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scripted = torch.jit.script(nn.Linear(2, 2))
            self.lazy = nn.LazyLinear(3)

        def forward(self, x):
            return {"first": self.scripted(x), "second": (self.lazy(x), None)}

    model = Own()
    told = watch(model)
    model(torch.zeros(4, 2))
    assert "model       Own" in told() and "(first: [4, 2], second: ([4, 3" in told()
    compiled = torch.compile(nn.Linear(2, 2))
    assert "Linear" in watch(compiled)() and not compiled._orig_mod._forward_hooks


def test_threads_are_those_of_the_config_and_kept_with_the_run(tmp_path):
    before = torch.get_num_threads()
    try:
        trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1, trainer__threads=3))
        assert torch.get_num_threads() == 3
        assert trainer.config.run.environment["threads"] == 3
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match=r"trainer\.threads"):
        ConfigParser(tiny.settings(tmp_path, trainer__threads=0))


@pytest.mark.parametrize(
    ("threads", "load", "told"), [(4, 0.4, False), (4, 3.2, True), (1, 9.0, False), (3, 1.4, False)]
)
def test_a_busy_machine_is_told(tmp_path, monkeypatch, capfd, threads, load, told):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4), raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    tiny.train(tiny.settings(tmp_path, trainer__epochs=1, trainer__verbosity=2))
    advice = "4 threads on 4 cores that have a load of 3.2 already: --set trainer.threads=1 may be faster"
    assert capfd.readouterr().out.count(advice) == told == bool(environment.crowded())


def test_gpus_are_what_the_accelerator_says(monkeypatch, caplog):
    """A fake of two devices: torch's own `meta` stands for what a machine may have."""
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    assert prepare_device(0) == (torch.device("cpu"), [])
    assert prepare_device(1) == (torch.device("meta", 0), [0])
    assert not caplog.records
    assert prepare_device(3) == (torch.device("meta", 0), [0, 1])
    assert "n_gpu is 3, but 2 can be used" in caplog.messages[0]


def test_d_chooses_among_gpus_of_any_make(tmp_path, monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        monkeypatch.setenv(name, "")
    config = tmp_path / "config.json"
    config.write_text('{"name": "a", "trainer": {"epochs": 1}}')
    tiny.command_line("-c", config, "-d", "1")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["ZE_AFFINITY_MASK"] == "1"


def test_generators_of_other_gpus_are_seeded_too(monkeypatch):
    seeds = []
    keeper = types.SimpleNamespace(manual_seed=lambda value: seeds.append(value))
    gpu = types.SimpleNamespace(
        is_initialized=lambda: True, current_device=lambda: 1, default_generators=[None, keeper]
    )
    monkeypatch.setattr(seeding, "_GPU", gpu)
    seeding.seed_everything("a")
    monkeypatch.setattr(seeding, "_GPU", None)
    monkeypatch.setattr(seeding, "_KIND", torch.device("mps"))
    monkeypatch.setattr(torch.mps, "manual_seed", seeds.append)
    seeding.seed_everything("a")
    assert seeds == [seeding.mix("a")] * 2


def test_sums_are_single_precision_where_there_is_no_other(monkeypatch):
    zeros = torch.zeros

    def poor(*args, dtype, **kwargs):
        if dtype == torch.float64:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")
        return zeros(*args, dtype=dtype, **kwargs)

    tracker = MetricTracker("loss")
    monkeypatch.setattr(torch, "zeros", poor)
    tracker.update("loss", torch.tensor([1.0, 2.0]))
    assert tracker._sums["loss"].dtype == torch.float32 and tracker.avg("loss") == 1.5
    monkeypatch.undo()
    tracker.reset()
    tracker.update("loss", torch.tensor(0.5), 3)
    assert tracker._sums["loss"].dtype == torch.float64 and tracker.avg("loss") == 0.5
