"""Watching a run changes nothing, and what should be equal is: accumulation, bare loops, validation
and test."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import tiny
from examples.lbfgs.trainer import LBFGSTrainer
from machinery.order.seeding import seed_everything


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", ["points", "whole"])
def test_watching_changes_nothing(tmp_path, threads, kind):
    torch.set_num_threads(threads)
    try:
        digests = set()
        for i, (workers, board, log_step, period) in enumerate(
            [(0, False, 4, 1), (2, False, 4, 1), (0, True, 1, 3), (0, False, 1000, 2)]
        ):
            config = tiny.settings(
                tmp_path / str(i),
                data_loader__args={"kind": kind, "num_workers": workers},
                trainer__tensorboard=board,
                trainer__log_step=log_step,
                trainer__save_period=period,
                trainer__save_step=3,
            )
            digests.add(tiny.digest(tiny.train(config).model))
        # Without validation, on the same training samples.
        config = tiny.settings(
            tmp_path / "none", data_loader__args={"kind": kind}, trainer__monitor="off"
        )
        digests.add(tiny.digest(tiny.train(config, valid_data_loader=None).model))
        assert len(digests) == 1
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("n", [21 * 4, 21 * 3 + 8])  # whole windows, and a ragged tail of 7 + 1
def test_accumulated_equals_one_large_batch(tmp_path, n):
    torch.set_default_dtype(torch.float64)
    try:
        weights = []
        for batch_size, accumulate in ((7, 3), (21, 1)):
            config = tiny.settings(
                tmp_path / str(accumulate),
                data_loader__args={
                    "n": n,
                    "batch_size": batch_size,
                    "validation_split": 0,
                    "kind": "whole",
                },
                arch__args={"dropout": 0.0, "norm": False},
                trainer__accumulate=accumulate,
                trainer__monitor="off",
            )
            model = tiny.train(config).model
            weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
        assert torch.allclose(*weights, rtol=0, atol=1e-12)
    finally:
        torch.set_default_dtype(torch.float32)


def test_template_equals_a_bare_loop(tmp_path):
    config = tiny.settings(tmp_path, lr_scheduler=None, trainer__monitor="off")
    trained = tiny.train(config, valid_data_loader=None)

    bare = tiny.build(
        tiny.settings(tmp_path / "bare", trainer__monitor="off"), valid_data_loader=None
    )
    model, optimizer = bare.model, bare.optimizer
    for _ in range(3):
        for x, y in bare.data_loader:  # passes 1, 2, 3, seeded by the loader
            loss = tiny.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert tiny.digest(trained.model) == tiny.digest(model)


def test_metrics_are_exact_over_samples(tmp_path):
    config = tiny.settings(
        tmp_path,
        data_loader__args={"n": 202, "batch_size": 64, "validation_split": 101},
        trainer__epochs=1,
    )
    trainer = tiny.build(config)
    log = trainer.evaluate(trainer.valid_data_loader, trainer.valid_metrics)
    dataset = trainer.valid_data_loader.dataset
    x, y = (torch.stack(column) for column in zip(*[dataset[i] for i in range(101)], strict=True))
    trainer.model.eval()
    with torch.no_grad():
        output = trainer.model(x)
    right = int((output.argmax(1) == y).sum())
    assert log["accuracy"] == right / 101
    assert log["mean_accuracy"] == pytest.approx(right / 101, abs=1e-7)
    assert log["loss"] == pytest.approx(float(tiny.cross_entropy(output, y)), abs=1e-6)
    assert trainer.valid_metrics.count("loss") == 101


def test_evaluation_repeats(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path))
    noisy = tiny.TinyLoader(validation_split=0)  # even noise is the same at each evaluation
    assert trainer.evaluate(noisy) == trainer.evaluate(noisy)


def test_iteration_mode_takes_exactly_that_many_batches(tmp_path):
    seen = []

    class Counting(tiny.Trainer):
        def _update(self, batches):
            seen.append((self.epoch, len(batches)))
            super()._update(batches)

    config = tiny.settings(
        tmp_path, trainer__len_epoch=7, trainer__epochs=4
    )  # 11 batches in a pass
    tiny.train(config, trainer_class=Counting)
    assert [sum(n for e, n in seen if e == epoch) for epoch in (1, 2, 3, 4)] == [7] * 4


def test_iteration_mode_equals_passes(tmp_path):
    one = tiny.train(tiny.settings(tmp_path / "a", trainer__epochs=2, lr_scheduler=None))
    two = tiny.train(
        tiny.settings(tmp_path / "b", trainer__epochs=11, trainer__len_epoch=2, lr_scheduler=None)
    )  # 22 batches in both
    assert tiny.digest(one.model) == tiny.digest(two.model)


def test_a_foreign_loader_is_reproducible(tmp_path):
    def train(folder):
        trainer = tiny.build(tiny.settings(tmp_path / folder))
        trainer.data_loader = torch.utils.data.DataLoader(tiny.Points(50), 8, shuffle=True)
        trainer.len_epoch = 7
        seed_everything(hash(folder))
        trainer.train()
        return tiny.digest(trainer.model)

    assert train("a") == train("b")


class Measured(tiny.Trainer):
    """Keeps how far each update moves the weights."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.moves = []

    def _update(self, batches):
        before = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        super()._update(batches)
        after = torch.cat([p.detach().flatten() for p in self.model.parameters()])
        self.moves.append(float((after - before).norm()))


class MeasuredLBFGS(Measured, LBFGSTrainer):
    pass


CLIPPED = {
    "one group": {},
    "two groups": {},
    "fp16": {"trainer__precision": "fp16"},
    # Its first step goes along the gradient; later ones are as long as the curvature says.
    "lbfgs": {
        "optimizer": {"type": "LBFGS", "args": {"lr": 1.0, "max_iter": 1}},
        "trainer__len_epoch": 1,
    },
}


@pytest.mark.parametrize("case", CLIPPED)
def test_clipping_bounds_the_update(tmp_path, case):
    changes = {
        "optimizer": {"type": "SGD", "args": {"lr": 1.0}},
        "trainer__clip_grad_norm": 0.01,
        "trainer__epochs": 1,
        "lr_scheduler": None,
    }
    config = tiny.settings(tmp_path, **{**changes, **CLIPPED[case]})
    trainer = tiny.build(config, trainer_class=MeasuredLBFGS if case == "lbfgs" else Measured)
    if case == "two groups":
        first, *rest = trainer.model.parameters()
        trainer.optimizer = torch.optim.SGD([{"params": [first]}, {"params": rest}], lr=1.0)
    trainer.train()
    assert 0.001 < max(trainer.moves) <= 0.01 * 1.001


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains(tmp_path, precision):
    seen = []

    class Watching(tiny.Trainer):
        def _forward(self, batch):
            loss, output, target = super()._forward(batch)
            seen.append(output.dtype)
            return loss, output, target

    config = tiny.settings(tmp_path, trainer__precision=precision, trainer__epochs=2)
    trainer = tiny.train(config, trainer_class=Watching)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in trainer.model.parameters())


def test_one_long_permutation(tmp_path):
    loader = tiny.TinyLoader(kind="whole", batch_size=10, validation_split=0, n=64)
    passes = [torch.cat([y for _, y in itertools.islice(loader, 7)]) for _ in range(2)]
    assert len(passes[0]) == 64
    assert not torch.equal(*passes)


class Ignoring(tiny.Trainer):
    """The mean is over the targets that are not -100."""

    def _forward(self, batch):
        output = self.model(batch[0])
        return F.cross_entropy(output, batch[1]), output, batch[1]

    def batch_size_of(self, batch):
        return int((batch[1] != -100).sum())


def ignoring(folder, void, kind=Ignoring, **changes):
    """Trained on 64 points in their order, of which some have no target."""
    arguments = {"n": 64, "shuffle": False, "validation_split": 0}
    config = tiny.settings(
        folder,
        arch__args={"norm": False, "dropout": 0.0},
        metrics=[],
        trainer__monitor="off",
        trainer__epochs=2,
        data_loader__args={**arguments, **changes.pop("data_loader__args", {})},
        **changes,
    )
    trainer = tiny.build(config, trainer_class=kind)
    trainer.data_loader.dataset.noise = False
    trainer.data_loader.dataset.y[void] = -100
    trainer.train()
    return trainer


def test_a_batch_that_counts_nothing_takes_no_part_in_an_update(tmp_path):
    void = torch.arange(64) // 8 % 2 == 1
    whole = ignoring(tmp_path / "whole", void, data_loader__args={"batch_size": 16})
    parts = ignoring(
        tmp_path / "parts", void, data_loader__args={"batch_size": 8}, trainer__accumulate=2
    )
    for name, value in whole.model.state_dict().items():
        assert torch.allclose(value, parts.model.state_dict()[name], atol=1e-6)
    losses = [[row[1] for row in tiny.rows(trainer)[1:]] for trainer in (whole, parts)]
    assert [float(loss) for loss in losses[0]] == pytest.approx([float(x) for x in losses[1]])


class Watching(Ignoring):
    """Notes of each update whether it has changed the weights."""

    def _update(self, batches):
        before = tiny.digest(self.model)
        super()._update(batches)
        self.changed = [*getattr(self, "changed", []), tiny.digest(self.model) != before]


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_update_that_counts_nothing_changes_nothing(tmp_path, policy):
    void = torch.arange(64) >= 48
    arguments = {"data_loader__args": {"batch_size": 16}, "trainer__on_nan": policy}
    trainer = ignoring(tmp_path, void, Watching, **arguments)
    assert trainer.changed == [True, True, True, False] * 2
