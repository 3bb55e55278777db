"""`trainer.strategy: "fsdp"`: a model whose weights are shared out trains as one process does."""

import json
import re
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ranks
import tiny
from base import BaseModel
from exact import Exact, furthest, stopped
from machinery import distributed
from machinery.checkpoints import file as checkpoint
from machinery.update.sharding import is_sharded, local


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, width)

    def forward(self, x):
        return x + F.gelu(self.fc(self.norm(x)))


class Tower(BaseModel):
    """Of odd sizes, which no number of processes divides."""

    def __init__(self, width=7, depth=3):
        super().__init__()
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.head = nn.Linear(width, 3)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Tied(Tower):
    """Has a weight by two names."""

    def __init__(self):
        super().__init__()
        self.again = nn.Linear(6, 7)
        self.again.weight = self.stem.weight

    def forward(self, x):
        return super().forward(x) + self.head(self.again(x))


class Odd(Tower):
    """Has a parameter that is none as others are."""

    def __init__(self, kind):
        super().__init__()
        made = {"scalar": torch.ones(()), "empty": torch.ones(0, 4), "view": torch.ones(3, 4).t()}
        made["half"] = torch.ones(3, dtype=torch.float16)
        self.odd = nn.Parameter(made[kind])

    def double(self):
        kind = self.odd.dtype
        super().double()
        self.odd.data = self.odd.data.to(kind)
        return self


class Parting(Tower):
    """Each process leaves another block out, if it has come so far, or takes another head."""

    def __init__(self, after=0, heads=False):
        super().__init__()
        self.heads = nn.ModuleList([nn.Linear(7, 3) for _ in range(2)]) if heads else None
        self.left = after

    def forward(self, x):
        self.left -= 1
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            if self.heads or self.left >= 0 or number != distributed.rank():
                x = block(x)
        return self.heads[distributed.rank()](x) if self.heads else self.head(x)


class Boxed(Tower):
    """Gives an object of its own class."""

    def forward(self, x):
        return SimpleNamespace(output=super().forward(x))


class Slopes(Tower):
    """Computes gradients in its forward pass, as forces of an energy."""

    evaluates_with_gradients = True

    def forward(self, x):
        x = x.requires_grad_()
        y = super().forward(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=self.training)
        return y + slope[:, :3]


class Unboxes(Exact):
    def _forward(self, batch):
        output = self.model(batch[0].double()).output
        return self.criterion(output, batch[1]), output, batch[1]


for kind in (Block, Tower, Tied, Odd, Parting, Boxed, Slopes):
    kind.__module__ = "tiny"
    setattr(tiny, kind.__name__, kind)

FSDP = {"trainer__strategy": "fsdp", "trainer__shard": ["blocks.*"]}
SGD = {"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9}}


def settings(folder, strategy=None, **changes):
    """Uneven on purpose: 43 of 53 samples in batches of 5, three to an update."""
    given = {"n": 53, "validation_split": 10, "batch_size": 5}
    config = {
        "arch": {"type": "Tower"},
        "optimizer": SGD,
        "data_loader__args": given,
        "trainer__accumulate": 3,
        "trainer__clip_grad_norm": 1.0,
        "trainer__epochs": 2,
        "trainer__save_step": 3,
        "metrics": ["accuracy"],
    }
    if strategy == "fsdp":
        config |= FSDP
    return tiny.settings(folder, **{**config, **changes})


def trained(config, resume=None):
    """Whether all weights are shared out, and any; what the last checkpoint holds; the rows."""
    trainer = tiny.as_train_py(config, resume, trainer_class=Exact)
    trainer.train()
    sharded = [is_sharded(weight) for weight in trainer.model.parameters()]
    if not distributed.is_main():
        return all(sharded), any(sharded)
    content = checkpoint.load(tiny.newest(trainer.checkpoint_dir))
    return all(sharded), any(sharded), content, tiny.rows(trainer)


def run(folder, size, config, resume=None):
    found = ranks.run(folder, size, trained, config, resume)
    fsdp = config["trainer"].get("strategy") == "fsdp" and size > 1
    assert [each[:2] for each in found] == [(fsdp, fsdp)] * size
    return found[0][2:]


def same(one, other, limit=1e-12):
    """Weights, and the state of the optimizer; the numbers of the epochs."""
    (first, rows), (second, others) = one, other
    assert furthest(first["state_dict"], second["state_dict"]) < limit
    states = [each["optimizer"]["state"] for each in (first, second)]
    assert states[0].keys() == states[1].keys() and states[0]
    for key, state in states[0].items():
        for name, value in state.items():
            torch.testing.assert_close(value, states[1][key][name], rtol=limit, atol=limit)
    assert first["arch"] == second["arch"] == first["config"]["arch"]["type"]
    assert first["structures"]["optimizer"] == second["structures"]["optimizer"]
    numbers = [[[float(x) for x in row] for row in table[1:]] for table in (rows, others)]
    torch.testing.assert_close(
        torch.tensor(numbers[0]), torch.tensor(numbers[1]), rtol=1e-9, atol=1e-9
    )


OTHERS = [
    {},
    {"optimizer": {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}},
    {"trainer__ema": 0.5, "trainer__shard": []},
    {"trainer__shard": ["blocks.*.fc", "blocks.*", "stem"], "trainer__clip_grad_norm": None},
    {"trainer__on_nan": "skip", "trainer__log_grad_norm": True, "trainer__clip_grad_norm": None},
    {"trainer__recompute": ["blocks.*"], "trainer__tensorboard": True},
    {"arch__freeze": ["stem.*", "blocks.0.*"]},
    {"arch__freeze": ["stem.*", "blocks.0.*"], "trainer__save": "trained"},
    {"arch__type": "Tied", "trainer__ema": 0.5},
    {"arch__type": "Slopes", "trainer__shard": []},
    {"optimizer": {**SGD, "groups": [{"params": ["*.bias"], "lr": 0.2, "momentum": 0.5}]}},
    {"data_loader__args": {"n": 44, "validation_split": 1, "batch_size": 5}},
]


@pytest.mark.parametrize("changes", OTHERS)
def test_two_processes_train_as_one(tmp_path, changes):
    alone = run(tmp_path, 1, settings(tmp_path / "one", "fsdp", **changes))
    same(run(tmp_path, 2, settings(tmp_path / "two", "fsdp", **changes)), alone)


def test_three_processes_and_others_train_as_one(tmp_path):
    alone = run(tmp_path, 1, settings(tmp_path / "one"))
    same(run(tmp_path, 3, settings(tmp_path / "three", "fsdp")), alone)
    same(run(tmp_path, 2, settings(tmp_path / "ddp")), alone)


#: Processes and ways before and after a stop: of a run inside an epoch, and after one.
WAYS = [
    ((2, "fsdp"), (1, None)),
    ((1, None), (2, "fsdp")),
    ((2, "fsdp"), (2, None)),
    ((2, None), (3, "fsdp")),
    ((3, "fsdp"), (2, "fsdp")),
]


@pytest.mark.parametrize("before, after", WAYS)
@pytest.mark.parametrize("steps", [2, 3])
def test_a_run_goes_on_on_others(tmp_path, before, after, steps):
    """An epoch has three updates, of three batches each."""
    changes = {"trainer__ema": 0.5}
    alone = run(tmp_path, 1, settings(tmp_path / "one", **changes))
    config = settings(tmp_path / "part", before[1], **changes)
    path = ranks.run(tmp_path, before[0], stopped, config, steps)[0]
    assert f"epoch1-step{3 * steps}" in path.name
    config = settings(tmp_path / "part", after[1], **changes)
    content, rows = run(tmp_path, after[0], config, path)
    same((content, rows), alone)


@pytest.mark.parametrize("changes", [{}, {"trainer__precision": "bf16", "trainer__ema": 0.5}])
def test_a_resume_inside_an_epoch_is_bit_for_bit(tmp_path, changes):
    config = settings(tmp_path / "whole", "fsdp", **changes)
    whole = run(tmp_path, 2, config)
    config = settings(tmp_path / "part", "fsdp", **changes)
    path = ranks.run(tmp_path, 2, stopped, config, 5)[0]
    assert "epoch2-step6" in path.name
    again = run(tmp_path, 2, config, path)
    assert furthest(again[0]["state_dict"], whole[0]["state_dict"]) == 0 and again[1] == whole[1]


def parts(config):
    """How many numbers of the weights are in this process, and of how many."""
    trainer = tiny.as_train_py(config, trainer_class=Exact)
    trainer.train()
    weights = [*trainer.model.parameters()]
    state = [each["momentum_buffer"] for each in trainer.optimizer.state.values()]
    found = [sum(local(each).numel() for each in tensors) for tensors in (weights, state)]
    return (*found, sum(weight.numel() for weight in weights))


def test_each_process_holds_a_part(tmp_path):
    found = ranks.run(tmp_path, 2, parts, settings(tmp_path, "fsdp"))
    assert found[0][2] == found[1][2] == 7 * 7 + 3 * 7 * 10 + 3 * 8
    for held in (0, 1):
        assert found[0][held] + found[1][held] == found[0][2]
        assert abs(found[0][held] - found[1][held]) < 0.2 * found[0][2]


class NotANumber(Exact):
    """One process meets a loss that is none."""

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        if self.model.training and self.step == 3 and distributed.is_main():
            loss = loss * float("nan")
        return loss, output, target


def skipping(config):
    trainer = tiny.as_train_py(config, trainer_class=NotANumber)
    trainer.train()
    return [bool(torch.isfinite(local(each)).all()) for each in trainer.model.parameters()]


@pytest.mark.parametrize("size", [2, 4])
def test_all_skip_what_one_cannot_learn_from(tmp_path, size):
    """Four processes are more than the last layer has rows: one has no number of it."""
    config = settings(tmp_path, "fsdp", trainer__on_nan="skip")
    found = ranks.run(tmp_path, size, skipping, config)
    assert all(map(all, found))


class OwnLoop(tiny.Trainer):
    def _train_epoch(self, epoch):
        return {"loss": 1.0}


class Hidden(torch.optim.SGD):
    def __init__(self, params, **options):
        super().__init__(params, **options)
        self._all = [each for group in self.param_groups for each in group["params"]]


Hidden.__module__ = "tiny"
tiny.Hidden = Hidden


class CallsParts(Exact):
    def _forward(self, batch):
        output = self.model.head(self.model.stem(batch[0].double()))
        return self.criterion(output, batch[1]), output, batch[1]


class OfWeights(Exact):
    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        return loss + self.model.head.weight.square().sum(), output, target


def odd(kind):
    return {"arch": {"type": "Odd", "args": {"kind": kind}}}


def parting(**args):
    return {"arch": {"type": "Parting", "args": args}}


def refused(config, cls):
    trainer = tiny.as_train_py(config, trainer_class=cls)
    trainer.train()


@pytest.mark.parametrize(
    "changes, cls, told",
    [
        (
            {"trainer__shard": ["block.*"]},
            Exact,
            r"trainer.shard: no module matches 'block.\*': stem",
        ),
        ({}, CallsParts, r"with fsdp call self.model\(…\), and nothing inside of it: aten.addmm"),
        ({}, OfWeights, "fsdp has no loss of the weights themselves"),
        ({"optimizer": {"type": "Rprop", "args": {}}}, Exact, "no Rprop of what is shared out"),
        ({"optimizer": {"type": "Adafactor", "args": {}}}, Exact, "no Adafactor of what is shared"),
        (parting(), Exact, "they come to other modules: blocks.1, blocks.0"),
        (parting(after=4), Exact, "they come to other modules: blocks.0, blocks.1"),
        (parting(heads=True), Exact, "they come to other weights: heads.0.weight"),
        ({"arch": {"type": "Slopes"}}, Exact, "trainer.shard: a model that evaluates_with_grad"),
        ({"arch": {"type": "Boxed"}}, Unboxes, "model gives a SimpleNamespace, in which it finds"),
        ({"trainer__shard": ["blocks"]}, Exact, "blocks is a ModuleList, which is never called"),
        (odd("scalar"), Exact, "share out odd: it is a single number"),
        (odd("empty"), Exact, "share out odd: it has no numbers"),
        (odd("view"), Exact, "share out odd: it is a view, or channels last"),
        (odd("half"), Exact, "Odd has weights of torch.float16, torch.float64 in one"),
        (
            {"arch__type": "Tied", "trainer__shard": ["stem"]},
            Exact,
            "stem.weight is a weight of several modules",
        ),
        ({"trainer__strategy": "ddp"}, Exact, r'trainer.shard is for "strategy": "fsdp"'),
        ({"trainer__compile": True}, Exact, r'trainer.compile: with "fsdp" it is "blocks"'),
        ({"optimizer": {"type": "Hidden", "args": {}}}, Exact, r"Hidden keeps a list of weights"),
        ({"trainer__accumulate": 1}, OwnLoop, r"fsdp is for Trainer's own _train_epoch"),
    ],
)
def test_what_it_cannot_do_is_refused(tmp_path, changes, cls, told):
    config = settings(tmp_path, "fsdp", **changes)
    codes, said = ranks.finish(*ranks.start(tmp_path, 2, refused, config, cls))
    assert codes == [2, 2] and all(re.search(told, each) for each in said), said


def checked(path):
    tiny.build(tiny.command_line("-c", path, "--check"), trainer_class=Exact).train()


def test_a_check_passes(tmp_path):
    path = tmp_path / "config.json"
    config = settings(tmp_path, "fsdp", trainer__verbosity=1, trainer__ema=0.5)
    path.write_text(json.dumps(config))
    codes, said = ranks.finish(*ranks.start(tmp_path, 2, checked, path))
    assert codes == [0, 0] and "check passed: trained, validated and saved;" in said[0], said
