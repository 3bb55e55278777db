"""Several processes: the template against a hand-written DistributedDataParallel loop, and against one process.

torchrun runs this file as a script, once in each process, where both sides take turns in the same processes.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

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
from tools.benchmarks.loops import Case, bare_epoch, digits, make_trainer, resident, timed

BATCH, COPIES = 64, 5


def against_ddp(folder: Path) -> Case:
    """An epoch of LeNet in two processes of one thread each."""
    seconds = _pairs(processes=2, threads=1)
    ours, bare = zip(*(next(seconds) for _ in range(12)), strict=True)
    sides = iter(ours), iter(bare)
    name = f"epoch of LeNet, {4000 * COPIES:,} digits, 2 processes, DDP"
    return Case(name, "epoch", lambda: next(sides[0]), lambda: next(sides[1]))


def against_one(folder: Path) -> Case:
    """Two processes of one thread each, against one process of two threads."""
    two, one = _pairs(processes=2, threads=1), _pairs(processes=1, threads=2)
    name = f"the same, beside one process of 2 threads: {BATCH} a batch"
    return Case(name, "epoch", lambda: next(two)[0], lambda: next(one)[0])


def _pairs(processes: int, threads: int) -> Iterator[tuple[float, float]]:
    """Seconds of an epoch, of the template and of the loop by hand; three for each start of the processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    while True:
        result = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        yield from map(tuple, json.loads(result.stdout.splitlines()[-1]))


def by_hand(data: tuple[torch.Tensor, torch.Tensor], epoch: int, model: torch.nn.Module) -> float:
    """An epoch of the loop by hand: each process takes every W-th sample of the order."""
    order = seeding.permutation(len(data[1]), "order", epoch)[distributed.rank() :: distributed.size()]
    return bare_epoch(model, data, order, BATCH // distributed.size(), nll_loss)


def main() -> None:
    """Print the seconds of three epochs of both sides, as JSON."""
    images = digits(COPIES)
    data = images.images, images.labels
    if not distributed.alone():
        distributed.join()
    model: torch.nn.Module = MnistModel()
    model = model if distributed.alone() else DistributedDataParallel(model)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"tensorboard": False, "epochs": 1000}
        trainer = make_trainer(Path(folder), MnistModel(), resident(images, BATCH), None, nll_loss, **settings)
        pairs = []
        for epoch in range(1, 5):
            ours = timed(partial(trainer._run_epoch, epoch))
            pairs.append((ours, timed(partial(by_hand, data, epoch, model))))
    if distributed.is_main():
        print(json.dumps(pairs[1:]))
    if dist.is_initialized():
        distributed.leave()


if __name__ == "__main__":
    main()
