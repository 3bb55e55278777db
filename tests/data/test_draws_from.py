"""A dataset names the global generators that it draws from: the others cost nothing, the numbers
are those of one that names none, and what it leaves out is noticed."""

import random

import numpy as np
import pytest
import torch
from torch.utils.data import ConcatDataset, Subset, TensorDataset, default_collate

import tiny
from base import BaseDataLoader
from machinery import distributed
from machinery.errors import DataError
from machinery.order import draws, seeding
from machinery.order.seeding import uniform_rows

DRAW = {
    "torch": lambda: float(torch.rand(())),
    "numpy": lambda: float(np.random.randn()),
    "random": random.random,
}
NAMED = [(), ("torch",), ("numpy",), ("random",), ("torch", "random"), ("random", "numpy", "torch")]


class Numbers(torch.utils.data.Dataset):
    """61 samples of draws; unless it says otherwise, what it draws from is not named."""

    def __init__(self, *drawn, seldom=()):
        self.drawn = drawn
        self.seldom = seldom
        self.rng = np.random.default_rng(1)

    def __len__(self):
        return 61

    def __getitem__(self, i):
        drawn = [DRAW[module]() for module in self.drawn if not self.seldom or i in self.seldom]
        return torch.tensor([i, self.rng.random(), *drawn], dtype=torch.float64)


class Whole(Numbers):
    """The same as whole-batch data."""

    def __getitems__(self, indices):
        return torch.stack([self[i] for i in indices.tolist()])


class Listed(Numbers):
    """The same as whole-batch data that leaves the collate function something to do."""

    def __getitems__(self, indices):
        return [self[i] for i in indices.tolist()]


def naming(kind, *modules):
    """A kind of dataset that names what it draws from."""
    return type(kind.__name__, (kind,), {"draws_from": modules})


def jittered(samples):
    """A collate function that draws from all generators."""
    return torch.cat(
        [torch.stack(samples), torch.tensor([[draw() for draw in DRAW.values()]] * len(samples))], 1
    )


def loader_of(data, collate=default_collate, workers=0):
    return BaseDataLoader(data, 8, True, 0.0, workers, collate)


@pytest.mark.parametrize(
    "kind, collate",
    [
        (Numbers, default_collate),
        (Numbers, jittered),
        (Whole, default_collate),
        (Listed, default_collate),
        (Listed, jittered),
    ],
)
@pytest.mark.parametrize("modules", NAMED)
def test_naming_changes_no_numbers(kind, modules, collate):
    expected = [torch.cat([*loader_of(kind(*modules), collate).batches(e)]) for e in (1, 2)]
    data = naming(kind, *modules)(*modules)
    for workers in (0, 2):
        loader = loader_of(data, collate, workers)
        assert torch.equal(torch.cat([*loader.batches(1)]), expected[0])
        assert torch.equal(torch.cat([*loader.batches(2, 5)]), expected[1][40:])
    assert torch.equal(
        torch.cat([*loader_of(Subset(data, range(61)), collate).batches(1)]), expected[0]
    )


@pytest.mark.parametrize("modules", NAMED)
def test_processes_draw_what_one_draws(monkeypatch, modules):
    data = naming(Numbers, *modules)(*modules)
    whole = [*loader_of(data).batches(1)]
    monkeypatch.setattr(distributed.world, "size", 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed.world, "rank", rank)
        for mine, batch in zip(loader_of(data).batches(1), whole, strict=True):
            assert torch.equal(mine, batch[rank::2])


class Drawing(tiny.Points):
    def __getitem__(self, i):
        drawn = sum(DRAW[module]() for module in self.draws_from)
        return self.x[i] + 0.1 * drawn, self.y[i]


class DrawingLoader(BaseDataLoader):
    def __init__(self, modules=(), **options):
        super().__init__(naming(Drawing, *modules)(103), 8, **options)


tiny.DrawingLoader = DrawingLoader


@pytest.mark.parametrize("modules", NAMED[:4])
def test_a_resumed_run_is_the_unbroken_one(tmp_path, modules):
    made = {"type": "DrawingLoader", "args": {"modules": list(modules), "validation_split": 0.2}}
    unbroken = tiny.train(tiny.settings(tmp_path / "unbroken", data_loader=made))
    config = tiny.settings(tmp_path, data_loader=made)
    path = tiny.interrupted(config, after=16)
    config["data_loader"]["args"]["num_workers"] = 2
    resumed = tiny.train(config, resume=path)
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)
    assert tiny.rows(resumed) == tiny.rows(unbroken)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", [Numbers, Whole, Listed])
@pytest.mark.parametrize("left_out", DRAW)
def test_what_it_leaves_out_is_noticed(kind, left_out, workers):
    named = [module for module in DRAW if module != left_out]
    loader = loader_of(naming(kind, *named)(*DRAW), workers=workers)
    with pytest.raises(DataError, match=rf"{kind.__name__} draws from {left_out}, which its"):
        list(loader)


@pytest.mark.parametrize("left_out", DRAW)
def test_a_sample_that_draws_once_in_a_pass_is_noticed(left_out):
    (last,) = list(loader_of(Numbers()).batches(1))[-1][-1:, 0].tolist()
    loader = loader_of(naming(Numbers)(left_out, seldom=[last]))
    with pytest.raises(DataError, match=rf"batch 7 of pass 1: Numbers draws from {left_out}"):
        list(loader)


def test_a_dataset_that_seeds_is_noticed():
    class Seeding(Numbers):
        draws_from = ()

        def __getitem__(self, i):
            np.random.seed(i)
            return super().__getitem__(i)

    with pytest.raises(DataError, match="draws from numpy"):
        list(loader_of(Seeding()))


@pytest.mark.parametrize("modules", NAMED)
def test_defaults_of_torch_are_no_draws(modules):
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    try:
        with draws.Draws(naming(Numbers, *modules)()).watched():
            pass
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "said", ["torch", ("cuda",), ["torch", "np"], 3, [["torch"]], {"torch": 1}.items()]
)
def test_what_is_no_name_is_refused(said):
    data = Numbers()
    data.draws_from = said
    with pytest.raises(DataError, match=r"Numbers.draws_from: expected a tuple of some of torch"):
        loader_of(data)


def test_names_that_can_be_read_once_are_read_once():
    data = Numbers()
    data.draws_from = (name for name in ["random", "torch"])
    assert draws.Draws(data).modules == ("random", "torch")


class Rows(Numbers):
    """Says so as it was said before."""

    draws_rows_only = True

    def __getitems__(self, indices):
        return uniform_rows(len(indices), 2)


@pytest.mark.parametrize(
    "data, places",
    [
        (naming(Whole)(), set()),
        (Rows(), set()),
        (naming(Whole, "torch")(), {"batch"}),
        (naming(Rows, "torch")(), {"batch"}),
        (naming(Numbers)(), {"batch"}),
        (TensorDataset(torch.arange(61)), {"batch"}),
        (naming(Numbers, "torch")(), {"batch", "sample"}),
        (ConcatDataset([naming(Numbers)()]), {"batch", "sample"}),
    ],
)
def test_what_is_seeded(monkeypatch, data, places):
    seeded = set()
    seed = seeding.seed_modules

    def noted(modules, *place):
        seeded.update({"batch", "sample"} & {*place})
        seed(modules, *place)

    monkeypatch.setattr(draws.seeding, "seed_modules", noted)
    list(loader_of(data))
    assert seeded == places
