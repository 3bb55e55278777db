"""Iterable data that ignores which worker it is in: each reads all, and a warning says so."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from base import BaseDataLoader
from base.base_data_loader import one_pass

TOLD = "two workers begin with the same batch, each reads all the data"


class Numbers(IterableDataset):
    """80 samples, all of them from each worker.

    Args:
        sample: makes the one of a number.
    """

    def __init__(self, sample=float, n=80):
        self.sample, self.n = sample, n

    def __len__(self):
        return self.n

    def __iter__(self):
        return iter([self.sample(i) for i in range(self.n)])


class SharedOut(Numbers):
    """A part of them from each worker."""

    def __iter__(self):
        info = get_worker_info()
        return iter([self.sample(i) for i in range(self.n)][info.id :: info.num_workers])


def nested(i):
    return {"x": [torch.full((3,), float(i)), np.arange(2) + i], "text": (str(i),)}


def ours(data, workers=2):
    return BaseDataLoader(data, 8, False, 0.0, workers)


def foreign(data, workers=2):
    return DataLoader(data, 8, num_workers=workers)


def samples(loader, epoch):
    return sum(1 for _ in one_pass(loader, 1, epoch)) * 8


@pytest.mark.parametrize("loader", [ours, foreign])
@pytest.mark.parametrize("sample", [float, nested])
def test_it_is_told_once_in_training_and_in_validation(loader, sample, caplog):
    loader = loader(Numbers(sample))
    assert samples(loader, 0) == samples(loader, 1) == 160
    assert caplog.text.count(TOLD) == 1
    assert "Numbers: two workers" in caplog.text


def test_it_is_told_of_the_only_batch_of_each_worker(caplog):
    samples(ours(Numbers(n=8)), 1)
    assert TOLD in caplog.text


def zeros(i):
    return torch.zeros(3)


def repeated(i):
    return torch.tensor([i % 8, 1])


QUIET = {
    "shared out": SharedOut(),
    "zeros": Numbers(zeros),
    "a batch again and again": Numbers(repeated),
    "only zeros": Numbers(zeros, n=8),
}


@pytest.mark.parametrize("data", QUIET)
def test_it_is_not_told_of_other_data(data, caplog):
    samples(ours(QUIET[data]), 1)
    assert TOLD not in caplog.text


def test_one_worker_reads_the_data_once(caplog):
    assert samples(ours(Numbers(), workers=1), 0) == 80
    assert TOLD not in caplog.text
