"""Data loaders: the same batches whatever the workers are, exact splits, and the classic
interface."""

import gzip
import itertools
import random
import struct
from collections import UserDict

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    default_collate,
)

import tiny
from base import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader
from examples.mnist import MnistDataLoader
from machinery import distributed
from machinery.errors import ConfigError, DataError
from machinery.order import seeding
from machinery.order.batches import PassOrder
from machinery.order.generators import own_generators
from parse_config import ConfigParser
from tiny import Counted


def batches(loader):
    return [(x.clone(), y.clone()) for x, y in loader]


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b)
    )


@pytest.mark.parametrize("kind", ["points", "whole", "subset", "weighted", "mixup", "batches"])
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(kind, workers):
    split = 0 if kind in ("weighted", "batches") else 0.2
    here = tiny.TinyLoader(kind=kind, validation_split=split)
    there = tiny.TinyLoader(
        kind=kind, validation_split=split, num_workers=workers, persistent_workers=True
    )
    for _ in range(2):
        assert same(batches(here), batches(there))


class Draws(torch.utils.data.Dataset):
    """Samples that are draws."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return torch.rand(2)


class DrawsRows(Draws):
    """Whole batches, for each sample of which is drawn twice."""

    def __getitems__(self, indices):
        return torch.cat([seeding.uniform_rows(len(indices), 1) for _ in range(2)], dim=1)


class DrawsFreely(Draws):
    """Whole batches of draws from torch's and numpy's generators."""

    def __getitems__(self, indices):
        numbers = torch.from_numpy(np.random.rand(len(indices)))
        return torch.stack([torch.rand(len(indices)), numbers.float()], dim=1)


class Shift:
    """A transform with a generator of its own."""

    def __init__(self, generator):
        self.generator = generator

    def draw(self):
        if isinstance(self.generator, torch.Generator):
            return float(torch.rand((), generator=self.generator))
        return float(self.generator.random())


class DrawsByTransforms(Draws):
    """Samples that are draws of two transforms."""

    def __init__(self, *generators):
        self.transforms = {"train": [Shift(generator) for generator in generators]}

    def __getitem__(self, i):
        return torch.tensor([shift.draw() for shift in self.transforms["train"]])


class DrawsBatchesByItsOwn(Draws):
    """Whole batches of draws from a generator of the dataset."""

    draws_from = ()  # of the global ones

    def __init__(self):
        self.rng = np.random.default_rng(1)

    def __getitems__(self, indices):
        return torch.from_numpy(self.rng.random((len(indices), 2)))


def drawn(samples):
    return torch.rand(len(samples), 2)


DRAWING = {
    "samples": (Draws(), default_collate),
    "rows": (DrawsRows(), default_collate),
    "whole batches": (DrawsFreely(), default_collate),
    "collate function": (Draws(), drawn),
    "numpy's of its own": (
        DrawsByTransforms(np.random.default_rng(1), np.random.RandomState(1)),
        default_collate,
    ),
    "others of its own": (
        DrawsByTransforms(random.Random(1), torch.Generator().manual_seed(1)),
        default_collate,
    ),
    "batches of its own": (DrawsBatchesByItsOwn(), default_collate),
}


def drawing(kind, workers=0):
    return BaseDataLoader(DRAWING[kind][0], 8, False, 0.0, workers, DRAWING[kind][1])


class Lazy(UserDict):
    """Data that is opened when it is asked for, which each worker has to do itself."""

    def values(self):
        raise AssertionError("it was opened")

    def __getitem__(self, key):
        raise AssertionError("it was opened")


def test_looking_for_generators_opens_no_data():
    dataset = DrawsByTransforms(np.random.default_rng(1), random.Random(1))
    dataset.file = Lazy({"x": 1})
    dataset.itself = dataset
    dataset.files = [dataset.file, {"again": dataset.file}]
    assert own_generators(dataset) != []
    loader = BaseDataLoader(dataset, 8, False, 0.0, 0)
    assert len(torch.cat([*loader.batches(1)]).unique()) == 40


@pytest.mark.parametrize("kind", DRAWING)
def test_each_pass_draws_numbers_of_its_own(kind):
    loader = drawing(kind)
    first, second, again = (torch.cat([*loader.batches(epoch)]) for epoch in (1, 2, 1))
    assert len(torch.cat([first, second]).unique()) == 2 * 20 * 2
    assert torch.equal(first, again)
    assert torch.equal(torch.cat([*loader.batches(2, 1)]), second[8:])
    assert torch.equal(torch.cat([*drawing(kind, workers=2)]), first)


@pytest.mark.parametrize("kind", DRAWING)
def test_each_process_draws_numbers_of_its_own(monkeypatch, kind):
    monkeypatch.setattr(distributed.world, "size", 2)
    shares = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed.world, "rank", rank)
        shares += drawing(kind).batches(1)
    assert len(torch.cat(shares).unique()) == 20 * 2


def test_each_step_draws_numbers_of_its_own():
    loader = tiny.TinyLoader()
    numbers = [float(torch.rand(())) for epoch in (0, 1, 2) for _ in loader.batches(epoch, 0, 3)]
    assert len(set(numbers)) == 9


class Heard(list):
    """Samples or batches in one order, which hear of the epochs."""

    def __init__(self, values):
        super().__init__(values)
        self.epochs = []

    def set_epoch(self, epoch):
        self.epochs.append(epoch)


@pytest.mark.parametrize(
    "option, values", [("sampler", range(9)), ("batch_sampler", [[0, 1], [2]])]
)
def test_a_sampler_hears_of_the_epoch(option, values):
    sampler = Heard(values)
    loader = BaseDataLoader(tiny.Points(9), 4, False, 0.0, 0, **{option: sampler})
    for _ in range(3):
        list(loader)
    assert sampler.epochs == [1, 2, 3]


def test_passes_differ_and_can_be_entered_anywhere():
    loader = tiny.TinyLoader()
    first, second = batches(loader), batches(loader)
    assert not same(first, second)
    assert same(batches(loader.batches(2, 4, 7)), second[4:7])
    assert len(batches(loader)) == len(loader)  # pass 3, whole


def test_seed_and_name_change_the_order():
    orders = []
    for seed, name in ((123, "train"), (124, "train"), (123, "other")):
        seeding.set_root_seed(seed)
        orders.append(torch.cat([y for _, y in tiny.TinyLoader(kind="whole", name=name)]))
    seeding.set_root_seed(0)
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[0], orders[2])


def test_every_sample_once():
    loader = tiny.TinyLoader(kind="whole", validation_split=0)
    loader.dataset.y = torch.arange(103)
    assert sorted(torch.cat([y for _, y in loader]).tolist()) == list(range(103))


def test_an_index_drawn_twice_is_augmented_twice():
    loader = BaseDataLoader(tiny.Points(5), 10, False, 0.0, 0, sampler=[1, 1])
    ((x, _),) = loader
    assert not torch.equal(x[0], x[1])


def test_whole_batch_augmentation_does_not_depend_on_the_batches():
    few = torch.cat([x for x, _ in tiny.TinyLoader(kind="whole", batch_size=7)])
    many = torch.cat([x for x, _ in tiny.TinyLoader(kind="whole", batch_size=20)])
    assert torch.equal(few, many)


def test_the_split_is_the_classic_one_and_validation_is_plain():
    loader = tiny.TinyLoader(n=100, validation_split=0.25)
    order = np.arange(100)
    np.random.RandomState(0).shuffle(order)
    valid = loader.split_validation()
    x, y = (torch.cat(column) for column in zip(*valid))
    assert torch.equal(y, loader.dataset.y[order[:25]])
    assert torch.equal(x, loader.dataset.x[order[:25]])  # no noise, fixed order
    assert (loader.n_samples, len(loader.sampler), valid.n_samples) == (75, 75, 25)
    assert loader.batch_size == valid.batch_size == 8
    assert tiny.TinyLoader(validation_split=0).split_validation() is None


def test_evaluation_view_reaches_through_a_subset():
    loader = BaseDataLoader(Subset(tiny.Points(60), range(50)), 8, True, 10, 0)
    x, _ = next(iter(loader.split_validation()))
    order = np.arange(50)
    np.random.RandomState(0).shuffle(order)
    assert torch.equal(x, loader.dataset.dataset.x[order[:8]])


@pytest.mark.parametrize(
    "split, n", [(0.001, 640), (1.0, 10), (1.5, 10), (10, 10), (-0.1, 10), (11, 10)]
)
def test_a_split_that_leaves_nothing_is_refused(split, n):
    with pytest.raises(ConfigError, match=f"validation_split {split} of {n} leaves"):
        tiny.TinyLoader(n=n, validation_split=split)


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        return itertools.count()


def test_a_split_of_iterable_data_is_refused_with_what_helps():
    said = "validation_split 0.1: iterable data has no length: leave it out, and give a valid_data"
    with pytest.raises(ConfigError, match=said):
        BaseDataLoader(Endless(), shuffle=False, validation_split=0.1)
    BaseDataLoader(Endless(), shuffle=False)


def test_empty_data_is_refused():
    with pytest.raises(DataError, match="empty"):
        tiny.TinyLoader(n=0, validation_split=0)


def test_drop_last_and_own_samplers():
    assert [len(y) for _, y in tiny.TinyLoader(n=20, validation_split=0, drop_last=True)] == [8, 8]
    loader = BaseDataLoader(
        tiny.Points(9, noise=False), 4, False, 0.0, 0, sampler=SequentialSampler(range(9))
    )
    assert torch.equal(torch.cat([y for _, y in loader]), loader.dataset.y)
    with pytest.raises(ConfigError, match="DistributedSampler"):
        sampler = DistributedSampler(tiny.Points(9), num_replicas=2, rank=0)
        BaseDataLoader(tiny.Points(9), 4, False, 0.0, 0, sampler=sampler)


def test_the_classic_attributes():
    loader = tiny.TinyLoader()
    assert isinstance(loader, DataLoader)
    assert {"dataset", "batch_size", "shuffle", "collate_fn", "num_workers"} <= set(
        loader.init_kwargs
    )
    again = DataLoader(sampler=loader.valid_sampler, **loader.init_kwargs)
    assert sum(len(y) for _, y in again) == 20
    batched = tiny.TinyLoader(kind="batches", validation_split=0)
    assert batched.batch_size == 8 and len(batched) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_sample_is_named(workers):
    class Bad(tiny.Points):
        def __getitem__(self, i):
            if i == 13:
                raise OSError("truncated image")
            return super().__getitem__(i)

    loader = BaseDataLoader(Bad(20), 4, False, 0.0, workers)
    with pytest.raises(
        DataError,
        match=r"of pass 1: OSError: truncated image\n  in sample 13\n  at .*test_loaders.py",
    ):
        list(loader)


@pytest.mark.parametrize("workers", [0, 2])
def test_iterable_data_can_be_entered_anywhere(workers):
    def loader():
        return tiny.TinyLoader(
            kind="stream", n=40, validation_split=0, num_workers=workers, shuffle=False
        )

    whole = batches(loader())
    assert same(batches(loader().batches(1, 2)), whole[2:])


def test_two_iterations_at_a_time_do_not_mix():
    loader = tiny.TinyLoader(kind="whole")
    expected = list(zip(batches(loader), batches(loader)))
    loader.epoch = 1
    for ((x, _), (u, _)), ((a, _), (b, _)) in zip(zip(loader, loader), expected):
        assert torch.equal(x, a) and torch.equal(u, b)


def test_digits():
    loader = DigitsDataLoader(validation_split=0.1, shift=2, rotate=10)
    test = DigitsDataLoader(training=False, shuffle=False, shift=2, rotate=10)
    assert (loader.n_samples, test.n_samples) == (3600, 1000)
    labels = torch.cat([y for _, y in test])
    assert torch.equal(labels, torch.arange(10).repeat_interleave(100))
    x, _ = next(iter(loader))
    assert x.shape == (64, 1, 28, 28) and abs(float(x.mean())) < 0.2 and 0.7 < float(x.std()) < 1.2
    assert torch.equal(next(iter(test))[0], test.dataset.images[:64])  # never augmented
    assert not torch.equal(DigitsDataLoader(shuffle=False).dataset[0][0], loader.dataset[0][0])


def test_augmentation_moves_by_the_amount_asked():
    from data_loader.data_loaders import InMemoryImages

    dot = torch.zeros(400, 28, 28, dtype=torch.uint8)
    dot[:, 14, 14] = 255
    loader = BaseDataLoader(
        InMemoryImages(dot, torch.zeros(400), 0.0, 1.0, shift=3), 400, False, 0.0, 0
    )
    ((x, _),) = loader
    rows, columns = torch.arange(28.0).view(1, 28, 1), torch.arange(28.0).view(1, 1, 28)
    mass = x[:, 0].sum(dim=(1, 2))
    moved = torch.stack([(x[:, 0] * c).sum(dim=(1, 2)) / mass - 14 for c in (rows, columns)])
    assert 2.8 < float(moved.abs().max()) <= 3.01 and float(moved.mean().abs()) < 0.3


def write_mnist(folder, n):
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.RandomState(1).randint(0, 256, (n, 28, 28), dtype=np.uint8)
    labels = (np.arange(n) % 10).astype(np.uint8)
    for part in ("train", "t10k"):
        for name, magic, data in (
            ("images-idx3", (2051, n, 28, 28), images),
            ("labels-idx1", (2049, n), labels),
        ):
            content = struct.pack(f">{len(magic)}i", *magic) + data.tobytes()
            (raw / f"{part}-{name}-ubyte").write_bytes(content)
            (raw / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(content))
    return images, labels


def test_mnist_reads_torchvisions_files(tmp_path):
    images, labels = write_mnist(tmp_path, 30)
    loader = MnistDataLoader(str(tmp_path), 8, shuffle=False)
    x, y = (torch.cat(column) for column in zip(*loader))
    assert torch.equal(y, torch.from_numpy(labels).long())
    assert torch.allclose(x[:, 0], (torch.from_numpy(images).float() / 255 - 0.1307) / 0.3081)


def test_mnist_without_a_network_says_what_works(tmp_path, monkeypatch):
    from torchvision.datasets import mnist

    def offline(*args, **kwargs):
        raise RuntimeError("<urlopen error [Errno -2] Name or service not known>")

    monkeypatch.setattr(mnist, "download_and_extract_archive", offline)
    monkeypatch.setattr(mnist.MNIST, "mirrors", ["http://localhost/"])
    with pytest.raises(DataError, match=r"is not in .*\n.*python train.py -c config.json"):
        MnistDataLoader(str(tmp_path / "none"), 8, download=True)


def test_mnist_is_fetched_only_if_the_config_says_so(tmp_path, monkeypatch):
    from torchvision.datasets import mnist

    monkeypatch.setattr(mnist.MNIST, "download", lambda self: pytest.fail("it was asked for"))
    with pytest.raises(DataError, match=r"data_loader\.args\.download=true fetches it"):
        MnistDataLoader(str(tmp_path / "none"), 8)
    assert not (tmp_path / "none").exists()


def test_numbers_of_a_pass_are_sliced_not_listed():
    loader = tiny.TinyLoader(kind="whole", n=1000, validation_split=0)
    index = next(loader._passes.order._cut_batches(1, range(3)))
    assert isinstance(index.indices, np.ndarray) and index.indices.base is not None
    assert len(list(itertools.islice(loader, 3))) == 3


class Sums(torch.utils.data.Dataset):
    """Samples whose bits depend on how many threads add them up."""

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return torch.randn(400_000, generator=torch.Generator().manual_seed(i)).sum()


def test_samples_are_made_on_one_thread_as_in_a_worker():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        here, there = (
            torch.cat(list(BaseDataLoader(Sums(), 5, True, 0.0, workers))) for workers in (0, 2)
        )
        free = torch.stack([Sums()[i] for i in range(12)]).sort().values
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(here, there)
    assert not torch.equal(here.sort().values, free), (
        "two threads give the same bits: the test shows nothing"
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_of_iterable_data_drops_nothing(workers):
    loader = BaseDataLoader(Counted(21, 21), 8, False, 0.0, workers, drop_last=True)
    assert [len(y) for _, y in loader.batches(0)] == [8, 8, 5] and [
        len(y) for _, y in loader.batches(1)
    ] == [8, 8]


def test_torch_s_own_datasets_get_single_indices():
    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return 9

        def __getitem__(self, i):
            return {index: index * 2 for index in range(9)}[i]

    loader = BaseDataLoader(StackDataset(Rows(), Rows()), 4, False, 0.0, 0)
    assert [x.tolist() for x, _ in loader] == [[0, 2, 4, 6], [8, 10, 12, 14], [16]]


def test_a_loader_s_own_iteration_is_taken(tmp_path):
    class Blank(tiny.TinyLoader):
        def __iter__(self):
            for x, y in super().__iter__():
                yield x * 0, y

    def run(folder, **kwargs):
        trainer = tiny.build(tiny.settings(tmp_path / folder), **kwargs)
        trainer.data_loader = Blank()
        return trainer

    seen = []
    trainer = run("a")
    forward = trainer._forward
    trainer._forward = lambda batch: seen.append(float(batch[0].abs().sum())) or forward(batch)
    trainer.valid_data_loader = Blank(training=False, shuffle=False)
    trainer.train()
    assert len(seen) > 40 and not any(seen)


@pytest.mark.parametrize("batch_size", [8, 200])
def test_an_evaluation_drops_no_batch(tmp_path, batch_size):
    args = {"batch_size": batch_size, "drop_last": True, "training": False, "validation_split": 0}
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1))
    log = trainer.evaluate(tiny.TinyLoader(**args), trainer.valid_metrics)
    assert trainer.valid_metrics.count("loss") == 103
    args["drop_last"] = False
    assert log == trainer.evaluate(tiny.TinyLoader(**args), trainer.valid_metrics)
    assert (
        len(tiny.TinyLoader(batch_size=8, drop_last=True, validation_split=0)) == 12
    )  # in training


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_sampler_of_the_user_s_own_draws_in_each_pass(shuffle):
    loader = tiny.TinyLoader(
        shuffle=shuffle, validation_split=0, sampler=SubsetRandomSampler(range(0, 40, 2))
    )
    first, second = (torch.cat([y for _, y in loader.batches(epoch)]) for epoch in (1, 2))
    assert len(first) == 20 and not torch.equal(first, second)
    split = tiny.TinyLoader(shuffle=shuffle, validation_split=0.2, kind="whole")
    first, second = (torch.cat([y for _, y in split.batches(epoch)]) for epoch in (1, 2))
    assert torch.equal(first, second) != shuffle  # the split's side is shuffled as the loader says


def test_a_subset_class_of_the_user_s_own_is_not_bypassed():
    class Scaled(Subset):
        def __getitem__(self, i):
            x, y = super().__getitem__(i)
            return 0 * x, y

        def __getitems__(self, indices):  # torch asks for it, too
            return [self[i] for i in indices]

    loader = BaseDataLoader(Scaled(tiny.WholePoints(40, noise=False), range(10)), 4, True, 0.0, 0)
    assert all(x.eq(0).all() for x, _ in loader)
    plain = BaseDataLoader(Subset(tiny.WholePoints(40, noise=False), range(10)), 4, True, 0.0, 0)
    assert not any(x.eq(0).all() for x, _ in plain)


@pytest.mark.parametrize("workers, drop_last", [(0, False), (2, False), (2, True)])
def test_iterable_data_with_workers_is_all_there(workers, drop_last):
    loader = tiny.TinyLoader(
        kind="stream", validation_split=0, n=102, num_workers=workers, drop_last=drop_last
    )
    sizes = [len(x) for x, _ in loader]
    assert len(sizes) == len(loader) and (sum(sizes) == 102 or drop_last)


def test_validation_data_with_shuffle_is_the_same_each_time(tmp_path):
    loader = tiny.TinyLoader(shuffle=True, validation_split=0)
    orders = [torch.cat([y for _, y in loader.batches(0)]) for _ in range(2)]
    assert torch.equal(*orders)


def test_a_split_without_shuffle_says_so(tmp_path, capfd):
    tiny.train(
        tiny.settings(
            tmp_path, trainer__epochs=1, trainer__verbosity=1, data_loader__args={"shuffle": False}
        )
    )
    assert "the loader 'train' reads its samples in one order" in capfd.readouterr().out
    tiny.train(tiny.settings(tmp_path, trainer__epochs=1, trainer__verbosity=1))
    assert "in one order" not in capfd.readouterr().out


@pytest.mark.parametrize("n", [1, 7, 70_001])
def test_an_order_takes_half_the_memory_and_is_the_same(monkeypatch, n):
    small = seeding.permutation(n, 3, "order")
    assert small.dtype == torch.int32
    generator = torch.Generator().manual_seed(seeding.mix(3, "order"))
    assert small.tolist() == torch.randperm(n, generator=generator).tolist()
    order = PassOrder(range(n), 64, True, 3, "train")
    order.take(1, 0, 2)
    assert all(batch.indices.dtype == np.int64 for batch in order)


class Halves(BaseDataLoader):
    """Forgets the constructor of its base, unless it `calls` it."""

    __module__ = "tiny"

    def __init__(self, calls=False):
        self.data = tiny.Points(12)
        if calls:
            super().__init__(self.data, 4, True, 0.0, 0)


def test_a_loader_without_its_base_s_constructor_is_told_what_to_write(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "Halves", Halves, raising=False)
    loader = {"type": "Halves", "args": {}}
    with pytest.raises(
        ConfigError, match=r"Halves's __init__ has not called .*super\(\).__init__\("
    ):
        ConfigParser(tiny.settings(tmp_path, data_loader=loader)).init_obj("data_loader", tiny)
    loader["args"]["calls"] = True
    loader = ConfigParser(tiny.settings(tmp_path, data_loader=loader)).init_obj("data_loader", tiny)
    assert len(loader) == 3
