"""Data in columns, as Hugging Face datasets are: no torch Dataset, batches by `__getitems__` that
are lists of rows or dicts of columns; the same on any number of processes and after any resume."""

import pytest
import torch
from torch import nn

import exact
import ranks
import tiny
from base import BaseDataLoader
from machinery.errors import Stopped
from stand_ins.datasets import Table
from trainer import Trainer


class Columns(Table):
    """Batches are dicts of columns."""

    def __getitems__(self, keys):
        return self[keys]


def table_of(kind, n=103):
    points = tiny.Points(n, noise=False)
    lengths = torch.arange(n) % 13 + 1
    return kind({"x": points.x, "y": points.y, "label": points.y, "length": lengths})


class ColumnsLoader(BaseDataLoader):
    def __init__(self, columns=False, **options):
        super().__init__(table_of(Columns if columns else Table), **options)


class OfColumns(Trainer):
    def __init__(self, model, *args, **kwargs):
        super().__init__(model.double(), *args, **kwargs)

    def _forward(self, batch):
        output = self.model(batch["x"].double())
        return nn.functional.cross_entropy(output, batch["y"]), output, batch["y"]


tiny.ColumnsLoader = ColumnsLoader


def settings(folder, **args):
    args = {"batch_size": 7, "validation_split": 0.2, **args}
    loader = {"type": "ColumnsLoader", "args": args}
    return exact.settings(folder, data_loader=loader, metrics=["accuracy"], trainer__accumulate=2)


def test_rows_and_columns_are_the_same_batches():
    rows, columns = (ColumnsLoader(kind, batch_size=7) for kind in (False, True))
    for first, second in zip(rows, columns, strict=True):
        assert first.keys() == second.keys() == {"x", "y", "label", "length"}
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_column_says_the_classes_and_the_lengths(workers):
    loader = ColumnsLoader(batch_size=20, batch_by="tokens", lengths="length", num_workers=workers)
    seen = 0
    for batch in loader:
        assert int(batch["length"].max()) * len(batch["y"]) <= 20
        seen += len(batch["y"])
    assert seen == 103
    balanced = ColumnsLoader(weights="balanced", num_workers=workers)
    counts = torch.zeros(3)
    for epoch in range(1, 20):
        for batch in balanced.batches(epoch):
            counts += torch.bincount(batch["y"], minlength=3)
    assert ((counts / counts.sum() - 1 / 3).abs() < 0.05).all()


@pytest.mark.parametrize("columns", [False, True])
def test_processes_train_as_one(tmp_path, columns):
    def train(folder):
        return exact.train(settings(folder, columns=columns), trainer_class=OfColumns)[:3]

    one = train(tmp_path / "one")
    for weights, logs, samples in ranks.run(tmp_path, 3, train, tmp_path / "three"):
        assert exact.furthest(weights, one[0]) < 1e-12 and samples == one[2] == 20
        for mine, other in zip(logs, one[1], strict=True):
            assert mine == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize("columns", [False, True])
def test_a_stop_inside_an_epoch_changes_nothing(tmp_path, columns):
    unbroken = tiny.build(settings(tmp_path / "a", columns=columns), trainer_class=OfColumns)
    unbroken.train()
    config = settings(tmp_path / "b", columns=columns, num_workers=2)
    stops = type("Stops", (tiny.Interrupted, OfColumns), {"after": 17})
    stopped = tiny.build(config, trainer_class=stops)
    with pytest.raises(Stopped):
        stopped.train()
    path = tiny.newest(stopped.checkpoint_dir)
    assert "-step" in path.name
    resumed = tiny.build(settings(tmp_path / "b", columns=columns), path, trainer_class=OfColumns)
    resumed.train()
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)
    assert tiny.rows(resumed) == tiny.rows(unbroken)
