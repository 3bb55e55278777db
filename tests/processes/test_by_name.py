"""`arch.init: "by_name"`: random weights module by module, which no process has to hold whole."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ranks
import tiny
from base import BaseModel
from exact import Exact, furthest
from machinery import distributed
from machinery.checkpoints import file as checkpoint
from machinery.update.sharding import full, is_sharded
from parse_config import ConfigParser


class Scale(nn.Module):
    """A weight and a table that its own initialiser makes, and a buffer that no file has."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.register_buffer("table", torch.empty(width))
        self.register_buffer("hidden", torch.empty(width), persistent=False)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.uniform_(self.weight, 0.5, 1.5)
        self.table.copy_(torch.linspace(0, 1, len(self.table)))
        self.hidden = torch.full((len(self.weight),), 0.25)

    def forward(self, x):
        return x * self.weight + self.table * self.hidden


class Block(nn.Module):
    """Has no weights of its own, and writes those of its parts."""

    def __init__(self, width, heads):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.BatchNorm1d(width)
        self.scale = Scale(width)
        self.fc = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self):
        with torch.no_grad():
            self.fc.weight.mul_(0.5)
        nn.init.normal_(self.fc.bias)

    def forward(self, x):
        seen, _ = self.attention(x, x, x, need_weights=False)
        x = x + self.scale(seen)
        return x + F.gelu(self.fc(self.norm(x.mT).mT))


class Mixed(BaseModel):
    """Of odd sizes, with one weight by two names."""

    def __init__(self, width=6, depth=2):
        super().__init__()
        self.stem = nn.Embedding(7, width)
        self.blocks = nn.ModuleList([Block(width, 2) for _ in range(depth)])
        self.head = nn.Linear(width, 7)
        self.head.weight = self.stem.weight
        self.out = nn.Linear(7, 3)
        self.shift = nn.Parameter(torch.empty(5, 3))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.shift)

    def forward(self, x):
        x = self.stem((x.abs() * 3).long().clamp(0, 6))
        for block in self.blocks:
            x = block(x)
        return self.out(self.head(x).mean(1)) + self.shift.mean(0)


class Plain(Mixed):
    """Without BatchNorm, which sees a process' part of a batch."""

    def __init__(self):
        super().__init__()
        for block in self.blocks:
            block.norm = nn.LayerNorm(6)


for kind in (Scale, Block, Mixed, Plain):
    kind.__module__ = "tiny"
    setattr(tiny, kind.__name__, kind)

FSDP = {"trainer__strategy": "fsdp", "trainer__shard": ["blocks.*"]}
SGD = {"type": "SGD", "args": {"lr": 0.05, "momentum": 0.9}}


def settings(folder, strategy=None, **changes):
    given = {"n": 53, "validation_split": 10, "batch_size": 5}
    config = {
        "arch": {"type": "Mixed", "init": "by_name"},
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


def built(config):
    """Whether weights are shared out; the numbers of a network as it is built, all of them."""
    model = ConfigParser(config).init_obj("arch", tiny)
    shared = [is_sharded(weight) for weight in model.parameters()]
    numbers = {name: full(value.detach()).clone() for name, value in model.state_dict().items()}
    for name, buffer in model.named_buffers():
        numbers[name] = buffer.clone()
    assert model.head.weight is model.stem.weight
    return all(shared), any(shared), numbers


@pytest.mark.parametrize("size, strategy", [(2, "ddp"), (2, "fsdp"), (3, "fsdp")])
def test_all_get_the_same_bits(tmp_path, size, strategy):
    alone = built(settings(tmp_path, strategy))
    assert "blocks.0.scale.hidden" in alone[2]
    found = ranks.run(tmp_path, size, built, settings(tmp_path, strategy))
    for shared, any_shared, numbers in found:
        assert shared == any_shared == (strategy == "fsdp")
        assert furthest(numbers, alone[2]) == 0


def trained(config, resume=None):
    """Whether all weights are shared out; what the last checkpoint holds; the rows."""
    trainer = tiny.as_train_py(config, resume, trainer_class=Exact)
    trainer.train()
    shared = [is_sharded(weight) for weight in trainer.model.parameters()]
    if not distributed.is_main():
        return (all(shared),)
    content = checkpoint.load(tiny.newest(trainer.checkpoint_dir))
    return all(shared), content, tiny.rows(trainer)


def run(folder, size, config, resume=None):
    found = ranks.run(folder, size, trained, config, resume)
    fsdp = config["trainer"].get("strategy") == "fsdp" and size > 1
    assert [each[0] for each in found] == [fsdp] * size
    return found[0][1:]


def same(one, other, limit=1e-12):
    """Weights, and the state of the optimizer; the numbers of the epochs."""
    (first, rows), (second, others) = one, other
    assert furthest(first["state_dict"], second["state_dict"]) <= limit
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


#: BatchNorm sees a process' part of the batch: without it several train as one.
PLAIN = {"type": "Plain", "init": "by_name"}
OTHERS = [
    {},
    {"optimizer": {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1}}},
    {"trainer__ema": 0.5},
    {"trainer__ema": 0.5, "trainer__shard": []},
    {"trainer__recompute": ["blocks.*"]},
    {"arch__freeze": ["stem.*", "blocks.0.*"]},
    {"arch__freeze": ["blocks.0.*"], "trainer__save": "trained"},
    {"optimizer": {**SGD, "groups": [{"params": ["*.bias"], "lr": 0.2, "momentum": 0.5}]}},
    {"optimizer": {**SGD, "groups": [{"params": ["*"], "ndim": 2, "type": "Adam"}]}},
]


@pytest.mark.parametrize("changes", OTHERS)
def test_two_processes_train_as_one(tmp_path, changes):
    changes = {"arch": PLAIN, **changes}
    alone = run(tmp_path, 1, settings(tmp_path / "one", "fsdp", **changes))
    same(run(tmp_path, 2, settings(tmp_path / "two", "fsdp", **changes)), alone)
