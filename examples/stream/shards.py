"""Tar shards in the style of WebDataset: in each, KEY.npy and KEY.cls are a sample."""

import io
import itertools
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from base import BaseDataLoader
from utils import distributed, project_path, seeding

Sample = tuple[torch.Tensor, int]


class Shards(IterableDataset[Sample]):
    """Samples of tar files; each process, and each of its workers, has its own share of the files.

    It says where it stands, and goes on from there after a resume: no file is read again.

    Args:
        files: the shards.
        seed: of their order.
        noise: what a draw of the normal distribution is multiplied by that is added to each sample.
    """

    def __init__(self, files: list[Path], seed: int, noise: float) -> None:
        self.files = files
        self.seed = seed
        self.noise = noise
        self.epoch = 0
        #: How many of its shards have been read, and how many samples of the next one.
        self.shards = 0
        self.samples = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which pass begins: each reads the shards in another order."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """How much has been read of the pass under way."""
        return {"shards": self.shards, "samples": self.samples}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the iteration begin behind it."""
        self.shards = state["shards"]
        self.samples = state["samples"]

    def __iter__(self) -> Iterator[Sample]:
        for file in self._share()[self.shards :]:
            for members in itertools.islice(_samples(file), self.samples, None):
                self.samples += 1  # before the sample is given: then it has been read
                yield self._sample(members)
            self.shards += 1
            self.samples = 0

    def _share(self) -> list[Path]:
        """The shards that are read here; the seed of their order is the same everywhere."""
        order = list(self.files)
        random.Random(seeding.mix(self.seed, "shards", self.epoch)).shuffle(order)
        workers = 1
        worker = 0
        info = get_worker_info()
        if info is not None:
            workers = info.num_workers
            worker = info.id
        first = distributed.rank() * workers + worker
        return order[first :: distributed.size() * workers]

    def _sample(self, members: dict[str, bytes]) -> Sample:
        """Numbers, with noise from torch's generator, and their class."""
        numbers = torch.from_numpy(np.load(io.BytesIO(members["npy"]))).float()
        return numbers + self.noise * torch.randn(numbers.shape), int(members["cls"])


def _samples(file: Path) -> Iterator[dict[str, bytes]]:
    """The samples of a shard, each with the content of its files, by what follows the first dot."""
    with tarfile.open(file, "r:") as tar:
        for _, members in itertools.groupby(tar, lambda member: member.name.partition(".")[0]):
            contents = {}
            for member in members:
                reader = tar.extractfile(member)
                if reader is not None:
                    contents[member.name.partition(".")[2]] = reader.read()
            yield contents


class ShardsLoader(BaseDataLoader):
    """Batches of shards. Of several processes, each makes batches of `batch_size`.

    Args:
        shards: a glob pattern, relative to the project's root.
        steps: batches in an epoch, of each process; a pass is cut there.
        seed, noise: as in `Shards`.
        batch_size, num_workers, options: as in `BaseDataLoader`.
    """

    def __init__(
        self,
        shards: str,
        steps: int,
        seed: int = 1,
        noise: float = 0.0,
        batch_size: int = 64,
        num_workers: int = 0,
        **options: Any,
    ) -> None:
        pattern = project_path(shards)
        files = sorted(pattern.parent.glob(pattern.name))
        dataset = Shards(files, seed, noise)
        super().__init__(dataset, batch_size, False, 0.0, num_workers, **options)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps
