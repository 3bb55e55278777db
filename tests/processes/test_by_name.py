"""`arch.init: "by_name"`: random weights module by module, which no process has to hold whole."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import ranks
import tiny
from base import BaseModel
from exact import Exact, furthest, stopped
from machinery import distributed
from machinery.checkpoints import file as checkpoint
from machinery.errors import ConfigError
from machinery.order.seeding import mix
from machinery.update.sharding import full, is_sharded, local
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


def test_numbers_are_those_of_a_name(tmp_path):
    """What is beside a module changes nothing of it, nor does the stream of all go on otherwise."""
    two = built(settings(tmp_path))[2]
    assert torch.default_generator.initial_seed() == mix(123, "init")
    arch = {"type": "Mixed", "init": "by_name", "args": {"depth": 3}}
    three = built(settings(tmp_path, arch=arch))[2]
    assert two.keys() < three.keys()
    assert furthest(two, {name: three[name] for name in two}) == 0
    assert not torch.equal(three["blocks.1.fc.weight"], three["blocks.2.fc.weight"])
    other = built(settings(tmp_path, arch=arch, seed=7))[2]
    assert not torch.equal(other["blocks.1.fc.weight"], three["blocks.1.fc.weight"])


def test_a_module_writes_what_is_in_it(tmp_path):
    """And changes what is there: a weight of `fc` is half of what it is by itself."""
    numbers = built(settings(tmp_path))[2]
    for name in ("blocks.0", "blocks.1"):
        assert not numbers[f"{name}.attention.out_proj.bias"].any()
        torch.default_generator.manual_seed(mix(123, "init", f"{name}.fc"))
        alone = nn.Linear(6, 6)
        assert torch.equal(numbers[f"{name}.fc.weight"], alone.weight.detach() / 2)
        assert numbers[f"{name}.fc.bias"].abs().max() > 6**-0.5
        assert torch.equal(numbers[f"{name}.scale.table"], torch.linspace(0, 1, 6))


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
PLAIN = {"arch__type": "Plain"}
# Adam divides by the size of a gradient: of one that is nearly 0, the last bits would become the
# first ones.
ADAMW = {"type": "AdamW", "args": {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-3}}
OTHERS = [
    {},
    {"optimizer": ADAMW},
    {"trainer__ema": 0.5},
    {"trainer__ema": 0.5, "trainer__shard": []},
    {"trainer__recompute": ["blocks.*"]},
    {"trainer__on_nan": "skip", "trainer__ema": 0.5, "trainer__tensorboard": True},
    {"arch__freeze": ["stem.*", "blocks.0.*"]},
    {"arch__freeze": ["blocks.0.*"], "trainer__save": "trained"},
    {"optimizer": {**SGD, "groups": [{"params": ["*.bias"], "lr": 0.2, "momentum": 0.5}]}},
    {"optimizer": {**SGD, "groups": [{"params": ["*"], "ndim": 2, "type": "Adam"}]}},
]


@pytest.mark.parametrize("changes", OTHERS)
def test_two_processes_train_as_one(tmp_path, changes):
    changes = {**PLAIN, **changes}
    alone = run(tmp_path, 1, settings(tmp_path / "one", "fsdp", **changes))
    same(run(tmp_path, 2, settings(tmp_path / "two", "fsdp", **changes)), alone)


ADAM = {"type": "Adam", "args": {"lr": 0.01}}


#: BatchNorm wants two samples in each process.
FULL = {"data_loader__args": {"n": 55, "validation_split": 10, "batch_size": 5}}


@pytest.mark.parametrize("changes", [{"arch__type": "Mixed", **FULL}, {"optimizer": ADAM}])
def test_a_resume_is_bit_for_bit(tmp_path, changes):
    """An epoch has three updates, of three batches each."""
    changes = {**PLAIN, "trainer__ema": 0.5, **changes}
    whole = run(tmp_path, 2, settings(tmp_path / "whole", "fsdp", **changes))
    config = settings(tmp_path / "part", "fsdp", **changes)
    path = ranks.run(tmp_path, 2, stopped, config, 5)[0]
    assert "epoch2-step6" in path.name
    same(run(tmp_path, 2, config, path), whole, 0)


def test_a_run_goes_on_on_others(tmp_path):
    """On two processes, on one, and on three."""
    changes = {**PLAIN, "trainer__ema": 0.5, "trainer__epochs": 3}
    alone = run(tmp_path, 1, settings(tmp_path / "one", **changes))
    config = settings(tmp_path / "part", "fsdp", **changes)
    path = ranks.run(tmp_path, 2, stopped, config, 2)[0]
    assert "epoch1-step6" in path.name
    path = ranks.run(tmp_path, 1, stopped, config, 4, path)[0]
    assert "epoch2-step9" in path.name
    same(run(tmp_path, 3, config, path), alone)


def test_whole_and_by_name_go_on_from_each_other(tmp_path):
    """But for the weights that a run begins with, they are one."""
    changes = {**PLAIN, "trainer__ema": 0.5}
    alone = run(tmp_path, 1, settings(tmp_path / "one", **changes))
    config = settings(tmp_path / "part", "fsdp", **changes)
    path = ranks.run(tmp_path, 2, stopped, config, 2)[0]
    config = settings(tmp_path / "part", "fsdp", **{**changes, "arch__init": "whole"})
    path = ranks.run(tmp_path, 2, stopped, config, 2, path)[0]
    assert "epoch2-step3" in path.name
    config = settings(tmp_path / "part", "fsdp", **changes)
    content, rows = run(tmp_path, 2, config, path)
    same((content, rows), alone)


def begun(config):
    """The numbers of a network, as a checkpoint has them."""
    _, _, numbers = built(config)
    return {name: value for name, value in numbers.items() if "hidden" not in name}


def test_it_begins_with_weights_of_a_file(tmp_path):
    """Each process takes its parts of them; what is skipped is made by name."""
    torch.save(ranks.run(tmp_path, 1, begun, settings(tmp_path, seed=5))[0], tmp_path / "file.pt")
    arch = {"type": "Mixed", "init": "by_name", "weights": str(tmp_path / "file.pt")}
    config = settings(tmp_path, "fsdp", arch={**arch, "skip": ["blocks.1.*"]})
    alone = begun(config)
    fresh = begun(settings(tmp_path))
    assert torch.equal(alone["blocks.1.fc.weight"], fresh["blocks.1.fc.weight"])
    assert not torch.equal(alone["blocks.0.fc.weight"], fresh["blocks.0.fc.weight"])
    for numbers in ranks.run(tmp_path, 2, begun, config):
        assert furthest(numbers, alone) == 0


class Heavy(BaseModel):
    """Of so many layers, each of 6.8 MB."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(1300, 1300) for _ in range(layers)])

    def forward(self, x):
        return self.layers(x)


def resident(key):
    """So many MB are in memory; VmHWM: at most, since one has last reset it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition(f"{key}:")[2].split()[0]) / 1024


def peak(config):
    """How many MB it takes to build a network, at most."""
    small = {**config, "arch": {**config["arch"], "args": {"layers": 1}}}
    ConfigParser(small).init_obj("arch", tiny)  # what it imports
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    model = ConfigParser(config).init_obj("arch", tiny)
    assert sum(weight.nbytes for weight in model.parameters()) > 160e6
    return resident("VmHWM") - before


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells it")
def test_no_process_builds_a_whole_copy(tmp_path):
    arch = {"type": "Heavy", "init": "by_name", "args": {"layers": 24}}
    config = settings(tmp_path, arch=arch, trainer__strategy="fsdp")
    parts = ranks.run(tmp_path, 3, peak, config)
    config["arch"]["init"] = "whole"
    wholes = ranks.run(tmp_path, 3, peak, config)
    # a third, and a few layers; memory that is used again hides some MB of either
    assert max(parts) < 2 / 3 * min(wholes)


def in_file(tensor):
    """Whether what a tensor holds is left in a checkpoint; of no numbers, nobody knows."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = [int(each, 16) for each in line.split()[0].split("-")]
        if first <= local(tensor).data_ptr() < last:
            return line.endswith(".pth")
    return None


def read(config, path):
    """Whether the weights of a checkpoint are left in its file, and what is made of them is not."""
    trainer = tiny.as_train_py(config, path, trainer_class=Exact)
    content = trainer.config.launch.content()
    saved = [*content["state_dict"].values()]
    trainer.restore()
    state = [*tree_leaves(dict(trainer.optimizer.state)), *trainer.ema.state_dict().values()]
    made = [*trainer.model.state_dict().values(), *state]
    parts = [local(value).numel() < value.numel() for value in made if is_sharded(value)]
    return {in_file(each) for each in saved}, {in_file(each) for each in made}, parts


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="Linux tells it")
def test_no_process_reads_a_whole_copy(tmp_path):
    """The weights, two moments and the average of each are read in parts."""
    changes = {**PLAIN, "trainer__ema": 0.5, "optimizer": ADAM}
    config = settings(tmp_path, "fsdp", **changes)
    path = ranks.run(tmp_path, 2, stopped, config, 2)[0]
    for there, here, parts in ranks.run(tmp_path, 2, read, config, path):
        assert there == {True} and here <= {False, None}
        # Of 23 weights, one of two names: the model's, two moments, and the average.
        assert all(parts) and len(parts) == 24 + 2 * 23 + 24


class Lazy(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(3)

    def forward(self, x):
        return self.fc(x)


class Special(nn.Parameter):
    """A weight with a class of its own."""


class Strange(BaseModel):
    """Makes its numbers in a way that cannot be done by name."""

    def __init__(self, kind):
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.part = nn.Module()
        self.kind = kind
        if kind == "bare":
            self.part.shift = nn.Parameter(torch.zeros(3))
        elif kind == "buffer":
            self.part.register_buffer("mask", torch.ones(3), persistent=False)
        elif kind == "numbers":
            self.shift = nn.Parameter(torch.from_numpy(np.zeros(3)).float())
        elif kind in ("plain", "plain, set"):
            self.table = [torch.ones(3)]
        elif kind == "class":
            self.shift = Special(torch.zeros(3))
        elif kind in ("half", "other", "wrong"):
            self.shift = nn.Parameter(torch.zeros(3))
        elif kind == "outside":
            self.part.reset_parameters = lambda: nn.init.zeros_(self.fc.bias)
        elif kind in ("written", "written, made"):
            nn.init.zeros_(self.fc.weight)

    def reset_parameters(self):
        if self.kind == "half":
            with torch.no_grad():
                self.shift[:2] = 1
        elif self.kind == "other":
            self.shift = nn.Parameter(torch.zeros(2))
        elif self.kind == "plain, set":
            self.table = [torch.ones(3)]
        elif self.kind == "written, made":
            nn.init.zeros_(self.fc.weight)
        elif self.kind == "wrong":
            self.shift.no_such_method()

    def forward(self, x):
        return self.fc(x)


class Convolution(BaseModel):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2)

    def forward(self, x):
        return self.conv(x.view(len(x), 1, 2, 3)).mean((2, 3))


def around(network):
    return network


tiny.around = around
for kind in (Lazy, Strange, Convolution, Heavy):
    kind.__module__ = "tiny"
    setattr(tiny, kind.__name__, kind)


def odd(kind):
    return {"type": "Strange", "init": "by_name", "args": {"kind": kind}}


@pytest.mark.parametrize(
    "arch, told",
    [
        ({"type": "Lazy", "init": "by_name"}, "fc.weight is of a lazy module"),
        (odd("bare"), r"part, a Module, has part.shift, and no reset_parameters\(\): define one"),
        (odd("buffer"), r"part, a Module, has part.mask, and no reset_parameters\(\): define one"),
        (odd("numbers"), r"shift is given numbers in the constructor: let reset_parameters\(\)"),
        (odd("plain"), r"table is a tensor without numbers: let reset_parameters\(\) set it"),
        (odd("class"), 'shift is a Special, and no plain Parameter: use "whole"'),
        (odd("half"), "Strange.reset_parameters leaves shift without numbers"),
        (odd("other"), "Strange.reset_parameters makes another weight of shift"),
        (odd("wrong"), "Strange.reset_parameters: .*no_such_method"),
        (odd("outside"), "fc.bias is written by the reset_parameters of a module that lacks it"),
    ],
)
def test_what_cannot_make_its_numbers_is_refused(tmp_path, arch, told):
    with pytest.raises(ConfigError, match=f'^arch.init: "by_name": .*{told}'):
        built(settings(tmp_path, arch=arch))


def made(config):
    """Whether the numbers of a layer are there."""
    return bool(ConfigParser(config).init_obj("arch", tiny).fc.weight.any())


@pytest.mark.parametrize("kind, told", [("written", True), ("written, made", False)])
def test_what_only_a_constructor_writes_is_told(tmp_path, kind, told):
    config = settings(tmp_path, arch=odd(kind))
    codes, said = ranks.finish(*ranks.start(tmp_path, 1, made, config))
    assert codes == [0] and ("constructor writes into fc.weight is lost: let a" in said[0]) == told
    assert made(config) == told


@pytest.mark.parametrize("kind, init", [("plain, set", "by_name"), ("class", "whole")])
def test_what_is_refused_is_mended_as_it_says(tmp_path, kind, init):
    assert made(settings(tmp_path, arch={**odd(kind), "init": init}))


CONVOLUTION = {"arch__type": "Convolution", "trainer__shard": []}


def refused(config):
    tiny.as_train_py(config, trainer_class=Exact).train()


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"arch__adapter": {"type": "around"}}, "arch.adapter is put around a whole model"),
        ({**CONVOLUTION, "trainer__channels_last": True}, "weights that are channels last"),
        ({"trainer__shard": ["block.*"]}, r"trainer.shard: no module matches 'block.\*': stem"),
        ({"trainer__compile": True}, r'trainer.compile: with "fsdp" it is "blocks"'),
    ],
)
def test_what_parts_cannot_have_is_refused(tmp_path, changes, told):
    config = settings(tmp_path, "fsdp", **{**PLAIN, **changes})
    codes, said = ranks.finish(*ranks.start(tmp_path, 2, refused, config))
    assert codes == [2, 2] and all(re.search(told, each) for each in said), said
    if 'use "whole"' in said[0]:
        config["arch"]["init"] = "whole"
    elif "set trainer.channels_last=false" in said[0]:
        config["trainer"]["channels_last"] = False
    else:
        return
    codes, said = ranks.finish(*ranks.start(tmp_path, 2, refused, config))
    assert codes == [0, 0], said
