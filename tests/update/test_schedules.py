"""Schedules of the run's length, and those that are none of torch's."""

import math

import pytest
import torch

import model.optim as module_optim
import tiny
from machinery.checkpoints import file as checkpoint
from machinery.config.optimization import init_scheduler
from machinery.errors import CheckpointError, ConfigError
from parse_config import ConfigParser


class Told:
    """A schedule as timm's are: it is told how many steps are done."""

    def __init__(self, optimizer, decay=0.5, t_in_epochs=True):
        self.optimizer = optimizer
        self.decay = decay
        self.t_in_epochs = t_in_epochs
        self.seen = []
        self.first = [group["lr"] for group in optimizer.param_groups]

    def step(self, epoch, metric=None):
        if self.t_in_epochs:
            self._set(epoch, metric)

    def step_update(self, num_updates, metric=None):
        if not self.t_in_epochs:
            self._set(num_updates, metric)

    def _set(self, count, metric):
        self.seen.append([count, metric])
        for group, rate in zip(self.optimizer.param_groups, self.first, strict=True):
            group["lr"] = rate * self.decay**count

    def state_dict(self):
        return {"seen": [list(each) for each in self.seen], "first": list(self.first)}

    def load_state_dict(self, state):
        self.seen = state["seen"]
        self.first = state["first"]


class Counts(Told):
    """One that counts by itself, though it is none of torch's."""

    __init__ = Told.__init__

    def step(self):
        self._set(len(self.seen) + 1, None)

    step_update = None


@pytest.fixture(autouse=True)
def in_tiny(monkeypatch):
    for part in (Told, Counts):
        monkeypatch.setattr(part, "__module__", "tiny")
        monkeypatch.setattr(tiny, part.__name__, part, raising=False)


def settings(path, kind, interval="epoch", **args):
    scheduler = {"type": kind, "interval": interval, "args": args}
    return tiny.settings(path, lr_scheduler=scheduler)


build = tiny.as_train_py


def train(config, **kwargs):
    trainer = build(config, **kwargs)
    trainer.train()
    return trainer


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_a_schedule_that_is_told_how_far_the_run_is(tmp_path, interval):
    config = settings(tmp_path / "a", "Told", interval, t_in_epochs=interval == "epoch")
    whole = train(config)
    schedule = whole.lr_scheduler.schedule
    steps = 3 if interval == "epoch" else 3 * len(whole.data_loader)
    assert [count for count, _ in schedule.seen] == list(range(1, steps + 1))
    if interval == "epoch":
        header, *rows = tiny.rows(whole)
        losses = [float(row[header.index("val_loss")]) for row in rows]
        assert [metric for _, metric in schedule.seen] == losses
    assert whole.optimizer.param_groups[0]["lr"] == 0.01 * 0.5**steps
    cls = type("Stops", (tiny.Interrupted,), {"after": 16})
    trainer = build({**config, "name": "B"}, trainer_class=cls)
    with pytest.raises(tiny.Stopped):
        trainer.train()
    resumed = train({**config, "name": "B"}, resume=tiny.newest(trainer.checkpoint_dir))
    assert tiny.rows(resumed) == tiny.rows(whole)
    assert resumed.lr_scheduler.state_dict() == whole.lr_scheduler.state_dict()
    assert type(whole.lr_scheduler).__name__ == "Told"


def test_the_interval_has_to_be_the_schedule_s(tmp_path):
    with pytest.raises(ConfigError, match='Told with t_in_epochs true wants "interval": "epoch"'):
        build(settings(tmp_path, "Told", "step"))
    with pytest.raises(ConfigError, match='Told with t_in_epochs false wants "interval": "step"'):
        build(settings(tmp_path, "Told", t_in_epochs=False))
    assert not list(tmp_path.iterdir())


def test_what_is_no_schedule_is_refused(tmp_path):
    class Stateless:
        def __init__(self, optimizer):
            self.optimizer = optimizer

        def step(self):
            """Nothing."""

    Stateless.__module__ = "tiny"
    tiny.Stateless = Stateless
    with pytest.raises(ConfigError, match="no scheduler 'Stateless'"):
        build(settings(tmp_path, "Stateless"))
    for kind in ("Adam", "Points"):
        with pytest.raises(ConfigError, match=f"no scheduler '{kind}'"):
            build(settings(tmp_path, kind))
    del tiny.Stateless


@pytest.mark.parametrize(
    "state",
    [
        *({"steps": steps} for steps in (None, float("nan"), -1, 10**30, 1.5)),
        {"schedule": None},
        *({"schedule": {key: "x"}} for key in ("step", "optimizer", "_set", "__dict__", 5)),
    ],
    ids=str,
)
def test_a_state_that_no_schedule_had_is_refused(tmp_path, state):
    config = settings(tmp_path, "Told")
    config["trainer"]["epochs"] = 1
    path = tiny.newest(train(config).checkpoint_dir)
    content = checkpoint.load(path)
    content["states"]["lr_scheduler"].update(state)
    content.pop("structures", None)
    checkpoint.save(content, path)
    config["trainer"]["epochs"] = 2
    with pytest.raises(CheckpointError, match=r"lr_scheduler: (steps|schedule) "):
        train(config, resume=path)


def test_a_schedule_that_forgets_its_counts_is_refused(tmp_path, monkeypatch):
    class Forgets(Told):
        def __init__(self, optimizer):
            super().__init__(optimizer)
            self.lr_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)

    monkeypatch.setattr(Forgets, "__module__", "tiny")
    monkeypatch.setattr(tiny, "Forgets", Forgets, raising=False)
    with pytest.raises(ConfigError, match=r"Forgets leaves out its counts: .* ReduceLROnPlateau"):
        build(settings(tmp_path, "Forgets"))
    assert not list(tmp_path.iterdir())
    torchs = {"type": "ReduceLROnPlateau", "args": {"patience": 0}}
    train(tiny.settings(tmp_path, lr_scheduler=torchs, trainer__epochs=1))


def test_a_run_that_goes_on_behind_its_schedule_is_told(tmp_path, capfd):
    config = settings(tmp_path, "Told", decay=0.0)
    config["trainer"]["epochs"] = 1
    path = tiny.newest(train(config).checkpoint_dir)
    config["trainer"]["epochs"] = 2
    assert "the learning rate is 0 here" not in capfd.readouterr().out
    train(config, resume=path)
    assert "the learning rate is 0 here: the weights stay as they are" in capfd.readouterr().out


def test_an_optimizer_without_a_rate_has_none_of_0(tmp_path, monkeypatch, capfd):
    class Rateless(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"share": 0.01})

        @torch.no_grad()
        def step(self, closure=None):
            for parameter in self.param_groups[0]["params"]:
                parameter -= self.param_groups[0]["share"] * parameter.grad

    monkeypatch.setattr(torch.optim, "Rateless", Rateless, raising=False)
    optimizer = {"type": "Rateless", "args": {}}
    config = tiny.settings(
        tmp_path, optimizer=optimizer, lr_scheduler=None, trainer__epochs=2, trainer__verbosity=2
    )
    path = tiny.interrupted(config, 16)
    tiny.train(config, resume=path)
    told = capfd.readouterr().out
    assert "run folder" in told and "the learning rate is 0 here" not in told


def test_timm_s_own(tmp_path):
    pytest.importorskip("timm")
    kind = "timm.scheduler.CosineLRScheduler"
    config = settings(tmp_path / "a", kind, t_initial=3, warmup_t=1, warmup_lr_init=1e-4)
    whole = train(config)
    config["trainer"]["save_dir"] = str(tmp_path / "b")
    cls = type("Stops", (tiny.Interrupted,), {"after": 16})
    trainer = build(config, trainer_class=cls)
    with pytest.raises(tiny.Stopped):
        trainer.train()
    resumed = train(config, resume=tiny.newest(trainer.checkpoint_dir))
    assert tiny.rows(resumed) == tiny.rows(whole)


def rates(total, **kwargs):
    """The rates of each step under the template's own schedule."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = module_optim.warmup_cosine(optimizer, total, **kwargs)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_warmup_cosine_rises_and_falls():
    found = rates(10, warmup=4, lowest=0.1)
    assert found[:4] == pytest.approx([2 * step / 5 for step in (1, 2, 3, 4)])
    falls = [2 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 6)) / 2) for step in range(6)]
    assert found[4:] == pytest.approx(falls)
    assert rates(20, warmup=0.1) == pytest.approx(rates(20, warmup=2))
    assert max(rates(5, warmup=0)) == rates(5, warmup=0)[0] == 2.0
    assert all(0 < rate <= 2 for rate in rates(3, warmup=3))


def test_what_is_no_warm_up_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "warmup_cosine", module_optim.warmup_cosine, raising=False)
    for args, message in (
        ({"warmup": 500}, 'a warm-up of 500 of 3 steps of the run: perhaps "interval": "step"'),
        ({"warmup": -1}, "a warm-up of -3 of 3 steps"),
        ({"lowest": 2}, "lowest is 2: a share of the rate"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(settings(tmp_path, "warmup_cosine", **args))


@pytest.mark.parametrize("interval", ["epoch", "step"])
def test_it_has_the_length_of_the_run(tmp_path, interval):
    config = tiny.settings(tmp_path, trainer__accumulate=3)
    config["lr_scheduler"] = {"type": "warmup_cosine", "interval": interval}
    parser = ConfigParser(config)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = init_scheduler(parser, optimizer, 11, module_optim)
    assert schedule.total_steps == {"epoch": 3, "step": 12}[interval]
    config["lr_scheduler"]["args"] = {"total_steps": 7}
    with pytest.raises(ConfigError, match=r"made for 7 steps, but the run takes"):
        init_scheduler(ConfigParser(config), optimizer, 11, module_optim)


def test_it_resumes_and_is_not_stretched(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "warmup_cosine", module_optim.warmup_cosine, raising=False)
    config = settings(tmp_path / "a", "warmup_cosine", "step", warmup=5)
    whole = train(config)
    config["trainer"]["save_dir"] = str(tmp_path / "b")
    path = interrupted_at(config, 16)
    resumed = train(config, resume=path)
    assert tiny.rows(resumed) == tiny.rows(whole)
    config["trainer"]["epochs"] = 5
    with pytest.raises(ConfigError, match=r"made for 33 steps cannot become one of 55 under way"):
        train(config, resume=tiny.newest(resumed.checkpoint_dir))


def interrupted_at(config, after):
    cls = type("Stops", (tiny.Interrupted,), {"after": after})
    trainer = build(config, trainer_class=cls)
    with pytest.raises(tiny.Stopped):
        trainer.train()
    return tiny.newest(trainer.checkpoint_dir)
