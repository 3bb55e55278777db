"""`trainer.max_time`: a run ends in time, as with its last epoch."""

import time

import pytest

import ranks
import tiny
from machinery import stopping
from machinery.errors import ConfigError
from parse_config import ConfigParser


class Clock:
    """Time that goes by with each update, and not with anything else."""

    def __init__(self, seconds):
        self.now = 0.0
        self.seconds = seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock(10.0)
    for module in ("machinery.stopping", "machinery.checkpoints.run"):
        monkeypatch.setattr(f"{module}.time", Times(made))
    return made


class Times:
    """The module `time` with another clock."""

    def __init__(self, clock):
        self.clock = clock

    def monotonic(self):
        return self.clock.now

    def __getattr__(self, name):
        return getattr(time, name)


def trainer_of(clock):
    class Ticking(tiny.Trainer):
        updates = 0

        def _after_update(self, batches):
            clock.now += clock.seconds
            Ticking.updates += 1
            super()._after_update(batches)

    return Ticking


def settings(folder, limit, **changes):
    return tiny.settings(folder, trainer__max_time=limit, **changes)


def test_a_run_ends_within_an_epoch_as_with_its_last(tmp_path, clock, capfd):
    kind = trainer_of(clock)
    config = settings(tmp_path, "2.5m", trainer__verbosity=1)  # 15 of 33 updates
    trainer = tiny.train(config, trainer_class=kind)
    assert kind.updates == 15 and trainer.epoch == 2 and len(tiny.rows(trainer)) == 3
    assert tiny.status(trainer)["state"] == "finished"
    names = sorted(path.name for path in trainer.checkpoint_dir.glob("*.pth"))
    assert names == ["checkpoint-epoch1.pth", "checkpoint-epoch2.pth", "model_best.pth"]
    told = capfd.readouterr().out
    assert "trainer.max_time 2.5m is over" in told
    assert "--set trainer.max_time=5m" in told and "trainer.epochs" not in told
    # What goes on has no time left, and says so.
    path = tiny.newest(trainer.checkpoint_dir)
    idle = tiny.train(config, resume=path, trainer_class=kind)
    assert kind.updates == 15 and len(tiny.rows(idle)) == 3
    assert "nothing to do (epoch 2 of 3); its time is over; raise trainer.max_time to continue" in (
        capfd.readouterr().out
    )
    # With more time it ends as any other.
    more = settings(tmp_path, "5m")
    last = tiny.train(more, resume=path, trainer_class=kind)
    assert kind.updates == 15 + 11 and last.epoch == 3 and len(tiny.rows(last)) == 4


def test_the_time_of_earlier_processes_counts(tmp_path, clock):
    kind = trainer_of(clock)
    config = settings(tmp_path, "250s")
    cls = type("Stops", (tiny.Interrupted, kind), {"after": 13})
    trainer = tiny.build(config, trainer_class=cls)
    with pytest.raises(tiny.Stopped):
        trainer.train()
    assert kind.updates == 13
    clock.now = 10_000.0  # the machine was off
    resumed = tiny.train(config, resume=tiny.newest(trainer.checkpoint_dir), trainer_class=kind)
    assert kind.updates == 25 and resumed.epoch == 3


def test_an_epoch_that_was_stopped_as_its_time_was_over_is_ended(tmp_path, clock):
    """It is validated and saved, and the run is at its end."""
    kind = trainer_of(clock)
    config = settings(tmp_path, "130s")
    cls = type("Stops", (tiny.Interrupted, kind), {"after": 13})
    trainer = tiny.build(config, trainer_class=cls)
    with pytest.raises(tiny.Stopped):
        trainer.train()
    path = tiny.newest(trainer.checkpoint_dir)
    resumed = tiny.train(config, resume=path, trainer_class=kind)
    assert kind.updates == 13 and tiny.status(resumed)["state"] == "finished"
    assert len(tiny.rows(resumed)) == 3 and resumed.epoch == 2


def test_a_whole_epoch_is_not_cut(tmp_path, clock):
    """With the last update of an epoch the run ends after it, and not within the next."""
    kind = trainer_of(clock)
    trainer = tiny.train(settings(tmp_path, "110s"), trainer_class=kind)
    assert kind.updates == 11 and trainer.epoch == 1 and len(tiny.rows(trainer)) == 2


def test_without_a_limit_nothing_changes(tmp_path, clock):
    kind = trainer_of(clock)
    clock.seconds = 1e9
    trainer = tiny.train(settings(tmp_path, None), trainer_class=kind)
    assert trainer.epoch == 3 and trainer.config.settings.trainer.max_seconds is None


@pytest.mark.parametrize(
    "value", ["", "0s", "0.0h", "٣m", "5", "5 m", "m", "-1h", "1h30m", "1.m", 5, "1e3s"]
)
def test_what_is_no_time_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match=r"trainer\.max_time: expected"):
        ConfigParser(settings(tmp_path, value))


def test_units(tmp_path):
    for text, seconds in (
        ("30s", 30),
        ("1.5m", 90),
        ("0.5h", 1800),
        ("10m", 600),
        ("2h", 7200),
        ("1d", 86400),
    ):
        parser = ConfigParser(settings(tmp_path, text))
        assert parser.settings.trainer.max_seconds == seconds


def trained(folder):
    from machinery import distributed

    clock = Clock(10.0 if distributed.rank() == 0 else 7.0)  # they need not agree
    times = Times(clock)
    stopping.time = times
    import machinery.checkpoints.run as run

    run.time = times
    kind = trainer_of(clock)
    plain = {"arch__args": {"norm": False}}
    trainer = tiny.train(settings(folder, "2.5m", **plain), trainer_class=kind)
    distributed.gathered(0)  # the main process has written what it has to say
    return kind.updates, trainer.epoch, tiny.status(trainer)["state"]


def test_several_processes_end_together(tmp_path):
    first, second = ranks.run(tmp_path, 2, trained, tmp_path)
    assert first == second and first[2] == "finished" and first[0] in (15, 16)
