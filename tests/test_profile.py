"""Where the time of a step goes, as `trainer.profile` tells it."""

import gzip
import itertools
import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest
import tiny
import torch
from test_resume import interrupted

from utils import profiling
from utils.errors import ConfigError
from utils.runtime import UNSEEN


def test_a_profile_is_logged_and_traced_and_changes_nothing(tmp_path, capfd):
    plain = tiny.train(tiny.settings(tmp_path / "plain"))
    trainer = tiny.train(
        tiny.settings(tmp_path, trainer__profile=3, trainer__ema=0.9, trainer__verbosity=1, trainer__save_step=5)
    )
    (line,) = re.findall(r"profile of 3 steps: [\d.]+ ms each: (.*)", capfd.readouterr().out)
    shares = dict(re.findall(r"(\w+) (\d+)%", line))
    assert list(shares) == ["data", "forward", "backward", "optimizer", "logging", "saving", "other"]
    assert 95 <= sum(map(int, shares.values())) <= 105 and all(int(shares[part]) for part in ("forward", "backward"))
    with gzip.open(trainer.config.log_dir / "trace-1.json.gz") as file:
        events = Counter(event.get("name") for event in json.load(file)["traceEvents"])
    assert events["forward"] == events["backward"] == 3
    assert events["data"] == 3 and events["logging"] == 4  # three records, and a window
    assert events["optimizer"] == 6  # a step, and the moving average
    assert tiny.digest(trainer.model) == tiny.digest(plain.model)
    assert trainer.runtime.part is UNSEEN


def test_a_resumed_run_waits_for_an_epoch_with_enough_steps(tmp_path, capfd):
    config = tiny.settings(tmp_path, trainer__profile=4, trainer__verbosity=1)
    path = interrupted(tiny.settings(tmp_path), after=16)
    trainer = tiny.train(config, resume=path)
    # Stopped in epoch 2, after 5 of 11 batches: it is epoch 3 that has the steps.
    assert trainer._profile is None
    assert re.search(
        r"^ +2 .*\nprofile of 4 steps.*\ntrace of the steps after these.*\n +3 ", capfd.readouterr().out, re.M
    )


def test_more_steps_than_an_epoch_has_are_an_error(tmp_path):
    settings = tiny.settings(tmp_path, trainer__profile=4, trainer__accumulate=2)
    with pytest.raises(ConfigError, match=r"profile: 4 steps, as many to trace and 3 before take 11; an epoch has 6"):
        tiny.build(settings)
    assert not list(tmp_path.rglob("*.pth"))
    tiny.build(tiny.settings(tmp_path, trainer__profile=4, trainer__accumulate=2, trainer__len_epoch=21))  # 11 updates


def test_a_part_inside_another_is_counted_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = profiling.Clock(torch.device("cpu"))
    with clock.part("optimizer"):
        now[0] += 1
        with clock.part("forward"):
            now[0] += 2
        now[0] += 4
    now[0] += 1
    clock.read("other")
    assert clock.seconds["optimizer"] == 5 and clock.seconds["forward"] == 2 and clock.seconds["other"] == 1
    clock.steps = 2
    assert clock.report() == "profile of 2 steps: 4000.000 ms each: forward 25%, optimizer 62%, other 12%"


def test_a_stop_inside_a_trace_leaves_nothing_switched_on(tmp_path, capfd):
    class Stopping(tiny.Trainer):
        def _update(self, batches):
            super()._update(batches)
            if self.step == 6:  # 3 to warm up, 3 timed: the first that is traced
                raise KeyboardInterrupt

    trainer = tiny.build(tiny.settings(tmp_path, trainer__profile=3, trainer__verbosity=1), trainer_class=Stopping)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.runtime.part is UNSEEN
    assert "profile of 3 steps" in capfd.readouterr().out  # what was measured is told
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):  # one that runs would refuse
        pass


def test_parts_are_timed_with_the_work_of_the_device(monkeypatch):
    waits = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waits.append(1))
    clock = profiling.Clock(torch.device("meta"))
    with clock.part("data"):
        pass
    assert len(waits) == 3


def test_a_method_of_the_object_s_own_stays(tmp_path):
    class Wrapped(tiny.Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.calls, inner = [], self._forward
            self._forward = lambda batch: self.calls.append(1) or inner(batch)

    config = tiny.settings(tmp_path, trainer__profile=2)
    assert len(tiny.train(config, trainer_class=Wrapped).calls) == 3 * (11 + 3)


def test_what_takes_no_profile_says_so(tmp_path, capfd):
    class OwnLoop(tiny.Trainer):
        def _train_epoch(self, epoch):
            return {"loss": 1.0, "val_loss": 1.0}

    tiny.train(tiny.settings(tmp_path, trainer__profile=2), trainer_class=OwnLoop)
    assert "trainer.profile: nothing was profiled" in "".join(capfd.readouterr())


def test_a_check_takes_none(tmp_path, capfd):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__profile=2, trainer__verbosity=1))
    trainer.config.launch.checking = True
    trainer.train()
    assert "profile" not in "".join(capfd.readouterr())


def test_another_profiler_goes_on(tmp_path, capfd):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as outer:
        trainer = tiny.train(tiny.settings(tmp_path, trainer__profile=2))
    assert len(outer.events()) > 100 and not list(trainer.config.log_dir.glob("trace*"))
    assert "no trace: another profiler is running" in "".join(capfd.readouterr())


def test_a_loader_with_fewer_batches_than_it_says(tmp_path, capfd):
    class Short(tiny.Trainer):
        def _groups(self, epoch):
            return itertools.islice(super()._groups(epoch), 5)

    tiny.train(tiny.settings(tmp_path, trainer__profile=4, trainer__verbosity=1), trainer_class=Short)
    assert "profile of 2 steps" in capfd.readouterr().out


@pytest.mark.parametrize("cut", [False, True])
def test_a_trace_that_cannot_be_written_warns(tmp_path, capfd, monkeypatch, cut):
    def full(self, path):
        if not cut:
            raise OSError(28, "No space left on device")
        Path(path).write_text('{"traceEvents": [')  # Kineto says nothing of it

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    trainer = tiny.train(tiny.settings(tmp_path, trainer__profile=2, trainer__verbosity=1))
    assert "cannot be written, training goes on" in "".join(capfd.readouterr()) and trainer.epoch == 3
    assert not list(trainer.config.log_dir.glob("trace*"))
