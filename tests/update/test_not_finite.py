"""A loss or a weight that is not finite: stop, skip and ignore do what they say, and leave no
trace."""

import re
from functools import partial

import pytest
import torch

import tiny
from examples.ema import EMATrainer
from machinery.checkpoints import file as checkpoint
from machinery.checkpoints.restoring import Position
from machinery.errors import NonFiniteError
from machinery.order.epochs import EpochLength
from tiny import Several, status


class Breaking(tiny.Trainer):
    """The loss is NaN in one update."""

    at, count, scale = 20, 0, float("nan")

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        self.count += self.model.training
        return (
            loss * (self.scale if self.count == self.at and self.model.training else 1.0),
            output,
            target,
        )


def finite(folder):
    for path in folder.glob("*.pth"):
        values = checkpoint.load(path)["state_dict"].values()
        assert all(torch.isfinite(value).all() for value in values), path
    return sorted(path.name for path in folder.glob("*.pth"))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__save_step=2), trainer_class=Breaking)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    assert caught.value.exit_code == 5
    # Update 20 is the ninth of epoch 2; the losses are read before saving and every log_step.
    message = (
        r"the loss became nan in epoch 2, step 9 \(lr 0.01, last finite loss \d\.\d+\)\n  resume: "
    )
    assert re.match(message, str(caught.value)), caught.value
    assert "checkpoint-epoch2-step8.pth" in finite(trainer.checkpoint_dir)
    assert status(trainer)["state"] == "failed"


def test_the_step_is_named_also_in_a_resumed_epoch(tmp_path):
    path = tiny.interrupted(tiny.settings(tmp_path), after=19)
    kind = type("AtOnce", (Breaking,), {"at": 1})
    trainer = tiny.build(tiny.settings(tmp_path), resume=path, trainer_class=kind)
    with pytest.raises(NonFiniteError, match="the loss became nan in epoch 2, step 9 "):
        trainer.train()


def test_the_losses_are_looked_at_before_a_stop_saves(tmp_path):
    class Stopping(Breaking):
        def _after_update(self, batches):
            if self.count == self.at:
                self.stop.signum = 15
            super()._after_update(batches)

    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Stopping)
    with pytest.raises(NonFiniteError):
        trainer.train()
    assert finite(trainer.checkpoint_dir) == ["checkpoint-epoch1.pth", "model_best.pth"]


def test_skipping_a_step_leaves_the_moments_alone(tmp_path, messages):
    class Looking(Breaking):
        def _update(self, batches):
            before = tiny.digest(self.model), repr(self.optimizer.state_dict())
            super()._update(batches)
            if self.count == self.at:
                assert (tiny.digest(self.model), repr(self.optimizer.state_dict())) == before

    trainer = tiny.train(tiny.settings(tmp_path, trainer__on_nan="skip"), trainer_class=Looking)
    assert "step 8 of epoch 2 skipped: the loss is not finite" in messages()
    assert trainer.epoch == 3 and finite(trainer.checkpoint_dir)


def test_ignoring_is_left_to_the_user(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__on_nan="ignore"), trainer_class=Breaking)
    assert trainer.epoch == 3
    assert trainer.monitor.best_epoch == 1  # NaN is never best


def test_a_monitored_value_that_is_not_finite(tmp_path, messages):
    class Blind(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {**super()._valid_epoch(epoch), "loss": float("nan") if epoch == 2 else 1.0}

    trainer = tiny.build(tiny.settings(tmp_path / "stop"), trainer_class=Blind)
    with pytest.raises(
        NonFiniteError, match=r"val_loss became nan in epoch 2 \(lr 0.0?1?.*\n  resume: "
    ):
        trainer.train()
    # The weights are whole: the epoch is not lost.
    saved = ["checkpoint-epoch1.pth", "checkpoint-epoch2.pth", "model_best.pth"]
    assert finite(trainer.checkpoint_dir) == saved
    ignoring = tiny.train(
        tiny.settings(tmp_path / "ignore", trainer__on_nan="ignore"), trainer_class=Blind
    )
    assert ignoring.monitor.best_epoch == 1
    resumed = tiny.train(
        tiny.settings(tmp_path / "stop", trainer__on_nan="ignore"),
        resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth",
        trainer_class=Blind,
    )
    assert resumed.monitor.best_epoch == 1 and resumed.start_epoch == 3
    assert tiny.digest(resumed.model) == tiny.digest(ignoring.model)


def test_a_skipped_batch_leaves_no_trace(tmp_path):
    class Poisoned(tiny.Points):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return (x * float("nan") if i == 50 and self.noise else x), y

    trainer = tiny.build(
        tiny.settings(
            tmp_path,
            trainer__on_nan="skip",
            data_loader__args={"validation_split": 0.0},
            trainer__monitor="min loss",
        )
    )
    trainer.data_loader._passes.fetcher.dataset = Poisoned(103)
    trainer.train()
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.state_dict().values())
    assert trainer.monitor.best_epoch > 0 and "nan" not in str(tiny.rows(trainer))


def test_weights_that_are_not_finite_never_become_a_file(tmp_path, monkeypatch):
    class Steep(tiny.Trainer):
        """A finite loss whose gradient is not, in the last update of the first epoch."""

        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            if self.model.training and self.step == 10:
                loss = loss + torch.sqrt((output - output).abs().sum())
            return loss, output, target

    trainer = tiny.build(tiny.settings(tmp_path, trainer__monitor="min loss"), trainer_class=Steep)
    with pytest.raises(
        NonFiniteError, match=r"weights became NaN or infinite by epoch 1 .*: fc1.weight"
    ):
        trainer.train()
    assert not list(trainer.checkpoint_dir.glob("*.pth"))


class Rooted(tiny.Trainer):
    """A finite loss whose gradient is NaN, in the updates `spoilt` of the run."""

    spoilt = frozenset({3, 14})
    count = 0

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        if self.model.training:
            self.count += 1
            if self.spoilt is None or self.count in self.spoilt:
                loss = loss + torch.sqrt((output * 0).sum())
        return loss, output, target


class RootedEMA(Rooted, EMATrainer):
    pass


@pytest.mark.parametrize(
    "kind, changes",
    [
        (Rooted, {}),
        (Rooted, {"trainer__clip_grad_norm": 0.1}),
        (Rooted, {"trainer__accumulate": 3}),
        (Rooted, {"trainer__precision": "bf16"}),
        (RootedEMA, {}),
    ],
)
def test_a_step_with_a_gradient_that_is_not_finite_is_skipped(tmp_path, messages, kind, changes):
    class Looking(kind):
        skipped = 0

        def _update(self, batches):
            before = tiny.digest(self.model), repr(self.optimizer.state_dict())
            first = self.count + 1
            super()._update(batches)
            after = tiny.digest(self.model), repr(self.optimizer.state_dict())
            spoilt = not self.spoilt.isdisjoint(range(first, self.count + 1))
            assert (before == after) == spoilt
            self.skipped += spoilt

    trainer = tiny.train(
        tiny.settings(tmp_path, trainer__on_nan="skip", **changes), trainer_class=Looking
    )
    assert (
        trainer.skipped == 2
        and messages().count("skipped: the loss is not finite, or a gradient") == 2
    )
    assert "checkpoint-epoch3.pth" in finite(trainer.checkpoint_dir)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("plateau", [False, True])
def test_an_epoch_that_learns_nothing_ends_the_run(tmp_path, precision, plateau):
    changes = {"trainer__precision": precision, "data_loader__args": {"batch_size": 2}}
    changes["arch__args"] = {"norm": False}
    if plateau:
        changes["lr_scheduler"] = {"type": "ReduceLROnPlateau"}
        changes["data_loader__args"]["validation_split"] = 0
        changes["trainer__monitor"] = "off"
    kind = type("Always", (Rooted,), {"spoilt": None})
    trainer = tiny.build(
        tiny.settings(tmp_path, trainer__on_nan="skip", **changes), trainer_class=kind
    )
    with pytest.raises(
        NonFiniteError, match="epoch 1 learnt nothing: each update had a loss or gradients"
    ):
        trainer.train()
    assert not finite(trainer.checkpoint_dir)


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("what", ["criterion.centres", "optimizer state 0", "fc1.weight"])
def test_nothing_trained_that_is_not_finite_is_saved(tmp_path, policy, what):
    class Centred(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.centres = torch.nn.Parameter(torch.zeros(3))
            self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

        def forward(self, output, target):
            return tiny.cross_entropy(output + self.centres, target)

    trainer = tiny.build(tiny.settings(tmp_path, trainer__on_nan=policy))
    trainer.criterion = Centred()
    trainer.optimizer.add_param_group({"params": [trainer.criterion.centres], "initial_lr": 0.01})
    trainer._forward = partial(_forward_of, trainer)
    trainer.train()
    assert finite(trainer.checkpoint_dir)  # though the mask is infinite
    with torch.no_grad():
        if what == "fc1.weight":
            trainer.model.fc1.weight[0, 0] = torch.inf
        elif what == "criterion.centres":
            trainer.criterion.centres[1] = torch.nan
        else:
            trainer.optimizer.state[trainer.model.fc1.weight]["exp_avg"][0, 0] = torch.inf
    named = what.replace("0", "[0-9]+")
    with pytest.raises(
        NonFiniteError, match=f"weights became NaN or infinite by epoch 9 .*: {named}"
    ):
        trainer._save_checkpoint(9)
    trainer._checkpoints.check(trainer._held(), Position(9, None, 0.1, False, 0, 0), "ignore")


def _forward_of(trainer, batch):
    output = trainer.model(batch[0])
    return trainer.criterion(output, batch[1]), output, batch[1]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_skip_reads_one_value_an_update(tmp_path, monkeypatch, accumulate):
    reads = []
    for name in ("__bool__", "__float__", "item", "tolist"):
        inner = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor, name, lambda self, inner=inner: reads.append(1) or inner(self)
        )
    sgd = {"type": "SGD", "args": {"lr": 0.01}}  # Adam reads its own steps
    settings = {
        "trainer__on_nan": "skip",
        "trainer__accumulate": accumulate,
        "metrics": ["accuracy"],
        "optimizer": sgd,
    }
    config = tiny.settings(tmp_path, **settings)
    trainer = tiny.build(config)
    trainer.log_step, trainer._judges_loss = 10**9, False
    groups = trainer._groups(1)
    trainer._update(next(groups))  # the first finds out what the loss is the mean over
    for _ in range(3):
        batches = next(groups)
        reads.clear()
        trainer._update(batches)
        assert len(reads) == 1


def test_skipping_leaves_no_trace_in_other_networks_and_metrics(tmp_path):
    class Poisoned(Several):
        def _forward(self, batch):
            x, y = batch
            if self.model.training and (self.epoch, self.step) == (2, 4):
                x = x * float("nan")
            return super()._forward((x, y))

    trainer = tiny.train(tiny.settings(tmp_path, trainer__on_nan="skip"), trainer_class=Poisoned)
    assert all(
        bool(torch.isfinite(buffer).all())
        for part in trainer.experts[:1]
        for buffer in part.buffers()
    )
    assert "nan" not in str(tiny.rows(trainer))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_skip_counts_what_stop_counts(tmp_path, monkeypatch, precision):
    matrix = torch.eye(3)

    class Watching(tiny.Trainer):
        loss_terms = ("loss", "temperature")

        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            return {"loss": loss, "temperature": self.model.fc2.bias[0]}, output, target

    def projected(output, target):
        return ((output @ matrix).argmax(1) == target).float()

    projected.__module__ = "tiny"
    monkeypatch.setattr(tiny, "projected", projected, raising=False)
    settings = {"metrics": ["projected"], "trainer__precision": precision}
    stop = tiny.train(tiny.settings(tmp_path / "stop", **settings), trainer_class=Watching)
    skip = tiny.train(
        tiny.settings(tmp_path / "skip", trainer__on_nan="skip", **settings), trainer_class=Watching
    )
    assert tiny.rows(stop) == tiny.rows(skip)


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
            same = all(
                torch.equal(a, b)
                for a, b in zip(before, self.ema.module.state_dict().values(), strict=True)
            )
            assert same == bad or self.step == 1

    monkeypatch.setattr(tiny, "TinyModel", Averaging)
    settings = {"trainer__on_nan": "skip", "trainer__ema_decay": 0.5, "trainer__epochs": 1}
    trainer = tiny.train(tiny.settings(tmp_path, **settings), trainer_class=Spoilt)
    assert torch.isfinite(trainer.model.seen).all()
    assert int(trainer.ema.n_averaged) == 11 - 1


class Holes(tiny.Points):
    """A sample with a number that is none."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        if i == 17:
            x = x.clone()
            x[2] = float("inf")
        return x, y


@pytest.mark.parametrize(
    "changes", [{}, {"trainer__accumulate": 2}, {"trainer__len_epoch": 5, "trainer__epochs": 5}]
)
def test_what_the_data_has_of_it_is_told(tmp_path, monkeypatch, changes):
    monkeypatch.setattr(tiny, "Points", Holes)
    changes = {"arch__args": {"norm": False}, **changes}
    trainer = tiny.build(tiny.settings(tmp_path, **changes))
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    told = str(caught.value)
    step, sample = re.search(
        r"step (\d+) .*\n  its batch holds .* sample (\d+)\): mend", told
    ).groups()
    at = (trainer.epoch - 1) * trainer.len_epoch + int(step) - 1
    passes, k = divmod(at, len(trainer.data_loader))
    data, _ = next(trainer.data_loader.batches(passes + 1, k, k + 1))
    assert torch.isinf(data[int(sample)]).any()
    assert f"(tensor 0 {list(data.shape)} float32, sample {sample}): mend the data" in told


def test_nothing_is_said_of_data_that_is_whole_or_cannot_be_read_again(tmp_path, monkeypatch):
    trainer = tiny.build(tiny.settings(tmp_path / "a"), trainer_class=Breaking)
    with pytest.raises(NonFiniteError) as caught:
        trainer.train()
    assert "its batch" not in str(caught.value)
    trainer = tiny.build(tiny.settings(tmp_path / "b"), trainer_class=Breaking)
    monkeypatch.setattr(type(trainer._length), "batch", lambda *where: 1 / 0)
    with pytest.raises(NonFiniteError, match="resume: "):
        trainer.train()


def test_a_stream_is_not_read_again_for_it():
    length = EpochLength(None, loader := tiny.TinyLoader(kind="stream", validation_split=0.0))
    length.at(1, length.first, loader, None)
    assert loader.n_samples == 0 and length.batch(1, 3) is None
