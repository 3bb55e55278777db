"""Several processes: the template against a DistributedDataParallel loop by hand, and against one.

torchrun runs this file as a script, once in each process, where both sides take turns in the same
processes.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from machinery import distributed
from machinery.files import ROOT
from machinery.order import seeding
from model.loss import nll_loss
from model.model import MnistModel
from tools.benchmarks.loops import Case, digits, make_trainer, resident, timed
from tools.benchmarks.paired import ByHand, Data, Pair

_BATCH = 64
_COPIES = 5


def against_ddp(folder: Path) -> Case:
    """An epoch of LeNet in two processes of one thread each."""
    ours, bare = itertools.tee(_pairs(processes=2, threads=1))
    name = "epoch of LeNet on 2 processes, DDP"
    return Case(name, "epoch", partial(_ours, ours), partial(_bare, bare))


def against_one(folder: Path) -> Case:
    """Two processes of one thread each, against one process of two threads."""
    two = _pairs(processes=2, threads=1)
    one = _pairs(processes=1, threads=2)
    name = "the same, beside 1 process, 2 threads"
    return Case(name, "epoch", partial(_ours, two), partial(_ours, one))


def _ours(pairs: Iterator[Pair]) -> float:
    return next(pairs).ours


def _bare(pairs: Iterator[Pair]) -> float:
    return next(pairs).bare


def _pairs(processes: int, threads: int) -> Iterator[Pair]:
    """Seconds of the template and of the loop by hand; three for each start of the processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = [*torchrun, f"--nproc_per_node={processes}", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    while True:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True
        )
        for ours, bare in json.loads(done.stdout.splitlines()[-1]):
            yield Pair(ours, bare)


def by_hand(data: Data, epoch: int, model: torch.nn.Module) -> float:
    """An epoch of the loop by hand: each process takes every W-th sample of the order."""
    order = seeding.permutation(len(data.y), "order", epoch)
    mine = order[distributed.rank() :: distributed.size()]
    return ByHand(model, data, _BATCH // distributed.size(), nll_loss).epoch(mine)


def main() -> None:
    """Print the seconds of three epochs of both sides, as JSON."""
    images = digits(_COPIES)
    data = Data(images.images, images.labels)
    if not distributed.alone():
        distributed.join()
    model: torch.nn.Module = MnistModel()
    if not distributed.alone():
        model = DistributedDataParallel(model)
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"tensorboard": False, "epochs": 1000}
        loader = resident(images, _BATCH)
        trainer = make_trainer(Path(folder), MnistModel(), loader, None, nll_loss, **settings)
        pairs = []
        for epoch in range(1, 5):
            ours = timed(partial(trainer._run_epoch, epoch))
            bare = timed(partial(by_hand, data, epoch, model))
            pairs.append(Pair(ours, bare))
    if distributed.is_main():
        print(json.dumps(pairs[1:]))
    if dist.is_initialized():
        distributed.leave()


if __name__ == "__main__":
    main()
