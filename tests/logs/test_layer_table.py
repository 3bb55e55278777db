"""The table of the layers, which comes with the first batch."""

import re
from collections import namedtuple

import pytest
import torch
from torch import nn

import tiny
from machinery.checks.layer_table import layer_table, watch


def test_the_layers_are_told_with_the_first_batch_of_each_process(tmp_path, capfd):
    config = tiny.settings(tmp_path, trainer__epochs=2, trainer__verbosity=2)
    trainer = tiny.train(config)
    tiny.train(config, resume=trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    lines = capfd.readouterr().out.splitlines()
    first, second = (i for i, line in enumerate(lines) if line.startswith("layer "))
    assert (
        lines[first : first + 6]
        == lines[second : second + 6]
        == [
            "layer   type         output   parameters",
            "model   TinyModel    [8, 3]          147",
            "  fc1   Linear       [8, 12]          84",
            "  norm  BatchNorm1d  [8, 12]          24",
            "  drop  Dropout      [8, 12]           0",
            "  fc2   Linear       [8, 3]           39",
        ]
    )
    assert not trainer.model._forward_hooks and not trainer.model.fc1._forward_hooks


def test_a_deep_network_is_folded_and_a_long_one_cut():
    def block():
        return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()))

    deep = nn.Sequential(*[block() for _ in range(12)])
    told = watch(deep)
    deep(torch.zeros(5, 2))
    lines = told().splitlines()
    assert len(lines) == 1 + 1 + 12 * 3 and lines[2] == "  0    Sequential    [5, 2]          12"
    assert lines[4] == "    1  Sequential …  [5, 2]           6"
    long = nn.Sequential(*[nn.Linear(2, 2, bias=False) for _ in range(60)])
    long[0].requires_grad_(False)
    lines = layer_table(long, {}).splitlines()
    assert len(lines) == 40 and lines[-2] == "… 24 layers more"
    assert lines[-1] == "4 of the parameters are frozen"


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
def test_networks_of_any_kind_have_a_table():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.scripted = torch.jit.script(nn.Linear(2, 2))
            self.lazy = nn.LazyLinear(3)

        def forward(self, x):
            return {"first": self.scripted(x), "second": (self.lazy(x), None)}

    model = Own()
    told = watch(model)
    model(torch.zeros(4, 2))
    assert "model       Own" in told() and "(first: [4, 2], second: ([4, …" in told()
    compiled = torch.compile(nn.Linear(2, 2))
    assert "Linear" in watch(compiled)() and not compiled._orig_mod._forward_hooks


class Recurrent(nn.Module):
    """Layers that return tuples, and packed sequences."""

    Pair = namedtuple("Pair", ["hidden", "cell"])

    class Step(nn.Module):
        def forward(self, x):
            return Recurrent.Pair(x, x[:1])

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 6)
        self.step = self.Step()
        self.mixed = nn.MultiheadAttention(6, 2)

    def forward(self, x):
        packed, (hidden, _) = self.lstm(x)
        self.step(hidden)
        return self.mixed(packed.data, packed.data, packed.data)


def test_tuples_and_packed_sequences_have_shapes():
    network = Recurrent()
    told = watch(network)
    network(nn.utils.rnn.pack_sequence([torch.ones(3, 4), torch.ones(2, 4)]))
    text = dict(re.findall(r"^ *(\w+) +\w+ +(.*[\])…])  ", told(), re.MULTILINE))
    assert text["lstm"] == "(packed [5, 6], ([1, 2, 6], […"
    assert text["step"] == "(hidden: [1, 2, 6], cell: [1,…"
    assert text["model"] == text["mixed"] == "([5, 6], [5, 5])"
