"""Gradients that are wanted where there are none, and those that nobody gets any more."""

import numpy as np
import pytest
import torch
from torch import nn

import ranks
import tiny
from exact import Exact, furthest, settings, train
from machinery.errors import ConfigError
from machinery.update.networks import without_gradients


class Forces(tiny.TinyModel):
    """Adds the gradient of an energy to its scores."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__(dropout=0.0, norm=False)

    def forward(self, x):
        x = x.detach().requires_grad_()
        scores = super().forward(x)
        (forces,) = torch.autograd.grad(scores.square().sum(), x, create_graph=self.training)
        return scores + forces[:, :3]


class Willing(Forces):
    __module__ = "tiny"
    evaluates_with_gradients = True


class Spare(Willing):
    """Has a layer that no output depends on."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__()
        self.spare = nn.Linear(3, 3)


@pytest.fixture(autouse=True)
def models(monkeypatch):
    for kind in (Forces, Willing, Spare, Embedding, Growing, Sparse):
        monkeypatch.setattr(tiny, kind.__name__, kind, raising=False)


def test_a_forward_pass_that_needs_gradients_says_so(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path, arch={"type": "Forces"}))
    with pytest.raises(RuntimeError, match="does not require grad") as caught:
        trainer.train()
    told = "a model with evaluates_with_gradients = True has them"
    assert told in "".join(caught.value.__notes__)
    trainer = tiny.train(tiny.settings(tmp_path, arch={"type": "Willing"}))
    assert trainer.epoch == 3
    assert trainer.evaluate(trainer.valid_data_loader)["loss"] > 0


def test_others_are_evaluated_without():
    for kind, computed in ((Forces, False), (Willing, True)):
        with without_gradients(kind()):
            assert torch.is_grad_enabled() is computed
        assert torch.is_grad_enabled()


@pytest.mark.parametrize(("arch", "unused"), [("Willing", False), ("Spare", True)])
def test_several_processes_evaluate_with_gradients_what_one_does(tmp_path, arch, unused):
    arch = {"type": arch, "args": {}}
    config = settings(tmp_path, arch=arch, trainer__find_unused_parameters=unused)
    config["data_loader"]["args"] = {"validation_split": 17}  # the last batch is of one process
    weights, logs, count, _ = ranks.run(tmp_path, 1, train, config)[0]
    for others, their_logs, their_count, _ in ranks.run(tmp_path, 2, train, config):
        assert furthest(others, weights) < 1e-12 and their_count == count
        for one, other in zip(logs, their_logs, strict=True):
            np.testing.assert_allclose(list(one.values()), list(other.values()), rtol=1e-7)


class Growing(tiny.TinyModel):
    """Keeps a table as long as the largest batch."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__(dropout=0.0, norm=False)
        self.register_buffer("table", torch.zeros(0))

    def forward(self, x):
        if len(self.table) < len(x):
            self.table = torch.arange(float(len(x)))
        return super().forward(x)


def test_buffers_of_other_shapes_become_the_main_one_s(tmp_path, monkeypatch):
    config = settings(tmp_path, arch={"type": "Growing", "args": {}}, trainer__epochs=1)
    config["data_loader"]["args"] = {"batch_size": 7}  # shares of 4 and 3
    (main, *_), (other, *_) = ranks.run(tmp_path, 2, train, config)
    assert len(main["table"]) == len(other["table"]) == 4


class Sparse(tiny.TinyModel):
    """Has a table that is mostly zeros."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.eye(3).to_sparse())


def attempt(config):
    try:
        train(config)
    except ConfigError as error:
        return str(error)


def test_a_sparse_buffer_is_told_to_be_of_one_process(tmp_path):
    config = settings(tmp_path, arch={"type": "Sparse", "args": {}})
    for told in ranks.run(tmp_path, 2, attempt, config):
        assert "the buffer table is sparse" in told


class Leaving(tiny.Trainer):
    """Trains a layer that no optimizer has in the first epoch, and leaves gradients behind."""

    def _train_epoch(self, epoch):
        log = super()._train_epoch(epoch)
        (self.model(torch.ones(4, 6)).sum() * 1e3).backward()
        return log


def test_gradients_that_an_epoch_leaves_do_not_reach_the_next(tmp_path):
    whole = tiny.train(tiny.settings(tmp_path / "a"), trainer_class=Leaving)
    first = tiny.train(tiny.settings(tmp_path / "b", trainer__epochs=2), trainer_class=Leaving)
    resumed = tiny.train(
        tiny.settings(tmp_path / "b"),
        resume=first.checkpoint_dir / "checkpoint-epoch2.pth",
        trainer_class=Leaving,
    )
    assert tiny.digest(resumed.model) == tiny.digest(whole.model)


class Freezing(Exact):
    def _train_epoch(self, epoch):
        if epoch == 2:
            for parameter in self.model.module.fc1.parameters():
                parameter.requires_grad_(False)
        return super()._train_epoch(epoch)


def freeze(config):
    try:
        tiny.build(config, trainer_class=Freezing).train()
    except ConfigError as error:
        return str(error)


def test_parameters_that_are_frozen_on_the_way_want_a_setting(tmp_path):
    for told in ranks.run(tmp_path, 2, freeze, settings(tmp_path)):
        assert "frozen since the start" in told
        assert told.endswith("set trainer.find_unused_parameters=true")
    config = settings(tmp_path, trainer__find_unused_parameters=True)
    assert ranks.run(tmp_path, 2, freeze, config) == [None, None]


class Embedding(nn.Module):
    """Has sparse gradients."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 3, sparse=True)

    def forward(self, x):
        return self.table(x.argmax(1))


@pytest.mark.parametrize(
    ("arch", "optimizer", "told"),
    [
        ("TinyModel", "SparseAdam", "optimizer: SparseAdam does not support dense gradients"),
        ("Embedding", "Adam", "optimizer: Adam does not support sparse gradients"),
    ],
)
def test_an_optimizer_that_cannot_take_the_gradients_is_the_configs(
    tmp_path, arch, optimizer, told
):
    changes = {"arch": {"type": arch}, "optimizer": {"type": optimizer, "args": {"lr": 0.01}}}
    trainer = tiny.build(tiny.settings(tmp_path, **changes))
    with pytest.raises(ConfigError, match=told) as caught:
        trainer.train()
    assert caught.value.exit_code == 2
    assert tiny.status(trainer)["exit_code"] == 2


def test_a_mistake_of_an_optimizer_of_ones_own_is_no_mistake_of_the_config(tmp_path):
    class Picky(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("does not support dense gradients")

    trainer = tiny.build(tiny.settings(tmp_path))
    trainer.optimizer = Picky(trainer.model.parameters(), lr=0.1)
    trainer.lr_scheduler = None
    with pytest.raises(RuntimeError, match="does not support dense"):
        trainer.train()
