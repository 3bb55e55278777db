"""Where the time of a step goes, as tools/profile_steps.py tells it."""

import gzip
import json
import logging
import re
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

import ranks
import tiny
from machinery import distributed
from machinery.errors import ConfigError, StorageError
from machinery.update.runtime import unwrap
from machinery.update.sharding import is_sharded
from projects import ROOT, quick
from tools import profile_steps


def profiled(tmp_path, steps=3, **settings):
    trainer = tiny.build(tiny.settings(tmp_path, **settings))
    return trainer, list(profile_steps.profiled(trainer, steps, tmp_path / "trace.json.gz"))


def test_a_profile_tells_the_parts_and_traces_them(tmp_path):
    _, (line, traced) = profiled(tmp_path, trainer__save_step=5)
    (line,) = re.findall(r"profile of 3 steps: [\d.]+ ms each: (.*)", line)
    shares = dict(re.findall(r"(\w+) (\d+)%", line))
    assert list(shares) == [
        "data",
        "forward",
        "backward",
        "optimizer",
        "logging",
        "saving",
        "other",
    ]
    assert 95 <= sum(map(int, shares.values())) <= 105 and all(
        int(shares[part]) for part in ("forward", "backward")
    )
    assert "trace of 3 steps" in traced
    with gzip.open(tmp_path / "trace.json.gz") as file:
        events = Counter(event.get("name") for event in json.load(file)["traceEvents"])
    assert events["forward"] == events["backward"] == 3
    assert events["data"] == 6 and events["logging"] == 4  # three records, and a window
    assert events["optimizer"] == 3


def test_a_profile_trains_as_the_trainer_does_through_epochs(tmp_path):
    trainer, _ = profiled(tmp_path, steps=9)  # 3 + 9 + 9 of the 33 of 3 epochs
    plain = tiny.build(tiny.settings(tmp_path / "plain", trainer__len_epoch=21))
    next(
        iter(
            [
                batches
                for batches in plain._groups(1)
                if plain._update(batches) or plain._after_update(1)
            ]
        ),
        None,
    )
    assert trainer.epoch == 2 and trainer.step == 10
    assert tiny.digest(trainer.model) == tiny.digest(plain.model)


def test_saving_is_that_of_the_run(tmp_path, caplog):
    later = {"trainer__async_save": True, "trainer__checkpoint": "sharded"}
    trainer, _ = profiled(tmp_path, trainer__save_step=5, **later)
    assert trainer._checkpoints._later is not None
    assert trainer._checkpoints.newest.name == "checkpoint-epoch1-step5.sharded"
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]


def profiled_together(folder, settings):
    """What one of several processes tells, and what the weights are in it then."""
    trainer = tiny.as_train_py(settings)
    trainer.restore()
    lines = list(profile_steps.profiled(trainer, 3, folder / f"{distributed.rank()}.json.gz"))
    shared = any(map(is_sharded, unwrap(trainer.model).parameters()))
    return len(lines), shared, tiny.digest(trainer.model) if not shared else ""


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_processes_train_together_and_the_main_one_is_traced(tmp_path, strategy):
    args = {"drop_last": True, "batch_size": 4}
    settings = tiny.settings(tmp_path, trainer__save_step=3, data_loader__args=args)
    settings["trainer"]["strategy"] = strategy
    first, second = ranks.run(tmp_path, 2, profiled_together, tmp_path, settings)
    assert first == second and first[:2] == (2, strategy == "fsdp")
    assert [file.name for file in tmp_path.glob("*.gz")] == ["0.json.gz"]


def test_a_run_with_too_few_steps_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the run has 33 optimizer steps left, and this takes 83"):
        profiled(tmp_path, steps=40)


def test_a_part_inside_another_is_counted_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = profile_steps.Clock(torch.device("cpu"))
    with clock.part("optimizer"):
        now[0] += 1
        with clock.part("forward"):
            now[0] += 2
        now[0] += 4
    now[0] += 1
    clock.read("other")
    assert (
        clock.seconds["optimizer"] == 5
        and clock.seconds["forward"] == 2
        and clock.seconds["other"] == 1
    )
    clock.steps = 2
    assert (
        clock.report()
        == "profile of 2 steps: 4000.000 ms each: forward 25%, optimizer 62%, other 12%"
    )


def test_parts_are_timed_with_the_work_of_the_device(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waits.append(1))
    clock = profile_steps.Clock(torch.device("meta"))
    with clock.part("data"):
        pass
    assert len(waits) == 3


def test_a_stop_inside_leaves_nothing_switched_on(tmp_path):
    class Stopping(tiny.Trainer):
        def _update(self, batches):
            super()._update(batches)
            if self.step == at:
                raise KeyboardInterrupt

    for at in (4, 6):  # 3 to warm up, 3 timed, 3 traced
        trainer = tiny.build(tiny.settings(tmp_path / str(at)), trainer_class=Stopping)
        with pytest.raises(KeyboardInterrupt):
            list(profile_steps.profiled(trainer, 3, tmp_path / "trace.json.gz"))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True):
        pass


def test_an_epoch_of_the_user_s_own_is_refused(tmp_path):
    class OwnLoop(tiny.Trainer):
        def _train_epoch(self, epoch):
            return {"loss": 1.0}

    trainer = tiny.build(tiny.settings(tmp_path, trainer__monitor="off"), trainer_class=OwnLoop)
    with pytest.raises(ConfigError, match="OwnLoop has an epoch of its own"):
        list(profile_steps.profiled(trainer, 3, tmp_path / "trace.json.gz"))


@pytest.mark.parametrize("cut", [False, True])
def test_a_trace_that_cannot_be_written_is_an_error(tmp_path, monkeypatch, cut):
    def full(self, path):
        if not cut:
            raise OSError(28, "No space left on device")
        Path(path).write_text('{"traceEvents": [')  # Kineto says nothing of it

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    with pytest.raises(StorageError, match="was cut short" if cut else "cannot be written"):
        profiled(tmp_path)
    assert not (tmp_path / "trace.json.gz").exists()


def test_the_command_leaves_its_trace_alone(tmp_path):
    result = quick(
        ROOT, "tools/profile_steps.py", "-c", "config.json", "--steps", "2", cwd=tmp_path
    )
    assert result.returncode == 2 and "config.json cannot be read" in result.stderr
    arguments = ["-c", ROOT / "config.json", "--steps", "2"]
    result = quick(ROOT, "tools/profile_steps.py", *arguments, cwd=tmp_path)
    assert result.returncode == 0 and "profile of 2 steps" in result.stdout, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json.gz"]
    none = quick(ROOT, "tools/profile_steps.py", "-c", ROOT / "config.json", "--steps", "0")
    assert none.returncode == 2
