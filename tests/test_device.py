"""Batches on the device: resident data is cut and augmented there."""

import numpy as np
import pytest
import tiny
import torch
from torch.utils.data import Subset

from base import BaseDataLoader
from base.base_data_loader import one_pass, training_batches
from base.data_order import BatchIndex, SeededFetcher
from data_loader.images import InMemoryImages
from utils import seeding
from utils.errors import ConfigError, DataError

META = torch.device("meta")


def images(n=20, **augmentation):
    pixels = torch.arange(n * 28 * 28).remainder(251).to(torch.uint8).view(n, 28, 28)
    return InMemoryImages(pixels, torch.arange(n) % 3, 0.1, 0.3, **augmentation)


@pytest.mark.parametrize("split", [0.0, 0.3])
@pytest.mark.parametrize("augmentation", [{}, {"shift": 2, "rotate": 10}])
def test_resident_data_is_cut_and_augmented_on_the_device(split, augmentation):
    loader = BaseDataLoader(images(**augmentation), 8, True, split, 0, device_resident=True)
    valid = loader.split_validation()
    sizes = []
    for part in (loader, valid) if split else (loader,):
        for batch in part.to(META):
            # On meta, an amount or an image that came from the CPU fails.
            assert all(tensor.device == META for tensor in batch)
            sizes.append(len(batch[1]))
    assert sizes == ([8, 6, 6] if split else [8, 8, 4])
    if split:  # the view for validation is of the same memory
        assert valid.dataset.dataset.data is loader.dataset.data


def test_resident_batches_are_those_of_the_cpu():
    data = Subset(images(shift=2, rotate=10), [3, 1, 4, 15, 9, 2, 6, 5])
    here, there = (SeededFetcher(data, list, 7, "train") for _ in range(2))
    there.to(torch.device("cpu"))
    order = np.array([5, 0, 7, 2])
    (x, y), (x2, y2) = here[BatchIndex(3, 1, 4, order)], there[BatchIndex(3, 1, 4, order)]
    assert torch.equal(x, x2) and torch.equal(y, y2)
    assert not torch.equal(x, data.dataset.evaluation_view()[data.indices[5]][0])


def test_resident_on_the_cpu_trains_the_same(tmp_path):
    plain = tiny.train(tiny.settings(tmp_path / "a", data_loader__args={"kind": "whole"}))
    resident = tiny.train(tiny.settings(tmp_path / "b", data_loader__args={"kind": "whole", "device_resident": True}))
    assert tiny.rows(plain) == tiny.rows(resident) and tiny.digest(plain.model) == tiny.digest(resident.model)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "points"}, r"device_resident: Points has no __getitems__\(indices\)"),
        ({"kind": "subset"}, r"device_resident: Subset has no __getitems__\(indices\)"),
        ({"kind": "stream"}, "device_resident: Stream has no order"),
        ({"kind": "whole", "num_workers": 1}, "set num_workers to 0, pin_memory to false"),
        ({"kind": "whole", "pin_memory": True}, "set num_workers to 0, pin_memory to false"),
    ],
)
def test_what_cannot_be_resident_is_refused(arguments, message):
    arguments = {"validation_split": 0.0, **arguments}
    with pytest.raises(ConfigError, match=message):
        tiny.TinyLoader(**arguments, device_resident=True)


class Strict(tiny.WholePoints):
    """Takes only indices that are where its data is, as a GPU does."""

    def __getitems__(self, indices):
        assert indices.device == self.x.device
        return self.x.index_select(0, indices), self.y.index_select(0, indices)


def test_data_that_cannot_move_in_place_is_told(monkeypatch):
    class Copied(Strict):
        def to(self, device):
            return Copied(len(self))

    loader = BaseDataLoader(Copied(20), 8, True, 0.0, 0, device_resident=True)
    with pytest.raises(ConfigError, match=r"Copied.to\(device\) has to move the data in place"):
        loader.to(torch.device("cpu"))  # on a laptop, too
    monkeypatch.delattr(tiny.WholePoints, "to")
    with pytest.raises(ConfigError, match=r"device_resident: Strict has no to\(device\)"):
        BaseDataLoader(Strict(20), 8, True, 0.0, 0, device_resident=True)


@pytest.mark.parametrize("own_loop", [False, True])
def test_the_trainer_takes_its_batches_on_the_device(tmp_path, monkeypatch, own_loop):
    seen = []

    class Watching(tiny.Trainer):
        def _train_epoch(self, epoch):
            if not own_loop:
                return super()._train_epoch(epoch)
            for batch in self.data_loader:
                seen.append(("train", batch[0].device))
            self._valid_epoch(epoch)
            return {"loss": 0.0, "val_loss": 0.0}

        def _update(self, batches):
            seen.extend(("train", batch[0].device) for batch in batches)

        def _valid_epoch(self, epoch):
            for batch in one_pass(self.valid_data_loader, 1):
                seen.append(("valid", batch[0].device))
            return {"loss": 0.0}

    monkeypatch.setattr(tiny, "WholePoints", Strict)
    settings = {"data_loader__args": {"kind": "whole", "device_resident": True}, "trainer__monitor": "off"}
    trainer = tiny.build(tiny.settings(tmp_path, **settings), trainer_class=Watching)
    trainer._log_window = trainer.train_metrics.result = dict
    trainer.writers.log = lambda *args: None
    trainer.device = trainer.runtime.device = META
    for epoch in (1, 2):
        trainer.step = 0
        trainer._run_epoch(epoch)
    assert set(seen) == {("train", META), ("valid", META)} and len(seen) == 2 * (11 + 3)


def test_a_loader_that_is_not_the_trainer_s_is_taken_there_too():
    # As test.py has one: nothing but the two functions knows it.
    for batches in (
        lambda loader: one_pass(loader, 1),
        lambda loader: training_batches(loader, 0, 3, 1),
    ):
        loader = BaseDataLoader(Strict(20), 8, True, 0.0, 0, device_resident=True)
        assert [batch[0].device for batch in batches(loader.to(META))] == [META] * 3


@pytest.mark.parametrize("kind", ["own batches", "subset"])
def test_indices_of_every_kind_are_on_the_device(kind):
    data, options = Strict(103), {}
    if kind == "own batches":
        options["batch_sampler"] = tiny.Batches(103)
    else:
        data = Subset(data, np.arange(3, 103, 2))
        data.indices.flags.writeable = False
    shuffle = kind != "own batches"
    loader = BaseDataLoader(data, 8, shuffle, 0.0, 0, device_resident=True, **options)
    assert len(list(loader.to(META))) == len(loader)


def test_a_view_of_resident_images_can_be_read_one_by_one():
    data = images(shift=2, rotate=10)
    data.to(META)
    assert data[3][0].device == META and data.__getitems__(torch.arange(3, device=META))[0].device == META


def test_data_that_does_not_fit_is_told(monkeypatch):
    def full(self, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90 GiB.")

    monkeypatch.setattr(InMemoryImages, "to", full)
    loader = BaseDataLoader(images(), 8, True, 0.0, 0, device_resident=True)
    with pytest.raises(DataError, match=r".train. does not fit on meta: .*90 GiB"):
        loader.to(META)


def test_an_error_comes_in_its_own_turn(monkeypatch):
    class Broken(tiny.Points):
        def __getitem__(self, i):
            if i == 9:
                raise OSError("disk")
            return super().__getitem__(i)

    monkeypatch.setattr(tiny, "Points", Broken)
    loader = tiny.TinyLoader(batch_size=2, shuffle=False, validation_split=0.0)
    taken = []
    with pytest.raises(DataError, match=r"batch 4 of pass 1: sample 9: OSError: disk"):
        for batch in loader.batches(1):
            taken.append(batch)
    assert len(taken) == 4


def test_random_rows_are_on_the_data_s_device_and_fresh_at_each_call():
    def draw(epoch):
        with seeding.Rows(1, "train", epoch, 3, torch.device("cpu")):
            return seeding.uniform_rows(4, 1), seeding.uniform_rows(4, 1), seeding.uniform_rows(4, 2)

    first, second, third = draw(2)
    assert not torch.equal(first, second) and not torch.equal(second, third[:, :1])
    assert torch.equal(torch.cat(draw(2), 1), torch.cat([first, second, third], 1))
    with seeding.Rows(1, "train", 2, 3, META):
        assert seeding.uniform_rows(4, 2).device == META


def test_batches_are_made_by_one_thread_with_pinned_memory_too():
    class Counting(tiny.Points):
        def __getitem__(self, i):
            threads.append(torch.get_num_threads())
            return super().__getitem__(i)

    threads, before = [], torch.get_num_threads()
    loader = BaseDataLoader(Counting(9), 4, True, 0.0, 0)
    loader.pin_memory = True
    torch.set_num_threads(2)
    try:
        list(loader)
        assert set(threads) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
