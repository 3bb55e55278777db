"""`trainer.ema`: a moving average of the weights is what is judged, kept and tested."""

import math

import pytest
import torch

import exact
import ranks
import tiny
from exact import furthest
from examples.ema import EMATrainer
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError, ConfigError
from machinery.launch import Launch
from parse_config import ConfigParser
from tiny import interrupted


def settings(folder, **changes):
    return tiny.settings(folder, **{"trainer__ema": 0.9, **changes})


def averages(trainer):
    return {name: value.clone() for name, value in trainer.ema.module.state_dict().items()}


def test_it_is_torch_s_average_of_what_the_updates_leave(tmp_path):
    seen = []

    class ByHand(tiny.Trainer):
        def _after_update(self, batches):
            seen.append({k: v.clone() for k, v in self.model.state_dict().items()})
            super()._after_update(batches)

    trainer = tiny.train(settings(tmp_path, trainer__accumulate=2), trainer_class=ByHand)
    average = dict(seen[0])
    for weights in seen[1:]:
        for name, value in weights.items():
            if value.is_floating_point():
                average[name] = average[name].lerp(value, 1 - 0.9)
    for name, value in averages(trainer).items():
        if value.is_floating_point():
            assert torch.allclose(value, average[name], atol=1e-6), name
    assert int(trainer.ema.n_averaged) == len(seen) == 18


def test_the_average_is_judged_and_the_weights_are_trained(tmp_path):
    """Training is as without; validation is that of the average."""
    plain = tiny.train(tiny.settings(tmp_path / "a"))
    trainer = tiny.train(settings(tmp_path / "b"))
    assert furthest(plain.model.state_dict(), trainer.model.state_dict()) == 0
    header, *rows = tiny.rows(trainer)
    others = tiny.rows(plain)[1:]
    for name in ("loss", "accuracy"):
        at = header.index(name)
        assert [row[at] for row in rows] == [row[at] for row in others]
    at = header.index("val_loss")
    assert [row[at] for row in rows] != [row[at] for row in others]
    judge = tiny.build(tiny.settings(tmp_path / "c"))
    judge.model.load_state_dict(averages(trainer))
    log = judge.evaluate(trainer.valid_data_loader)
    assert float(rows[-1][at]) == log["loss"]


def test_an_evaluation_within_another_has_the_average(tmp_path):
    trainer = tiny.train(settings(tmp_path))
    raw = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    average = averages(trainer)
    with trainer.judged():
        with trainer.judged():
            assert furthest(trainer.model.state_dict(), average) == 0
        assert furthest(trainer.model.state_dict(), average) == 0
    assert furthest(trainer.model.state_dict(), raw) == 0


@pytest.mark.parametrize(("after", "in_validation"), [(5, False), (16, False), (4, True)])
def test_a_resume_is_exact(tmp_path, after, in_validation):
    whole = tiny.train(settings(tmp_path / "a"))
    config = settings(tmp_path / "b")
    path = interrupted(config, after, in_validation)
    resumed = tiny.train(config, resume=path)
    assert tiny.rows(resumed) == tiny.rows(whole)
    assert furthest(averages(resumed), averages(whole)) == 0
    assert furthest(resumed.model.state_dict(), whole.model.state_dict()) == 0


def evaluated(path):
    """A trainer as test.py has it."""
    from machinery.launch import read_run

    checked, launch = read_run(path)
    parser = ConfigParser(checked, launch=launch)
    trainer = tiny.build(parser)
    trainer.restore()
    return trainer


def test_test_py_and_a_new_run_take_the_average(tmp_path):
    trainer = tiny.train(settings(tmp_path / "a"))
    newest = tiny.newest(trainer.checkpoint_dir)
    content = torch.load(newest, weights_only=True)
    raw = content["state_dict"]
    assert furthest(raw, trainer.model.state_dict()) == 0
    assert furthest(raw, averages(trainer)) > 1e-4
    tested = evaluated(newest)
    assert furthest(tested.model.state_dict(), averages(trainer)) == 0
    log = tested.evaluate(tested.valid_data_loader)
    header, *rows = tiny.rows(trainer)
    assert float(rows[-1][header.index("val_loss")]) == log["loss"]
    with tested.judged():
        assert furthest(tested.model.state_dict(), averages(trainer)) == 0
    fresh = ConfigParser(
        tiny.settings(tmp_path / "b"), launch=Launch("fine-tune", checkpoint=newest)
    )
    tuned = tiny.build(fresh)
    tuned.restore()
    assert furthest(tuned.model.state_dict(), averages(trainer)) == 0


def test_runs_of_the_earlier_trainer_go_on(tmp_path):
    """Its checkpoints hold an AveragedModel under the same name."""
    config = tiny.settings(tmp_path, trainer__ema_decay=0.9)
    path = interrupted(config, 16, cls=(EMATrainer,))
    content = torch.load(path, weights_only=True)
    assert content["classes"]["ema"] == "AveragedModel"
    resumed = tiny.train(config, resume=path, trainer_class=EMATrainer)
    whole = tiny.train(settings(tmp_path / "b"))
    assert tiny.rows(resumed) == tiny.rows(whole)


def test_an_average_cannot_be_added_or_dropped_under_way(tmp_path):
    path = tiny.newest(tiny.train(tiny.settings(tmp_path / "a")).checkpoint_dir)
    more = settings(tmp_path / "a", trainer__epochs=4)
    fixed = r"trainer\.ema cannot be changed under way"
    with pytest.raises(ConfigError, match=fixed):
        tiny.train(more, resume=path)
    path = tiny.newest(tiny.train(settings(tmp_path / "b")).checkpoint_dir)
    with pytest.raises(ConfigError, match=fixed):
        tiny.train(tiny.settings(tmp_path / "b", trainer__epochs=4), resume=path)


class Spoilt(tiny.Trainer):
    """Has a NaN in the loss, or only in the gradients, of its third update."""

    updates = 0

    def _update(self, batches):
        self.updates += 1
        super()._update(batches)

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        if self.model.training and self.updates == 3:
            loss = loss * math.nan
        return loss, output, target


@pytest.mark.parametrize("on_nan", ["skip", "ignore"])
def test_a_nan_never_enters(tmp_path, on_nan):
    trainer = tiny.train(
        settings(tmp_path, trainer__on_nan=on_nan, trainer__epochs=1, metrics=[]),
        trainer_class=Spoilt,
    )
    for name, value in averages(trainer).items():
        assert bool(torch.isfinite(value).all()), name
    assert int(trainer.ema.n_averaged) == {"skip": 11 - 1, "ignore": 2}[on_nan]


def test_an_optimizer_whose_step_is_taken_back(tmp_path):
    """LBFGS with a NaN: weights and average are as before."""
    from examples.lbfgs.trainer import LBFGSTrainer

    class Spoiling(LBFGSTrainer):
        """The third update's loss is NaN once it is computed again, within the step."""

        updates = 0
        computed = 0

        def _update(self, batches):
            self.updates += 1
            self.computed = 0
            before = averages(self)
            super()._update(batches)
            assert (furthest(before, averages(self)) == 0) == (self.updates == 3)

        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            self.computed += 1
            if self.model.training and self.updates == 3 and self.computed > 1:
                loss = loss * math.nan
            return loss, output, target

    optimizer = {"type": "LBFGS", "args": {"max_iter": 2}}
    changes = {"trainer__on_nan": "skip", "trainer__epochs": 1, "lr_scheduler": None}
    config = settings(tmp_path, optimizer=optimizer, arch__args={"dropout": 0.0}, **changes)
    trainer = tiny.train(config, trainer_class=Spoiling)
    assert int(trainer.ema.n_averaged) == 11 - 1


def test_it_works_with_two_networks_and_a_loop_of_one_s_own(tmp_path):
    class Loop(tiny.Trainer):
        def _train_epoch(self, epoch):
            for batch in self.data_loader:
                loss, _, _ = self._forward(batch)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            return {f"val_{name}": value for name, value in self._valid_epoch(epoch).items()}

    config = settings(tmp_path, lr_scheduler=None)
    trainer = tiny.train(config, trainer_class=Loop)
    assert int(trainer.ema.n_averaged) == 33
    assert furthest(trainer.model.state_dict(), averages(trainer)) > 1e-4


def test_one_that_hardly_follows_is_told(tmp_path, capfd):
    tiny.build(settings(tmp_path, trainer__ema=0.9999))
    told = "trainer.ema 0.9999: after the 33 steps of the run, 100% of the average"
    assert told in capfd.readouterr().out
    tiny.build(settings(tmp_path, trainer__ema=0.9))
    assert "trainer.ema" not in capfd.readouterr().out


class Tables(tiny.TinyModel):
    """Has a table of indices, a mask of infinities, a flag, and a table that grows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("indices", torch.arange(600))
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("grows", torch.ones(1))

    def forward(self, x):
        if self.training:
            self.flag.fill_(False)
            if len(self.grows) < 4:
                self.grows = torch.ones(len(self.grows) + 1)
        return super().forward(x)


@pytest.mark.parametrize("decay", [0.9, 0.9999])
def test_what_is_no_weight_is_a_copy(tmp_path, monkeypatch, decay):
    monkeypatch.setattr(Tables, "__module__", "tiny")
    monkeypatch.setattr(tiny, "Tables", Tables, raising=False)
    config = settings(tmp_path, arch={"type": "Tables"}, trainer__ema=decay)
    trainer = tiny.train(config)
    average = trainer.ema.module
    assert torch.equal(average.indices, torch.arange(600)) and not bool(average.flag)
    assert torch.equal(average.mask, trainer.model.mask) and len(average.grows) == 4
    resumed = tiny.train(config, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    assert torch.equal(resumed.ema.module.fc1.weight, average.fc1.weight)


@pytest.mark.parametrize("value", [0, 1, "x", -0.1, True])
def test_a_decay_that_is_none_is_refused(tmp_path, value):
    with pytest.raises(ConfigError, match=r"trainer\.ema: expected"):
        ConfigParser(settings(tmp_path, trainer__ema=value))


def test_a_network_that_cannot_be_copied_is_told(tmp_path, monkeypatch):
    class Computed(tiny.TinyModel):
        def __init__(self):
            super().__init__()
            self.fc1.extra = self.fc1.weight * 2

    Computed.__module__ = "tiny"
    monkeypatch.setattr(tiny, "Computed", Computed, raising=False)
    config = settings(tmp_path, arch={"type": "Computed"})
    with pytest.raises(ConfigError, match=r"trainer\.ema: a Computed cannot be copied: "):
        tiny.train(config)


def trained(folder):
    data = {"n": 100, "batch_size": 8}
    config = exact.settings(folder, trainer__ema=0.8, data_loader__args=data)
    trainer = tiny.build(config, trainer_class=exact.Exact)
    trainer.train()
    return averages(trainer), tiny.rows(trainer)[-1][:6]


def test_two_processes_average_as_one(tmp_path):
    (alone,) = ranks.run(tmp_path, 1, trained, tmp_path)
    first, second = ranks.run(tmp_path, 2, trained, tmp_path)
    assert furthest(first[0], second[0]) == 0
    assert furthest(alone[0], first[0]) < 1e-12
    assert [float(cell) for cell in first[1]] == pytest.approx([float(cell) for cell in alone[1]])


def test_an_average_that_is_not_finite_is_refused(tmp_path):
    path = tiny.newest(tiny.train(settings(tmp_path, trainer__epochs=1)).checkpoint_dir)
    content = checkpoint.load(path)
    content["states"]["ema"]["module.fc1.bias"].fill_(math.nan)
    checkpoint.save(content, path)
    with pytest.raises(CheckpointError, match=r"ema: module\.fc1\.bias is not finite"):
        tiny.train(settings(tmp_path), resume=path)


def test_an_average_that_is_gone_is_told(tmp_path):
    path = tiny.newest(tiny.train(settings(tmp_path, trainer__epochs=1)).checkpoint_dir)
    content = checkpoint.load(path)
    del content["states"]["ema"]
    checkpoint.save(content, path)
    for task in ("continue", "fine-tune", "evaluate"):
        with pytest.raises(CheckpointError, match="lacks the states of ema"):
            tiny.build(ConfigParser(settings(tmp_path), launch=Launch(task, checkpoint=path)))
