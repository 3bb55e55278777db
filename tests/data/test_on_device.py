"""Whole-batch data on a device, and how batches are made."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import tiny
from base import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader, InMemoryImages
from machinery.config.settings import TrainerSettings
from machinery.errors import DataError
from machinery.order import seeding
from machinery.update.runtime import Runtime

META = torch.device("meta")


@pytest.mark.parametrize("augmentation", [{}, {"shift": 2, "rotate": 10}])
def test_images_on_a_device_are_cut_and_augmented_there(augmentation):
    pixels = torch.arange(20 * 28 * 28).remainder(251).to(torch.uint8).view(20, 28, 28)
    data = InMemoryImages(pixels, torch.arange(20) % 3, 0.1, 0.3, **augmentation, device=META)
    loader = BaseDataLoader(data, 8, True, 0.3, 0)
    sizes = []
    for part in (loader, loader.split_validation()):
        for batch in part:
            # On meta, an amount or an image that came from the CPU fails.
            assert all(tensor.device == META for tensor in batch)
            sizes.append(len(batch[1]))
    assert sizes == [8, 6, 6] and data[3][0].device == META


def test_digits_may_be_resident(monkeypatch):
    plain, resident = DigitsDataLoader(shift=2), DigitsDataLoader(shift=2, device_resident=True)
    assert torch.equal(
        next(iter(plain))[0], next(iter(resident))[0]
    )  # without an accelerator nothing changes
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: META)
    assert next(iter(DigitsDataLoader(shift=2, device_resident=True)))[0].device == META


def test_an_error_comes_in_its_own_turn(monkeypatch):
    class Broken(tiny.Points):
        def __getitem__(self, i):
            if i == 9:
                raise OSError("disk")
            return super().__getitem__(i)

    monkeypatch.setattr(tiny, "Points", Broken)
    loader = tiny.TinyLoader(batch_size=2, shuffle=False, validation_split=0.0)
    taken = []
    with pytest.raises(DataError, match=r"batch 4 of pass 1: OSError: disk\n  in sample 9"):
        for batch in loader.batches(1):
            taken.append(batch)
    assert len(taken) == 4


def test_random_rows_are_fresh_at_each_call():
    def draw(epoch):
        with seeding.Rows(1, "train", epoch, 3):
            return (
                seeding.uniform_rows(4, 1),
                seeding.uniform_rows(4, 1),
                seeding.uniform_rows(4, 2),
            )

    first, second, third = draw(2)
    assert not torch.equal(first, second) and not torch.equal(second, third[:, :1])
    assert torch.equal(torch.cat(draw(2), 1), torch.cat([first, second, third], 1))


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


class Copies(TorchDispatchMode):
    """Counts the copies to another device that wait."""

    waiting = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        to_another = function is torch.ops.aten._to_copy.default and kwargs.get("device") == META
        if to_another and not kwargs.get("non_blocking", False):
            self.waiting += 1
        return function(*args, **kwargs)


def test_no_copy_to_the_device_waits():
    pixels = torch.zeros(20, 28, 28, dtype=torch.uint8)
    data = InMemoryImages(pixels, torch.arange(20), 0.1, 0.3, shift=2, rotate=9, device=META)
    runtime = Runtime(META, TrainerSettings(epochs=1))
    with Copies() as copies:
        runtime.move(data.__getitems__(torch.arange(8)))
        runtime.move({"x": torch.ones(3), "y": [torch.ones(2), (torch.ones(1), "text")]})
        runtime.move(Tokens())
        runtime.move(Old())
        assert copies.waiting == 0
        torch.ones(3).to(META)  # which is seen
        assert copies.waiting == 1


class Tokens:
    """A batch of a class of its own."""

    def to(self, device, *, non_blocking=False):
        return torch.ones(3).to(device, non_blocking=non_blocking)


class Old:
    """One that copies in its own way."""

    def to(self, device):
        return self


@pytest.mark.parametrize(
    "workers, options, pinned",
    [
        (0, {}, False),
        (1, {}, True),
        (1, {"pin_memory": False}, False),
        (0, {"pin_memory": True}, True),
    ],
)
def test_memory_is_pinned_for_workers_beside_a_gpu(monkeypatch, workers, options, pinned):
    assert not BaseDataLoader(tiny.Points(9), 4, num_workers=workers, **options).pin_memory
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    loader = BaseDataLoader(tiny.Points(9), 4, num_workers=workers, **options)
    assert loader.pin_memory == loader._passes.inner.pin_memory == pinned
