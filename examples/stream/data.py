"""Data that never ends: an epoch is so many steps."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from base import BaseDataLoader
from utils import distributed, seeding

Point = tuple[torch.Tensor, torch.Tensor]


class Spirals(IterableDataset[Point]):
    """Points of two spirals, for ever; each process, and each of its workers, has its own share.

    It says where it stands, and goes on from there after a resume.

    Args:
        samples: stop after so many; None never stops.
        seed: of the points.
    """

    def __init__(self, samples: int | None, seed: int) -> None:
        self.samples = samples
        self.seed = seed
        self.epoch = 0
        #: How many points of its share have been read.
        self.read = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which pass begins: each has other points."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """How many points have been read of the pass under way."""
        return {"read": self.read}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the iteration begin behind them."""
        self.read = state["read"]

    def __iter__(self) -> Iterator[Point]:
        for number in self._share(self.read):
            self.read += 1  # before the point is given: then it has been read
            yield self._point(number)

    def _share(self, done: int) -> Iterable[int]:
        """The numbers of the points that are to be read here, without those that are done."""
        workers = 1
        worker = 0
        info = get_worker_info()
        if info is not None:
            workers = info.num_workers
            worker = info.id
        shares = distributed.size() * workers
        first = distributed.rank() * workers + worker + done * shares
        if self.samples:
            return range(first, self.samples, shares)
        return itertools.count(first, shares)

    def _point(self, number: int) -> Point:
        """A point float [2], and which of the spirals it is on."""
        place = seeding.mix(self.seed, "spirals", self.epoch, number)
        draw = torch.Generator().manual_seed(place)
        distance = torch.rand((), generator=draw).sqrt()
        label = torch.randint(2, (), generator=draw)
        angle = 3 * math.pi * distance + math.pi * label
        point = distance * torch.stack([angle.cos(), angle.sin()])
        return point + 0.02 * torch.randn(2, generator=draw), label


class SpiralsLoader(BaseDataLoader):
    """Batches of points. Of several processes, each makes batches of `batch_size`.

    Args:
        steps: batches in an epoch, for training.
        samples: how many there are, for an evaluation; None for a stream without an end.
        seed: of the points.
        batch_size, num_workers, options: as in `BaseDataLoader`.
    """

    def __init__(
        self,
        steps: int | None = None,
        samples: int | None = None,
        seed: int = 1,
        batch_size: int = 64,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(Spirals(samples, seed), batch_size, False, 0.0, num_workers, **options)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps or super().__len__()
