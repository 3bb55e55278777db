"""Processes that train together, forked so that they start with torch imported."""

import datetime
import os
import pickle
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist

import forked
from machinery import distributed, stopping

#: Seconds that they wait for each other: a hang is an error, soon.
TIMEOUT = 60
# What torch imports for the first optimizer takes seconds, and each rank would do it again.
torch.optim.SGD([torch.zeros(1, requires_grad=True)])


def start(folder, size, function, *args, timeout=TIMEOUT):
    """Run `function(*args)` in `size` processes; they, and the folder of their results and
    outputs."""
    place = Path(tempfile.mkdtemp(dir=folder))
    given = [(rank, size, place, timeout, function, args) for rank in range(size)]
    return [forked.start(_rank, *each, output=place / f"{each[0]}.txt") for each in given], place


def finish(processes, place):
    """The exit codes, and all that they printed."""
    codes = [forked.finish(process) for process in processes]
    return codes, [(place / f"{rank}.txt").read_text() for rank in range(len(codes))]


def run(folder, size, function, *args):
    """What a function returns in each of `size` processes."""
    processes, place = start(folder, size, function, *args)
    codes, outputs = finish(processes, place)
    assert not any(codes), "\n".join(outputs)
    return [pickle.loads((place / f"{rank}.pickle").read_bytes()) for rank in range(size)]


def _rank(rank, size, place, timeout, function, args):
    distributed.world.rank, distributed.world.size, distributed.world.local_rank = rank, size, rank
    stopping._ASKED_EVERY = 0  # in each step, however fast it is
    if size > 1:
        store = f"file://{place}/store"
        timeout = datetime.timedelta(seconds=timeout)
        os.register_at_fork(before=distributed.until_threads_rest)  # as `distributed.join` does
        dist.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=size, timeout=timeout
        )
        dist.barrier()  # one that is done at once would leave while another connects
    result = function(*args)
    (place / f"{rank}.pickle").write_bytes(pickle.dumps(result))
    distributed.leave()
