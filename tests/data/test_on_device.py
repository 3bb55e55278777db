"""Whole-batch data on a device, and how batches are made."""

import pytest
import torch

import tiny
from base import BaseDataLoader
from data_loader.data_loaders import DigitsDataLoader, InMemoryImages
from machinery.errors import DataError
from machinery.order import seeding

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
