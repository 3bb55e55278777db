"""Whatever has a state goes on exactly, or is refused before work is lost."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import tiny
from machinery.checkpoints import file as checkpoint
from machinery.errors import CheckpointError
from machinery.launch import read_run
from parse_config import ConfigParser
from tiny import digest
from trainer import Trainer


class Extra(Trainer):
    """A layer of its own beside the model."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        torch.manual_seed(1)
        self.extra = nn.Linear(6, 3)
        self.more()

    def more(self):
        """What a subclass adds."""

    def add_group(self, lr):
        self.optimizer.add_param_group({"params": list(self.extra.parameters()), "lr": lr})

    def _forward(self, batch):
        data, target = batch
        output = self.model(data) + self.extra(data)
        return self.criterion(output, target), output, target


class AddedGroup(Extra):
    """Its scheduler, which is older, does not know the group."""

    def more(self):
        self.add_group(0.02)


class Holding(torch.optim.Optimizer):
    """An optimizer around another, with a state of its own shape."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner, self.param_groups, self.count = inner, inner.param_groups, 0

    def step(self, closure=None):
        self.count += 1
        self.inner.step()

    def state_dict(self):
        return {"inner": self.inner.state_dict(), "count": self.count}

    def load_state_dict(self, state):
        self.inner.load_state_dict(state["inner"])
        self.param_groups, self.count = self.inner.param_groups, state["count"]


class HoldsOptimizer(Extra):
    def more(self):
        self.add_group(0.02)
        self.optimizer = Holding(self.optimizer)


class Pruned(Extra):
    def more(self):
        self.add_group(0.02)
        prune.l1_unstructured(self.model.fc1, "weight", 0.5)


class Parametrized(Extra):
    def more(self):
        parametrizations.weight_norm(self.extra)
        parametrizations.weight_norm(self.model.fc1)
        self.add_group(0.02)
        new = list(self.model.fc1.parametrizations.parameters())
        self.optimizer.add_param_group({"params": new})


class Noting:
    """Keys that are no strings, and a tuple."""

    def __init__(self):
        self.notes = {1: 0.5, "pair": (1, torch.ones(2))}

    def state_dict(self):
        return self.notes

    def load_state_dict(self, state):
        self.notes = state


class Keeping(Extra):
    kept = Noting
    #: A group of the optimizer's that is used by its identity.
    own_group = None

    def more(self):
        self.add_group(0.02)
        self.own_group = self.optimizer.param_groups[1]
        self.notes = self.kept()

    def _train_epoch(self, epoch):
        self.own_group["lr"] *= 0.5
        assert self.optimizer.param_groups[1]["lr"] == self.own_group["lr"]
        return super()._train_epoch(epoch)


class LazyLayer(Extra):
    def more(self):
        self.lazy = nn.LazyLinear(3)
        self.lazy_optimizer = torch.optim.SGD(self.lazy.parameters(), lr=0.1, momentum=0.9)

    def _forward(self, batch):
        torch.manual_seed(2)
        loss, output, target = super()._forward(batch)
        return loss + nn.functional.cross_entropy(self.lazy(batch[0]), target), output, target

    def _update(self, batches):
        with self.group(batches) as group:
            for batch in group:
                self.backward(self.compute(batch))
            group.step(self.optimizer, self.lazy_optimizer)


class Tables(tiny.TinyModel):
    """Buffers that grow with what is seen, one of them from nothing."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", torch.zeros(0))
        self.register_buffer("made", None)

    def forward(self, x):
        if len(self.table) < x.shape[1]:
            self.table = torch.arange(float(x.shape[1])).cos()
            self.made = self.table * 2
        return super().forward(x * self.table + self.made)


class Sparse(tiny.TinyModel):
    """Sparse buffers of each layout that training fills."""

    def __init__(self):
        super().__init__()
        square = torch.eye(6)
        self.register_buffer("coo", square.to_sparse())
        self.register_buffer("csr", square.to_sparse_csr())
        self.register_buffer("csc", square.to_sparse_csc())
        self.register_buffer("bsr", square.to_sparse_bsr((2, 2)))
        self.register_buffer("twice", torch.sparse_coo_tensor([[1, 1], [2, 2]], [1.0, 2.0], (6, 6)))

    def forward(self, x):
        if self.training:
            dense = self.csr.to_dense()
            dense[0, (dense[0] != 0).sum() % 6] += 0.5
            self.csr, self.coo = dense.to_sparse_csr(), dense.to_sparse()
        return super().forward(x @ self.csr.to_dense() + x @ self.coo.to_dense())


def weights(trainer):
    """All numbers of the model, as one tensor."""
    values = []
    for value in trainer.model.state_dict().values():
        values.append(value.to_dense().double().flatten())
    return torch.cat(values)


def of_three_epochs(folder, monkeypatch, trainer_class=Trainer, model=tiny.TinyModel, **changes):
    """A run of three epochs, and one that was continued after the first."""
    model.__module__ = "tiny"
    monkeypatch.setattr(tiny, model.__name__, model, raising=False)
    changes["arch"] = {"type": model.__name__}
    trainers = []
    for name, epochs in (("whole", [3]), ("parts", [1, 3])):
        resume = None
        for last in epochs:
            config = tiny.settings(folder / name, **{**changes, "trainer__epochs": last})
            trainer = tiny.train(config, resume=resume, trainer_class=trainer_class)
            resume = trainer.checkpoint_dir / "checkpoint-epoch1.pth"
        trainers.append(trainer)
    return trainers


CASES = [
    (AddedGroup, {}),
    (AddedGroup, {"lr_scheduler": {"type": "CosineAnnealingLR", "args": {"T_max": 3}}}),
    (HoldsOptimizer, {"lr_scheduler": None}),
    (Pruned, {}),
    (Parametrized, {}),
    (Keeping, {"lr_scheduler": None}),
    (LazyLayer, {}),
]


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("trainer_class, changes", CASES)
def test_what_a_constructor_builds_goes_on_exactly(tmp_path, monkeypatch, trainer_class, changes):
    whole, continued = of_three_epochs(tmp_path, monkeypatch, trainer_class, **changes)
    assert torch.equal(weights(whole), weights(continued))
    assert digest(whole.extra) == digest(continued.extra)


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("model", [Tables, Sparse])
def test_buffers_that_grow_go_on_exactly(tmp_path, monkeypatch, model):
    whole, continued = of_three_epochs(tmp_path, monkeypatch, model=model)
    assert torch.equal(weights(whole), weights(continued))
    checked, launch = read_run(continued.checkpoint_dir / "checkpoint-epoch3.pth")
    evaluated = tiny.build(ConfigParser(checked, launch=launch))
    evaluated.restore()
    assert torch.equal(weights(whole), weights(evaluated))
    for name, value in whole.model.named_buffers():
        assert evaluated.model.get_buffer(name).layout == value.layout


class Lazy(tiny.BaseModel):
    """Takes its shapes from the first batch, buffers among them."""

    def __init__(self):
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.LazyLinear(3)

    def forward(self, x):
        return self.fc2(self.norm(self.fc1(x)))


@pytest.mark.filterwarnings("ignore:Lazy modules")
@pytest.mark.parametrize("kind", ["file", "sharded"])
def test_lazy_buffers_take_their_shape_from_a_checkpoint(tmp_path, monkeypatch, kind):
    Lazy.__module__ = "tiny"
    monkeypatch.setattr(tiny, "Lazy", Lazy, raising=False)
    changes = {"arch": {"type": "Lazy"}, "trainer__checkpoint": kind}
    whole = tiny.train(tiny.settings(tmp_path / "whole", **changes))
    path = tiny.interrupted(tiny.settings(tmp_path / "part", **changes), 14)
    again = tiny.train(tiny.settings(tmp_path / "part", **changes), resume=path)
    assert digest(again.model) == digest(whole.model)


def test_a_buffer_grows_only_to_what_its_file_holds(tmp_path, monkeypatch):
    _, continued = of_three_epochs(tmp_path, monkeypatch, model=Tables)
    path = continued.checkpoint_dir / "checkpoint-epoch1.pth"
    for name, problem in (("table", "wrong shape: table"), ("made", "unexpected: made")):
        state = checkpoint.load(path)
        state["state_dict"][name] = torch.zeros(1).expand(10**12)
        checkpoint.save(state, tmp_path / "models/Tiny/x.pth")
        with pytest.raises(CheckpointError, match=problem):
            config = tiny.settings(tmp_path, arch={"type": "Tables"})
            tiny.build(config, resume=tmp_path / "models/Tiny/x.pth").restore()


class Late(Extra):
    """Changes in its second epoch."""

    def _train_epoch(self, epoch):
        if epoch == 2:
            self.change()
        return super()._train_epoch(epoch)


class LateGroup(Late):
    change = AddedGroup.more


class LateScheduler(Late):
    def change(self):
        self.lr_scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.5)


class LatePart(Late):
    def change(self):
        self.average = torch.optim.swa_utils.AveragedModel(self.model)


class LatePruning(Late):
    def change(self):
        prune.l1_unstructured(self.model.fc1, "weight", 0.5)


class LateLayer(Late):
    def change(self):
        self.extra = nn.Linear(6, 3, bias=False)


LATE = [
    (LateGroup, r"optimizer: parameters in its groups \[6\] -> \[6, 2\]"),
    (LateScheduler, "lr_scheduler: StepLR -> ExponentialLR"),
    (LatePart, "unexpected: average"),
    (LatePruning, "model: unexpected: fc1.weight_orig, fc1.weight_mask"),
    (LateLayer, "extra: missing: bias"),
]


@pytest.mark.parametrize("trainer_class, message", LATE)
def test_what_changes_under_way_is_told_at_the_first_save(tmp_path, trainer_class, message):
    config = tiny.settings(tmp_path, trainer__epochs=3)
    trainer = tiny.build(config, trainer_class=trainer_class)
    with pytest.raises(CheckpointError, match=message) as caught:
        trainer.train()
    assert "constructor" in str(caught.value) and "checkpoint-epoch1.pth" in str(caught.value)
    names = sorted(path.name for path in trainer.checkpoint_dir.glob("*.pth"))
    assert names == ["checkpoint-epoch1.pth", "model_best.pth"]
    again = tiny.build(
        config, resume=trainer.checkpoint_dir / names[0], trainer_class=trainer_class
    )
    again.restore()


def test_what_is_taken_back_before_the_save_is_fine(tmp_path):
    class Once(LatePruning):
        def _train_epoch(self, epoch):
            log = super()._train_epoch(epoch)
            if epoch == 2:
                prune.remove(self.model.fc1, "weight")
            return log

    tiny.train(tiny.settings(tmp_path), trainer_class=Once)


class Losing(Noting):
    def load_state_dict(self, state):
        self.notes = {**state, 1: 0.0}


class Refusing(Noting):
    def load_state_dict(self, state):
        raise ValueError("not today\nnor tomorrow")


class Unsaved(Noting):
    def __init__(self):
        self.notes = {"seen": {1, 2}}


class Listing(Noting):
    def __init__(self):
        self.notes = [1, 2]


class Raising(Noting):
    def state_dict(self):
        raise KeyError("lost")


REFUSED = [
    (Losing, r"notes \(Losing\): load_state_dict does not bring back what state_dict gives: 1"),
    (Refusing, r"notes \(Refusing\): load_state_dict: ValueError: not today$"),
    (Unsaved, r"the state of notes\.seen is a builtins\.set"),
    (Listing, "the state_dict of a Listing gives a list"),
    (Raising, r"notes \(Raising\): state_dict: KeyError"),
]


@pytest.mark.parametrize("kind, message", REFUSED)
def test_a_state_that_does_not_come_back_is_refused_at_the_start(tmp_path, kind, message):
    trainer = tiny.build(
        tiny.settings(tmp_path), trainer_class=type("Kept", (Keeping,), {"kept": kind})
    )
    with pytest.raises(CheckpointError, match=message):
        trainer.train()
    assert not trainer.step and not list(trainer.checkpoint_dir.glob("*.pth"))


class Masters(torch.optim.Optimizer):
    """Keeps float32 copies of weights of half the width, which torch narrows when it loads."""

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state["wide"] = parameter.detach().float()
            state["wide"] -= 0.01 * parameter.grad.float()
            parameter.data.copy_(state["wide"])


class Narrow(Extra):
    def more(self):
        self.model.bfloat16()
        self.optimizer = Masters(self.model.parameters(), {"lr": 0.01})

    def _forward(self, batch):
        output = self.model(batch[0].bfloat16()).float()
        return self.criterion(output, batch[1]), output, batch[1]


def test_a_state_that_appears_later_makes_the_way_at_a_save(tmp_path, monkeypatch):
    path = tiny.write_config(tmp_path, lr_scheduler=None, metrics=[], trainer__epochs=1)
    message = r"optimizer \(Masters\).*gives: state\.0\.wide"
    with pytest.raises(CheckpointError, match=message):
        tiny.build(tiny.command_line("-c", path), trainer_class=Narrow).train()
    # A large one would make a save twice as slow, and is looked at by --check alone.
    monkeypatch.setattr("machinery.checkpoints.saving.AT_SAVE", 0)
    tiny.build(tiny.command_line("-c", path), trainer_class=Narrow).train()
    with pytest.raises(CheckpointError, match=message):
        tiny.build(tiny.command_line("-c", path, "--check"), trainer_class=Narrow).train()
