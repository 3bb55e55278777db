"""Any number of processes train the same model: the same batches, gradients, averages and
decisions."""

import importlib.util
import math
import os
import signal
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, default_collate as torch_default_collate

import ranks
import tiny
from base import BaseDataLoader
from bending.dicts import DictTrainer, dict_accuracy, dict_loss
from bending.gan import GANTrainer, Generator, spread
from exact import Exact, furthest, settings, train
from examples.ema import EMATrainer
from examples.lbfgs.trainer import LBFGSTrainer
from machinery import distributed, stopping
from machinery.config.settings import TrainerSettings
from machinery.errors import ConfigError, NonFiniteError, Stopped, UserError
from machinery.update.metrics import MetricTracker
from machinery.update.runtime import Runtime, prepare_device, unwrap
from own_loop import OwnLoop, build as build_own_loop
from trainer import Trainer

CASES = {
    "plain": {},
    "whole": {"data_loader__args": {"kind": "whole"}},
    "subset-whole": {"data_loader__args": {"kind": "subset-whole"}},
    "weighted": {"data_loader__args": {"kind": "weighted", "validation_split": 0.0}},
    "batches": {"data_loader__args": {"kind": "batches", "validation_split": 0.0}},
    "workers": {"data_loader__args": {"num_workers": 1}},
    "accumulate": {"trainer__accumulate": 3, "trainer__clip_grad_norm": 0.1},
    "another length of epochs": {
        "data_loader__args": {"n": 46, "validation_split": 9, "batch_size": 9},
        "trainer__len_epoch": 3,
    },
    "empty parts": {"data_loader__args": {"n": 101, "validation_split": 20, "batch_size": 5}},
}


@pytest.mark.parametrize("case", CASES)
def test_two_and_three_processes_train_what_one_trains(tmp_path, case):
    changes = CASES[case]
    if (
        "validation_split" in changes.get("data_loader__args", {})
        and "batch_size" not in changes["data_loader__args"]
    ):
        changes = {**changes, "trainer__monitor": "min loss"}
    alone = ranks.run(tmp_path, 1, train, settings(tmp_path, **changes))[0]
    for size in (2, 3):
        results = ranks.run(tmp_path, size, train, settings(tmp_path, **changes))
        for weights, logs, count, _ in results:
            assert furthest(weights, results[0][0]) == 0
            assert logs == results[0][1]
            assert furthest(weights, alone[0]) < 1e-12
            assert count == alone[2]
            for log, expected in zip(logs, alone[1], strict=True):
                assert log == pytest.approx(expected, rel=1e-6)


class Stops(Exact):
    """The last process gets a SIGTERM in its update `at`."""

    at = 5

    def _update(self, batches):
        super()._update(batches)
        self.updates = getattr(self, "updates", 0) + 1
        if self.updates == self.at and distributed.rank() == distributed.size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def train_and_stop(config, resume=None, base=Stops, at=5):
    """The exit code, the newest checkpoint's name and place, and the weights as they were."""
    base.at = at
    trainer = tiny.build(config, resume=resume, trainer_class=base)
    try:
        trainer.train()
    except Stopped as stopped:
        weights = {
            name: value.clone() for name, value in unwrap(trainer.model).state_dict().items()
        }
        return stopped.exit_code, trainer._checkpoints.newest, weights
    return 0, trainer._checkpoints.newest, {}


def test_two_then_one_then_three_go_on_inside_an_epoch(tmp_path):
    config = settings(tmp_path, trainer__log_step=2, trainer__epochs=1)
    alone = ranks.run(tmp_path, 1, train, config)[0]
    newest = None
    for size, at in ((2, 3), (1, 4)):
        results = ranks.run(tmp_path, size, train_and_stop, config, newest, Stops, at)
        assert {result[:2] for result in results} == {(143, results[0][1])}
        newest = results[0][1]
    assert newest.name == "checkpoint-epoch1-step7.pth"
    for weights, logs, *_ in ranks.run(tmp_path, 3, train, config, newest):
        assert furthest(weights, alone[0]) < 1e-12
        assert logs[0] == pytest.approx(alone[1][0], rel=1e-6)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_resume_two_bit_for_bit(tmp_path, accumulate):
    """With dropout, BatchNorm, a schedule per step and Adam."""
    scheduler = {"type": "StepLR", "args": {"step_size": 4, "gamma": 0.7}, "interval": "step"}
    arguments = {"n": 105, "batch_size": 10, "num_workers": 1}
    config = tiny.settings(
        tmp_path, lr_scheduler=scheduler, data_loader__args=arguments, trainer__epochs=2
    )
    config["trainer"]["accumulate"] = accumulate
    whole = ranks.run(tmp_path, 2, train, config)
    stopped = ranks.run(tmp_path, 2, train_and_stop, config, None, Stops, 4 // accumulate + 1)
    again = ranks.run(tmp_path, 2, train, config, stopped[0][1])
    for (weights, logs, *_), (expected, expected_logs, *_) in zip(again, whole, strict=True):
        assert furthest(weights, expected) == 0
        assert logs == expected_logs


def test_a_stop_on_one_process_is_a_stop_of_all_at_the_same_step(tmp_path):
    results = ranks.run(tmp_path, 3, train_and_stop, settings(tmp_path), None, Stops, 4)
    assert {result[:2] for result in results} == {(143, results[0][1])}
    assert results[0][1].name == "checkpoint-epoch1-step4.pth"
    assert all(furthest(result[2], results[0][2]) == 0 for result in results)
    saved = torch.load(results[0][1], weights_only=True)
    assert (
        furthest(saved["state_dict"], results[0][2]) == 0 and saved["environment"]["processes"] == 3
    )


def stop_in_time(config):
    stopping._ASKED_EVERY = 0.1
    return train_and_stop(config)


def test_a_process_alone_agrees_with_itself():
    value = torch.ones(2)
    assert distributed.gathered(3) == [3] and distributed.totals([1.0, 2.0])() == [1.0, 2.0]
    assert distributed.from_main(lambda: 4) == distributed.in_turn(lambda: 4) == 4
    assert torch.equal(distributed.average(value), value) and distributed.broadcast([value]) is None
    assert distributed.is_main() and distributed.alone() and not distributed.launched()
    assert not torch.distributed.is_initialized()


def test_fast_steps_agree_on_a_stop_within_some_of_them(tmp_path):
    """Only every so many steps do they ask each other."""
    results = ranks.run(
        tmp_path, 3, stop_in_time, settings(tmp_path, trainer__len_epoch=100_000, trainer__epochs=1)
    )
    assert {result[:2] for result in results} == {(143, results[0][1])}
    assert all(furthest(result[2], results[0][2]) == 0 for result in results)


def sums_of_sizes(config, default):
    """How often the sizes of two batches, of one group, were added up."""
    asked, real = [], distributed.totals
    distributed.totals = lambda numbers: (asked.append(len(numbers)), real(numbers))[1]
    trainer = tiny.build(config, trainer_class=Exact)
    if not default:
        trainer.data_loader = BaseDataLoader(
            tiny.Points(101), 8, True, 0.0, 0, collate_fn=as_torch_does
        )
    trainer.train()
    return asked.count(2)  # what the losses are the means over


def as_torch_does(samples):
    return torch_default_collate(samples)


def test_nobody_is_asked_for_sizes_that_are_known(tmp_path):
    config = settings(tmp_path, trainer__accumulate=2, trainer__len_epoch=8, trainer__epochs=1)
    over_samples = {**config, "loss": "margin"}
    assert ranks.run(tmp_path, 2, sums_of_sizes, over_samples, True) == [0, 0]
    assert ranks.run(tmp_path, 2, sums_of_sizes, over_samples, False) == [4, 4]
    # Targets might be ignored.
    assert ranks.run(tmp_path, 2, sums_of_sizes, config, True) == [4, 4]


class Fewer(tiny.WholePoints):
    """Gives one of the processes fewer samples than it has been asked for."""

    draws_from = ()

    def __getitems__(self, indices):
        return super().__getitems__(indices[distributed.rank() :])


class Twice(BaseDataLoader):
    """A pass reads the data twice."""

    def __init__(self, n, batch_size):
        super().__init__(tiny.Points(n), batch_size, True, 0.0, 0)

    def __len__(self):
        return 2 * super().__len__()

    def __iter__(self):
        epoch = self.epoch
        for _ in range(2):
            self.epoch = epoch
            yield from super().__iter__()


class Edited(Exact):
    """Its batches are of another size than their samples are many."""

    def batch_size_of(self, batch):
        return int((batch[1] != 0).sum())

    def _forward(self, batch):
        output = self.model(batch[0].double())
        losses = torch.nn.functional.cross_entropy(output, batch[1], reduction="none") * (
            batch[1] != 0
        )
        return losses.sum() / (batch[1] != 0).sum().clamp(min=1), output, batch[1]


def train_on(config, make, trainer_class=Exact):
    trainer = tiny.build(config, trainer_class=trainer_class)
    if make is not None:
        trainer.data_loader = make()
        trainer.len_epoch = len(trainer.data_loader)
    trainer.train()
    return {
        name.removeprefix("module."): value.clone()
        for name, value in trainer.model.state_dict().items()
    }


def twice():
    return Twice(53, 5)


@pytest.mark.parametrize("case", ["twice", "edited"])
def test_sizes_that_are_of_the_users_own_making(tmp_path, case, monkeypatch):
    make, kind = {"twice": (twice, Exact), "edited": (None, Edited)}[case]
    config = settings(tmp_path, metrics=[], trainer__monitor="off")
    if case == "edited":
        monkeypatch.setattr(Trainer, "batch_size_of", Edited.batch_size_of)
    alone = ranks.run(tmp_path, 1, train_on, config, make, kind)[0]
    for weights in ranks.run(tmp_path, 2, train_on, config, make, kind):
        assert furthest(weights, alone) < 1e-12


def fewer():
    return BaseDataLoader(Fewer(105), 10, False, 0.0, 0)


def test_a_batch_that_is_not_as_large_as_it_should_be_is_an_error(tmp_path):
    codes, said = ranks.finish(*ranks.start(tmp_path, 2, train_on, settings(tmp_path), fewer))
    assert (
        codes[1] == 3 and "a part of 5 samples holds 4, as if __getitems__ left some out" in said[1]
    )


class Halves(Exact):
    """Takes each batch as two."""

    def _update(self, batches):
        halves = [[part[half::2] for part in batch] for batch in batches for half in (0, 1)]
        super()._update([half for half in halves if len(half[1])])


def test_an_update_may_cut_its_batches(tmp_path):
    config = settings(
        tmp_path, data_loader__args={"n": 81, "batch_size": 8}, trainer__monitor="off", metrics=[]
    )
    alone = ranks.run(tmp_path, 1, train_on, config, None, Halves)[0]
    for weights in ranks.run(tmp_path, 2, train_on, config, None, Halves):
        assert furthest(weights, alone) < 1e-12


class Slow(Exact):
    """Fast steps, and then slow ones, in the first of which the last process gets a SIGTERM."""

    def _update(self, batches):
        super()._update(batches)
        self.updates = getattr(self, "updates", 0) + 1
        if self.epoch == 2:
            threading.Event().wait(0.2)
            if self.step == 0 and distributed.rank() == distributed.size() - 1:
                os.kill(os.getpid(), signal.SIGTERM)


def stop_slow(config):
    stopping._ASKED_EVERY = 0.1
    return train_and_stop(config, base=Slow)[1].name


def test_slow_steps_after_fast_ones_are_not_waited_for(tmp_path):
    config = settings(
        tmp_path, trainer__len_epoch=60, trainer__save_period=5, trainer__monitor="off"
    )
    assert ranks.run(tmp_path, 2, stop_slow, config) == ["checkpoint-epoch2-step1.pth"] * 2


class Between(Exact):
    """The last process gets a SIGTERM while an epoch is reported that is not to be saved."""

    def _report(self, epoch, log, seconds):
        super()._report(epoch, log, seconds)
        if epoch == 2 and distributed.rank() == distributed.size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("size", [1, 2])
def test_epochs_that_are_done_are_saved_at_a_stop(tmp_path, size):
    config = settings(tmp_path, trainer__epochs=4, trainer__save_period=5, trainer__monitor="off")
    results = ranks.run(tmp_path, size, train_and_stop, config, None, Between)
    assert {(code, newest.name) for code, newest, _ in results} == {(143, "checkpoint-epoch2.pth")}


class StopsInValidation(Exact):
    def _valid_epoch(self, epoch):
        if distributed.rank() == distributed.size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super()._valid_epoch(epoch)


def test_a_stop_in_validation_is_agreed_on(tmp_path):
    results = ranks.run(tmp_path, 2, train_and_stop, settings(tmp_path), None, StopsInValidation)
    assert {result[:2] for result in results} == {(143, results[0][1])}
    assert results[0][1].name == "checkpoint-epoch1-step11.pth"


@pytest.mark.parametrize("size", [2, 3, 5])
def test_an_evaluation_is_over_each_sample_once(tmp_path, size):
    config = settings(
        tmp_path, data_loader__args={"n": 131, "validation_split": 101, "batch_size": 7}
    )
    alone = ranks.run(tmp_path, 1, evaluate, config)[0]
    assert alone[1] == 101
    for log, count in ranks.run(tmp_path, size, evaluate, config):
        assert count == 101 and log["accuracy"] == alone[0]["accuracy"]
        assert log == pytest.approx(alone[0], rel=1e-6)


def evaluate(config, foreign=False):
    trainer = tiny.build(config, trainer_class=Exact)
    loader = trainer.valid_data_loader
    loader = DataLoader(loader.dataset, 7) if foreign else loader
    return trainer.evaluate(loader, trainer.valid_metrics), trainer.valid_metrics.count("loss")


def test_the_batches_of_a_foreign_loader_are_shared_in_an_evaluation(tmp_path):
    config = settings(tmp_path, data_loader__args={"n": 131, "validation_split": 101})
    alone = ranks.run(tmp_path, 1, evaluate, config)[0]
    for log, count in ranks.run(tmp_path, 3, evaluate, config, True):
        assert count == 101 and log == pytest.approx(alone[0], rel=1e-6)


def nan_at(step, rank):
    class Nan(Exact):
        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            if torch.is_grad_enabled() and self.step == step and rank == distributed.rank():
                loss = loss * math.nan
            return loss, output, target

    return Nan


def train_with_nan(config, step, rank):
    trainer = tiny.build(config, trainer_class=nan_at(step, rank))
    try:
        trainer.train()
    except (NonFiniteError, SystemExit) as error:  # the second where another has told it already
        return str(error.__cause__ if isinstance(error, SystemExit) else error)
    return {name: value.clone() for name, value in unwrap(trainer.model).state_dict().items()}


def test_a_loss_that_is_nan_on_one_process_stops_all_and_names_its_step(tmp_path):
    config = settings(tmp_path, trainer__log_step=5)
    told = ranks.run(tmp_path, 3, train_with_nan, config, 6, 2)
    assert len(set(told)) == 1 and "the loss became nan in epoch 1, step 7 (" in told[0]


def test_an_update_that_one_process_skips_is_skipped_by_all(tmp_path):
    config = settings(tmp_path, trainer__on_nan="skip")
    results = ranks.run(tmp_path, 2, train_with_nan, config, 6, 1)
    assert furthest(results[0], results[1]) == 0
    assert all(bool(value.isfinite().all()) for value in results[0].values())


class Bent(GANTrainer):
    """The GAN with noise that is a function of the data, so that it does not depend on the
    process."""

    def _forward(self, batch):
        data = batch[0]
        fake = self.model((9 * data).sin())
        critic = (
            F.softplus(-self.critic(data)).mean() + F.softplus(self.critic(fake.detach())).mean()
        )
        return {"critic": critic, "generator": F.softplus(-self.critic(fake)).mean()}, fake, data


class Clipping(OwnLoop):
    """A loop of two batches an update, clipped, with an optimizer of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.other = torch.optim.SGD(self.model.parameters(), lr=0.05)

    def _train_epoch(self, epoch):
        self.model.train()
        for i, (data, target) in enumerate(self.data_loader):
            loss = self.criterion(self.model(data), target)
            (loss / 2).backward()
            if i % 2:
                nn.utils.clip_grad_norm_(self.model.parameters(), 0.1)
                self.other.step()
                self.other.zero_grad()
        with torch.no_grad():
            self.seen = sum(len(target) for _, target in self.data_loader)
        return {"loss": float(loss.detach())}


class Unfreezing(OwnLoop):
    def _train_epoch(self, epoch):
        self.model.fc1.requires_grad_(epoch > 1)
        return super()._train_epoch(epoch)


def train_bent(kind, folder):
    """The weights of all networks of a trainer that is not the template's, in float64, and its last
    numbers."""
    torch.set_default_dtype(torch.float64)
    for thing in (Generator, spread, dict_accuracy, dict_loss):
        setattr(tiny, thing.__name__, thing)
        thing.__module__ = "tiny"
    args = {"n": 47, "batch_size": 9}
    if kind == "gan":
        changes = {
            "arch": {"type": "Generator"},
            "metrics": ["spread"],
            "trainer__monitor": "min val_spread",
        }
        changes["optimizer"] = {"type": "RMSprop", "args": {"lr": 0.01}}
        cls, args = Bent, {**args, "kind": "whole"}
    elif kind == "dicts":
        changes = {
            "loss": "dict_loss",
            "metrics": ["dict_accuracy"],
            "trainer__monitor": "min val_cross_entropy",
        }
        changes["trainer__accumulate"] = 2
        cls, args = DictTrainer, {**args, "kind": "dicts"}
    elif kind == "lbfgs":
        changes = {
            "optimizer": {"type": "LBFGS", "args": {"lr": 0.1, "max_iter": 3}},
            "trainer__monitor": "min loss",
        }
        changes["trainer__accumulate"] = 2
        cls = LBFGSTrainer
    else:
        changes, cls = {"trainer__monitor": "min loss"}, EMATrainer
    config = settings(folder, **{**changes, "data_loader__args": args})
    loops = {"own loop": OwnLoop, "clipping loop": Clipping, "unfrozen": Unfreezing}
    trainer = (
        build_own_loop(config, loops[kind])
        if kind in loops
        else tiny.build(config, trainer_class=cls)
    )
    trainer.train()
    states = [unwrap(network).state_dict() for network in trainer._networks()]
    return {
        f"{i}.{name}": value.clone()
        for i, state in enumerate(states)
        for name, value in state.items()
    }


@pytest.mark.parametrize(
    "kind", ["gan", "dicts", "ema", "own loop", "clipping loop", "unfrozen", "lbfgs"]
)
def test_trainers_of_other_kinds_train_alike(tmp_path, kind):
    alone = ranks.run(tmp_path, 1, train_bent, kind, tmp_path)[0]
    for size in (2, 3):
        results = ranks.run(tmp_path, size, train_bent, kind, tmp_path)
        for weights in results:
            assert furthest(weights, results[0]) == 0
            assert furthest(weights, alone) < (1e-9 if kind == "lbfgs" else 1e-12)


class Spread:
    """The range of the outputs: no sum over samples."""

    __module__ = "tiny"

    def __init__(self):
        self.reset()

    def reset(self):
        self.low, self.high = math.inf, -math.inf

    def update(self, output, target):
        self.low, self.high = (
            min(self.low, float(output.min())),
            max(self.high, float(output.max())),
        )

    def compute(self):
        return self.high - self.low

    def merge_state(self, other):
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def state_dict(self):
        return {"low": self.low, "high": self.high}

    def load_state_dict(self, state):
        vars(self).update(state)


class Variance(MetricTracker):
    """Made of sums, by the template's own averages."""

    __module__ = "tiny"

    def update(self, output, target):
        for name, value in {"x": output.sum(1), "x2": output.sum(1) ** 2}.items():
            super().update(name, value, len(target))

    def compute(self):
        mean = self.result()
        return mean["x2"] - mean["x"] ** 2


@pytest.fixture
def torchmetrics_if_any():
    """Imported once, and not again by each of the processes."""
    if importlib.util.find_spec("torchmetrics"):
        importlib.import_module("torchmetrics")


def with_objects(folder):
    tiny.Spread, tiny.Variance, metrics = Spread, Variance, ["Spread", "Variance"]
    if importlib.util.find_spec("torchmetrics"):
        import torchmetrics

        tiny.Mean = type(
            "Mean", (torchmetrics.MeanMetric,), {"__module__": "tiny", "update": update_mean}
        )
        metrics.append("Mean")
    return settings(
        folder, metrics=metrics, trainer__epochs=1, data_loader__args={"n": 47, "batch_size": 9}
    )


def update_mean(self, output, target):
    super(type(self), self).update(output.sum(1))


def train_with_objects(folder, resume=None, stop_at=None):
    config = with_objects(folder)
    return train_and_stop(config, resume, Stops, stop_at) if stop_at else train(config, resume)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sizes", [(2, 2), (3, 2), (2, 1)])
def test_metrics_that_are_objects_count_everything(tmp_path, torchmetrics_if_any, sizes):
    alone = ranks.run(tmp_path, 1, train_with_objects, tmp_path)[0][1]
    results = ranks.run(tmp_path, sizes[0], train_with_objects, tmp_path)
    for _, logs, *_ in results:
        assert logs[0] == pytest.approx(alone[0], rel=1e-6)
    stopped = ranks.run(tmp_path, sizes[0], train_with_objects, tmp_path, None, 2)
    for _, logs, *_ in ranks.run(tmp_path, sizes[1], train_with_objects, tmp_path, stopped[0][1]):
        assert logs[0] == (
            results[0][1][0] if sizes[0] == sizes[1] else pytest.approx(alone[0], rel=1e-6)
        )


def synced(device):
    settings_ = TrainerSettings(sync_batchnorm=True)
    runtime = Runtime(torch.device("cpu"), settings_)
    runtime.device = torch.device(device)
    wrapped = []
    parallel, nn.parallel.DistributedDataParallel = nn.parallel.DistributedDataParallel, Recorder
    try:
        runtime.prepare(tiny.TinyModel(), True)
    finally:
        wrapped = Recorder.seen
        nn.parallel.DistributedDataParallel = parallel
    return [type(module).__name__ for module in wrapped[-1].modules()]


class Recorder:
    """In the place of DistributedDataParallel, which wants a GPU for a GPU's model."""

    seen = []  # noqa: RUF012
    no_sync = None

    def __init__(
        self, module, device_ids=None, broadcast_buffers=True, find_unused_parameters=False
    ):
        self.seen.append(module)


@pytest.mark.parametrize(("device", "kind"), [("cuda:0", "SyncBatchNorm"), ("cpu", "BatchNorm1d")])
def test_batchnorm_may_see_the_whole_batch_on_gpus(tmp_path, device, kind):
    for kinds in ranks.run(tmp_path, 2, synced, device):
        assert kind in kinds


def test_processes_without_a_gpu_of_their_own_are_told(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("meta"))
    monkeypatch.setattr(distributed.world, "size", 3)
    for rank, expected in ((0, torch.device("meta", 0)), (1, torch.device("meta", 1))):
        monkeypatch.setattr(distributed.world, "local_rank", rank)
        assert prepare_device(1) == (expected, [rank])
        assert prepare_device(0)[0] == torch.device("cpu")
    monkeypatch.setattr(distributed.world, "local_rank", 2)
    with pytest.raises(ConfigError, match="no GPU for process 2 of this machine, which has 2"):
        prepare_device(1)


class Unused(tiny.TinyModel):
    """Has a layer that no output depends on."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__(dropout=0.0, norm=False)
        self.spare = nn.Linear(3, 3)


def train_unused(config):
    tiny.Unused = Unused
    return train(config)


def test_parameters_that_nothing_depends_on(tmp_path):
    config = settings(
        tmp_path, arch={"type": "Unused"}, trainer__find_unused_parameters=True, trainer__epochs=1
    )
    alone = ranks.run(tmp_path, 1, train_unused, config)[0]
    for weights, *_ in ranks.run(tmp_path, 2, train_unused, config):
        assert furthest(weights, alone[0]) < 1e-12
    config["trainer"]["find_unused_parameters"] = False
    processes, place = ranks.start(tmp_path, 2, train_unused, config)
    codes, outputs = ranks.finish(processes, place)
    assert any(codes) and "find_unused_parameters" in "".join(outputs)


class Drawing(tiny.TinyModel):
    """Notes what it draws in a step."""

    __module__ = "tiny"

    def forward(self, x):
        if self.training:
            self.drawn = [*getattr(self, "drawn", []), float(torch.rand(()))]
        return super().forward(x)


def draw(config):
    tiny.Drawing = Drawing
    trainer = tiny.build(config)
    trainer.train()
    return unwrap(trainer.model).drawn


def test_dropout_differs_by_process_and_not_by_run(tmp_path):
    config = tiny.settings(
        tmp_path, arch={"type": "Drawing", "args": {"norm": False}}, trainer__epochs=1
    )
    first, again = (ranks.run(tmp_path, 2, draw, config) for _ in range(2))
    assert first == again and not set(first[0]) & set(first[1])
    assert ranks.run(tmp_path, 1, draw, config)[0] == first[0]


class Notes:
    def __init__(self):
        self.rows = []

    def log(self, numbers, step):
        self.rows.append((step, dict(numbers)))

    def close(self):
        pass


def windows(config, resume=None):
    """What a tracker gets, without what depends on the clock."""
    trainer, notes = tiny.build(config, resume=resume, trainer_class=Exact), Notes()
    trainer.writers.add(notes)
    trainer.train()
    return [
        (step, {k: v for k, v in row.items() if k not in ("seconds", "samples/s")})
        for step, row in notes.rows
    ]


def test_trackers_get_what_all_have_counted_once(tmp_path):
    config = settings(tmp_path, trainer__log_step=3, trainer__len_epoch=8)
    expected = ranks.run(tmp_path, 1, windows, config)[0]
    main, other = ranks.run(tmp_path, 2, windows, config)
    assert other == [] and [step for step, _ in main] == [step for step, _ in expected]
    for (_, row), (_, wanted) in zip(main, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-6)
    # Inside a window, too: what has been seen already is not seen again.
    stopped = ranks.run(tmp_path, 2, train_and_stop, config, None, Stops, 4)
    assert "step4" in stopped[0][1].name
    resumed = ranks.run(tmp_path, 2, windows, config, stopped[0][1])[0]
    assert resumed == main[-len(resumed) :]


class Signalled(Exact):
    """A process is signalled between two epochs, after the others have asked."""

    signum = signal.SIGUSR1

    def _report(self, epoch, log, seconds):
        super()._report(epoch, log, seconds)
        if distributed.rank() == distributed.size() - 1 and epoch == 1:
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_between_epochs_is_agreed_on(tmp_path, signum):
    Signalled.signum = signum
    results = ranks.run(tmp_path, 2, train_and_stop, settings(tmp_path), None, Signalled)
    code = 129 if signum == signal.SIGHUP else 143
    assert {result[:2] for result in results} == {(code, results[0][1])}
    assert results[0][1].name == "checkpoint-epoch1.pth"


class Apart(Exact):
    """Begins with other weights in each process, and computes past the network that is averaged."""

    past = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.second = nn.Linear(2, 2)
        with torch.no_grad():
            self.second.weight += distributed.rank()

    def _forward(self, batch):
        if not self.past:
            return super()._forward(batch)
        output = unwrap(self.model)(batch[0].double())
        return self.criterion(output, batch[1]), output, batch[1]


def train_apart(config, past):
    Apart.past = past
    trainer = tiny.build(config, trainer_class=Apart)
    try:
        trainer.train()
    except (UserError, SystemExit) as error:
        return str(error)
    return trainer.second.weight.detach().clone()


def test_weights_that_would_drift_apart(tmp_path):
    first, second = ranks.run(tmp_path, 2, train_apart, settings(tmp_path), False)
    assert torch.equal(first, second)
    told = ranks.run(tmp_path, 2, train_apart, settings(tmp_path), True)
    assert "the processes have come to other weights" in told[0]
    assert not list(tmp_path.glob("models/*/*/checkpoint-epoch2.pth"))[1:]


class Plateau(Exact):
    def _valid_epoch(self, epoch):
        return {**super()._valid_epoch(epoch), "loss": 1.0 + epoch * (distributed.rank() - 0.5)}


def rates(config):
    return tiny.train(config, trainer_class=Plateau).lr_scheduler.optimizer.param_groups[0]["lr"]


def test_a_plateau_is_one_for_all(tmp_path):
    scheduler = {"type": "ReduceLROnPlateau", "args": {"patience": 0, "factor": 0.1}}
    assert (
        len(
            set(
                ranks.run(
                    tmp_path,
                    2,
                    rates,
                    settings(tmp_path, lr_scheduler=scheduler, trainer__epochs=4),
                )
            )
        )
        == 1
    )


class Part(BaseDataLoader):
    """A loader that a user's own evaluation iterates bare."""


def count_bare(n):
    loader = Part(tiny.Points(n), 8, False, 0.0, 0)
    with torch.no_grad():
        return [len(y) for _, y in loader]


def test_a_bare_evaluation_takes_each_sample_once(tmp_path):
    for n in (17, 21):
        assert sum(sum(sizes) for sizes in ranks.run(tmp_path, 3, count_bare, n)) == n


class Centred(tiny.TinyModel):
    """Takes a running mean of its inputs off them, in training, too."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__(dropout=0.0, norm=False)
        self.register_buffer("mean", torch.zeros(6))

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return super().forward(x - self.mean)


def centre(config, resume=None, at=None):
    tiny.Centred = Centred
    return train_and_stop(config, resume, Stops, at) if at else train(config, resume)


def test_buffers_that_training_uses_resume_exactly(tmp_path):
    config = settings(tmp_path, arch={"type": "Centred"}, trainer__save_step=3)
    whole = ranks.run(tmp_path, 2, centre, config)
    stopped = ranks.run(tmp_path, 2, centre, config, None, 6)
    assert stopped[0][1].name == "checkpoint-epoch1-step6.pth"
    for resumed, expected in zip(
        ranks.run(tmp_path, 2, centre, config, stopped[0][1]), whole, strict=True
    ):
        assert furthest(resumed[0], expected[0]) == 0
