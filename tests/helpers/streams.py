"""Streams for tests: files of uneven lengths, whose samples draw from all generators."""

import random

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from base import BaseDataLoader
from utils import distributed

#: How many samples each file has.
LENGTHS = (7, 1, 12, 5, 30, 3, 16, 9, 2, 11)


class Files(IterableDataset):
    """Each worker of each process has every so-many-th file, in an order of each pass."""

    def __init__(self, lengths=LENGTHS, log=None):
        self.lengths, self.log, self.epoch, self.read = lengths, log, 0, 0
        self.reader = None

    def set_epoch(self, epoch):
        self.epoch = epoch

    def state_dict(self):
        return {"read": self.read, "reader": self.reader}

    def load_state_dict(self, state):
        assert state["reader"] in (None, self.here()[0]), "the state of another worker"
        self.read = state["read"]

    def here(self):
        """Which of all workers of all processes this one is, and how many they are."""
        info = get_worker_info()
        workers, worker = (1, 0) if info is None else (info.num_workers, info.id)
        return distributed.rank() * workers + worker, distributed.size() * workers

    def numbers(self):
        """Those of the samples that are read here."""
        order = list(enumerate(self.lengths))
        random.Random(self.epoch).shuffle(order)
        self.reader, readers = self.here()
        mine = order[self.reader :: readers]
        return [100 * file + i for file, length in mine for i in range(length)]

    def note(self, number):
        if self.log is not None:
            with open(self.log, "a") as file:
                file.write(f"{number}\n")

    def sample(self, number):
        self.note(number)
        draw = torch.rand(()) + np.random.random_sample() + random.random()
        x = torch.arange(6) * draw * 0.1 + number % 7
        return x.float(), number % 3

    def __iter__(self):
        for number in self.numbers()[self.read :]:
            self.read += 1
            yield self.sample(number)


class FilesLoader(BaseDataLoader):
    def __init__(self, workers, log=None, steps=None, kind=Files, batch_size=4, **options):
        super().__init__(kind(log=log), batch_size, False, 0.0, workers, **options)
        self.steps = steps

    def __len__(self):
        return self.steps


class Endless(Files):
    """One order of all samples, over and over."""

    def __iter__(self):
        numbers = self.numbers()
        while True:
            number = numbers[self.read % len(numbers)]
            self.read += 1
            yield self.sample(number)


class Late(Files):
    """Counts a sample once the next one is asked for."""

    def __iter__(self):
        for number in self.numbers()[self.read :]:
            yield self.sample(number)
            self.read += 1


class DrawsItsOrder(Files):
    """Draws its order from the global generator."""

    def __iter__(self):
        numbers = self.numbers()
        for i in torch.randperm(len(numbers)).tolist()[self.read :]:
            self.read += 1
            yield self.sample(numbers[i])


class Sample:
    """Is equal to nothing but itself."""

    def __init__(self, x):
        self.x = x


class Buffered(Files):
    """Shuffles in a buffer that its state does not have."""

    def __iter__(self):
        buffer = []
        for number in self.numbers()[self.read :]:
            self.read += 1
            buffer.append(number)
            if len(buffer) == 5:
                yield self.sample(buffer.pop(random.randrange(5)))
        yield from map(self.sample, buffer)


def samples_read(log):
    """The numbers in a log, which is empty then."""
    if not log.exists():
        return []
    numbers = [int(line) for line in log.read_text().splitlines()]
    log.unlink()
    return numbers
