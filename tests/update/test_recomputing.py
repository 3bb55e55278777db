"""Activations that are computed again: the same gradients to the bit, with less that is kept."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import ranks
import tiny
from exact import furthest
from machinery.errors import ConfigError
from machinery.update.recomputing import matches, recompute
from machinery.update.runtime import unwrap


class Block(nn.Module):
    """Draws, and keeps much."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(6)
        self.inner = nn.Sequential(nn.Linear(6, 48), nn.GELU(), nn.Linear(48, 6))

    def forward(self, x):
        return x + nn.functional.dropout(self.inner(self.norm(x)), 0.2, self.training)


class Blocks(tiny.BaseModel):
    kind = Block

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(self.kind() for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def use(monkeypatch, kind=Block):
    network = type("Blocks", (Blocks,), {"kind": kind, "__module__": "tiny"})
    monkeypatch.setattr(tiny, "Blocks", network, raising=False)


def settings(path, recompute=("blocks.*",), **changes):
    arch = {"type": "Blocks"}
    return tiny.settings(path, arch=arch, trainer__recompute=list(recompute), **changes)


def saved_by(trainer):
    """The bytes that the graph of one batch keeps."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trainer.model.train()(torch.randn(64, 6)).sum()
    return sum(kept.values())


@pytest.mark.parametrize("more", [{}, {"trainer__accumulate": 3}, {"trainer__precision": "bf16"}])
def test_the_run_is_the_same_to_the_bit(tmp_path, monkeypatch, more):
    use(monkeypatch)
    again = tiny.train(settings(tmp_path / "a", **more))
    plain = tiny.train(settings(tmp_path / "b", [], **more))
    assert tiny.rows(again) == tiny.rows(plain)
    weights = unwrap(again.model).state_dict()
    assert furthest(weights, unwrap(plain.model).state_dict()) == 0
    assert saved_by(again) < saved_by(plain) / 3


def test_a_resume_is_exact_and_the_switch_may_change(tmp_path, monkeypatch):
    use(monkeypatch)
    whole = tiny.train(settings(tmp_path / "a", trainer__ema=0.9))
    path = tiny.interrupted(settings(tmp_path / "b", trainer__ema=0.9), 16)
    resumed = tiny.train(settings(tmp_path / "b", [], trainer__ema=0.9), resume=path)
    assert tiny.rows(resumed) == tiny.rows(whole)


def trained(config, kind):
    tiny.Blocks = type("Blocks", (Blocks,), {"kind": kind, "__module__": "tiny"})
    return unwrap(tiny.train(config).model).state_dict()


class Plain(Block):
    def forward(self, x):
        return x + self.inner(self.norm(x))


def test_two_processes_are_one(tmp_path):
    config = settings(tmp_path, data_loader__args={"n": 101, "batch_size": 9})
    alone = ranks.run(tmp_path, 1, trained, config, Plain)[0]
    for weights in ranks.run(tmp_path, 2, trained, config, Plain):
        assert furthest(weights, alone) < 1e-5


class Counting(Block):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return super().forward(x)


class Hidden(Counting):
    """Writes where autograd does not count it, as codebooks do."""

    def forward(self, x):
        self.count.data.add_(1)
        return Block.forward(self, x)


class Replacing(Counting):
    def forward(self, x):
        self.count = self.count + 1
        return Block.forward(self, x)


class Normed(Block):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)


class Drawing(Block):
    def forward(self, x):
        return super().forward(x * random.random())


class DrawingNumPy(Block):
    def forward(self, x):
        return super().forward(x * np.random.rand())


class Own(Block):
    """Draws from a generator that torch does not put back."""

    make = torch.Generator

    def __init__(self):
        super().__init__()
        self.transforms = [self.make()]

    def forward(self, x):
        return super().forward(x * self.drawn(self.transforms[0]))

    def drawn(self, generator):
        return torch.rand((), generator=generator)


class OwnNumPy(Own):
    make = staticmethod(np.random.default_rng)

    def drawn(self, generator):
        return generator.random()


class OwnRandom(OwnNumPy):
    make = random.Random


@pytest.mark.parametrize(
    "kind, recompute, said",
    [
        (Counting, ["blocks.*"], r"blocks\.0 writes its buffer count, as BatchNorm does"),
        (Hidden, ["blocks.*"], r"blocks\.0 writes its buffer count"),
        (Replacing, ["blocks.*"], r"blocks\.0 writes its buffer count"),
        (Normed, ["blocks.2"], r"blocks\.2 writes its buffer norm\.\w+, as BatchNorm does"),
        (Drawing, ["blocks.*"], r"blocks\.0 draws from Python's generator, and a second pass"),
        (DrawingNumPy, ["blocks.*"], r"blocks\.0 draws from NumPy's generator"),
        (Own, ["blocks.*"], r"blocks\.0 draws from a generator of its own, and a second pass"),
        (OwnNumPy, ["blocks.*"], r"blocks\.0 draws from a generator of its own"),
        (OwnRandom, ["blocks.*"], r"blocks\.0 draws from a generator of its own"),
        (Block, ["block.*"], r"'block\.\*' matches no module; there are: blocks, blocks\.0, "),
        (Block, ["blocks"], r"blocks is a ModuleList, which is never called, only what is in it"),
        (Block, ["blocks.*", "blocks.1.inner"], r"blocks\.1\.inner is inside blocks\.1: leave"),
    ],
)
def test_what_would_not_be_the_same_is_refused(tmp_path, monkeypatch, kind, recompute, said):
    use(monkeypatch, kind)
    with pytest.raises(ConfigError, match=rf"trainer\.recompute: {said}"):
        tiny.train(settings(tmp_path, recompute))
    use(monkeypatch)  # what it says to leave out is left out
    tiny.train(settings(tmp_path, ["blocks.1.inner"]))


def test_what_is_written_in_training_alone_is_refused_after_an_evaluation(monkeypatch):
    use(monkeypatch, Normed)
    model = tiny.Blocks()
    recompute(model, ["blocks.*"])
    model.eval()(torch.randn(5, 6)).sum().backward()
    with pytest.raises(ConfigError, match=r"blocks\.0 writes its buffer"):
        model.train()(torch.randn(5, 6))


def test_a_second_pass_that_draws_otherwise_would_be_seen(tmp_path, monkeypatch):
    """The comparison to the bit above is one that dropout could fail."""
    import machinery.update.recomputing as recomputing

    use(monkeypatch)
    plain = tiny.train(settings(tmp_path / "a", []))
    checkpoint = recomputing.checkpoint

    def forgetful(*args, **kwargs):
        return checkpoint(*args, preserve_rng_state=False, **kwargs)

    monkeypatch.setattr(recomputing, "checkpoint", forgetful)
    assert tiny.rows(tiny.train(settings(tmp_path / "b"))) != tiny.rows(plain)


@pytest.mark.parametrize(
    "pattern, name, matched",
    [
        ("blocks.*", "blocks.0", True),
        ("blocks.*", "blocks.0.norm1", False),
        ("*.mlp", "blocks.mlp", True),
        ("blocks.[02]", "blocks.1", False),
        ("blocks", "blocks", True),
        ("*", "blocks.0", False),
    ],
)
def test_patterns_match_part_by_part(pattern, name, matched):
    assert matches(pattern, name) == matched
