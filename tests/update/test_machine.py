"""The machine: threads, GPUs of any make, and sums where there is no double precision."""

import os
import types

import pytest
import torch

import tiny
from logger.logger import setup_console
from machinery.checkpoints import environment
from machinery.errors import ConfigError
from machinery.launch import devices
from machinery.order import seeding
from machinery.update.metrics import MetricTracker
from parse_config import ConfigParser
from utils import prepare_device


def test_threads_are_those_of_the_config_and_kept_with_the_run(tmp_path):
    before = torch.get_num_threads()
    try:
        trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1, trainer__threads=3))
        assert torch.get_num_threads() == 3
        assert trainer.config.run.environment["threads"] == 3
        tiny.build(tiny.settings(tmp_path))  # the next run of the process does not ask for it
        assert torch.get_num_threads() == before
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
    advice = (
        "4 threads on 4 cores that have a load of 3.2 "
        "already: --set trainer.threads=1 may be faster"
    )
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


def test_a_gpus_checkpoint_loads_on_the_cpu(tmp_path, monkeypatch):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1))
    with monkeypatch.context() as patched:
        patched.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
        trainer.train()
    assert b"cuda:0" in (trainer.checkpoint_dir / "checkpoint-epoch1.pth").read_bytes()
    again = tiny.train(
        tiny.settings(tmp_path), resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth"
    )
    assert again.epoch == 3


@pytest.mark.parametrize(
    ("named", "visible", "there", "told"),
    [
        ("3", 0, 2, "-d 3: 0 of these can be used; the ids of this machine's GPUs are below 2"),
        ("0,5", 1, 2, "-d 0,5: 1 of these can be used"),
        ("0,1", 2, 2, None),
        ("3", 0, 0, None),  # no GPU at all: the CPU stands in
        ("-1", 0, 2, None),
        ("", 0, 2, None),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_where_there_are_some(
    tmp_path, monkeypatch, named, visible, there, told
):
    for variable in ("CUDA_VISIBLE_DEVICES", "ZE_AFFINITY_MASK"):
        monkeypatch.setenv(variable, "")  # put back afterwards
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: visible)
    monkeypatch.setattr("machinery.launch.devices._may_have_gpus", lambda: True)
    monkeypatch.setattr("machinery.launch.devices._all_there_are", lambda: there)
    monkeypatch.setattr("machinery.torchrun.spread", lambda *_: None)
    path = tiny.write_config(tmp_path)
    if told is None:
        tiny.command_line("-c", path, "-d", named)
        return
    with pytest.raises(ConfigError, match=told):
        tiny.command_line("-c", path, "-d", named)


def test_gpus_that_are_hidden_are_counted_by_a_process_that_sees_them(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    count = "import os; print(2 - len(os.environ.get('CUDA_VISIBLE_DEVICES', '')))"
    monkeypatch.setattr(devices, "_COUNT", count)
    assert devices._all_there_are() == 2
    monkeypatch.setattr(devices, "_COUNT", "raise SystemExit('the driver is too old')")
    assert devices._all_there_are() == 0


def test_more_gpus_than_there_are(monkeypatch, messages):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    setup_console()
    assert prepare_device(2) == (torch.device("cpu"), [])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert prepare_device(2) == (torch.device("cuda:0"), [0])
    text = messages()
    assert "n_gpu is 2, but 0 can be used: computing on the CPU" in text
    assert "n_gpu is 2, but 1 can be used: computing on what there is" in text
