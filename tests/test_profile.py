"""Where the time of a step goes, as `trainer.profile` tells it."""

import gzip
import json
import re
import time
from collections import Counter

import pytest
import tiny
import torch
from test_resume import interrupted

from utils import profiling
from utils.errors import ConfigError


def test_a_profile_is_logged_and_traced_and_changes_nothing(tmp_path, capfd):
    plain = tiny.train(tiny.settings(tmp_path / "plain"))
    trainer = tiny.train(tiny.settings(tmp_path, trainer__profile=3, trainer__ema=0.9, trainer__verbosity=1))
    (line,) = re.findall(r"profile of 3 steps: [\d.]+ ms each: (.*)", capfd.readouterr().out)
    shares = dict(re.findall(r"(\w+) (\d+)%", line))
    assert list(shares) == ["data", "forward", "backward", "optimizer", "logging", "other"]
    assert 95 <= sum(map(int, shares.values())) <= 105 and all(int(shares[part]) for part in ("forward", "backward"))
    with gzip.open(trainer.config.log_dir / "trace.json.gz") as file:
        events = Counter(event.get("name") for event in json.load(file)["traceEvents"])
    assert events["forward"] == events["backward"] == 3
    assert events["logging"] == events["data"] == 6  # a record and a look; a fetch and a move
    assert events["optimizer"] == 6  # a step, and the moving average
    assert tiny.digest(trainer.model) == tiny.digest(plain.model)
    assert "_forward" not in vars(trainer) and "step" not in vars(trainer.runtime)


def test_a_resumed_run_waits_for_an_epoch_with_enough_steps(tmp_path, capfd):
    config = tiny.settings(tmp_path, trainer__profile=4, trainer__verbosity=1)
    path = interrupted(tiny.settings(tmp_path), after=16)
    trainer = tiny.train(config, resume=path)
    # Stopped in epoch 2, after 5 of 11 batches: it is epoch 3 that has the steps.
    assert trainer._observer._profile is None
    assert re.search(r"^ +2 .*\nprofile of 4 steps.*\ntrace of 4 more.*\n +3 ", capfd.readouterr().out, re.M)


def test_more_steps_than_an_epoch_has_are_an_error(tmp_path):
    settings = tiny.settings(tmp_path, trainer__profile=4, trainer__accumulate=2)
    with pytest.raises(ConfigError, match=r"trainer.profile: 4 steps need an epoch of 22 batches; it has 11"):
        tiny.build(settings)
    assert not list(tmp_path.rglob("*.pth"))


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
    assert clock.report(2).startswith("4000.000 ms each: data 0%, forward 25%")


def test_a_stop_inside_a_trace_leaves_nothing_switched_on(tmp_path):
    class Stopping(tiny.Trainer):
        def _update(self, batches):
            super()._update(batches)
            if self.step == 6:  # 3 to warm up, 3 timed: the first that is traced
                raise KeyboardInterrupt

    trainer = tiny.build(tiny.settings(tmp_path, trainer__profile=3), trainer_class=Stopping)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert "_forward" not in vars(trainer)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):  # one that runs would refuse
        pass


def test_a_trace_that_cannot_be_written_warns(tmp_path, capfd, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.profiler.profile, "export_chrome_trace", full)
    trainer = tiny.train(tiny.settings(tmp_path, trainer__profile=2, trainer__verbosity=1))
    assert "cannot be written, training goes on" in "".join(capfd.readouterr()) and trainer.epoch == 3
