"""The random order of very many samples: the processes of one machine share one copy of it.

It lies in memory that belongs to nobody but those who have mapped it: whatever kills them, nothing
stays. Nobody waits for a process that may not come: the first that asks draws the order, those who
ask later find it, and who does not find it draws its own, which is the same.
"""

import mmap
import os
import secrets
import time
from pathlib import Path

import numpy as np
import torch

from machinery import distributed
from machinery.order import seeding

#: Bytes of an order that is shared.
LEAST = 64 << 20
#: Seconds that an order takes to be drawn, at most.
_PATIENCE = 600.0
_NOT_MADE = "not made"


def permutation(n: int, *place: int | str) -> torch.Tensor:
    """The random order of n things that belongs to a place, as `seeding.permutation` has it."""
    size = n * seeding.number_type(n).itemsize
    if size < LEAST or distributed.beside() < 2 or not hasattr(os, "memfd_create"):
        return seeding.permutation(n, *place)
    name = f"order {n} {seeding.mix(*place)}"
    if distributed.first_here(name):
        return _drawn(name, n, place)
    memory = _found(name, size)
    if memory is None:
        return seeding.permutation(n, *place)
    return _tensor(memory, n)


def _tensor(memory: mmap.mmap, n: int) -> torch.Tensor:
    """Memory as an order [n]; it stays as long as the tensor."""
    return torch.from_numpy(np.frombuffer(memory, dtype=np.uint8)).view(seeding.number_type(n))


def _drawn(name: str, n: int, place: tuple[int | str, ...]) -> torch.Tensor:
    """Draw an order where the others find it, for as long as it is held here."""
    told = _NOT_MADE
    try:
        token = secrets.token_hex(8)
        size = n * seeding.number_type(n).itemsize
        handle = os.memfd_create(token)
        try:
            os.ftruncate(handle, size)
            seeding.permute(_tensor(mmap.mmap(handle, size), n), *place)
            memory = _mapped(handle, size)
        finally:
            os.close(handle)
        told = f"{os.getpid()} {token}"
        return _tensor(memory, n)
    finally:
        distributed.tell_here(name, told)


def _mapped(handle: int, size: int) -> mmap.mmap:
    """A file's memory, with a handle of its own; who writes gets a copy of what he writes to."""
    return mmap.mmap(handle, size, mmap.MAP_PRIVATE)


def _found(name: str, size: int) -> mmap.mmap | None:
    """What another process has drawn; None if it is not there, or not any more."""
    given_up = time.monotonic() + _PATIENCE
    told = None
    while told is None and time.monotonic() < given_up:
        time.sleep(0.02)
        told = distributed.told_here(name)
    if told is None or told == _NOT_MADE:
        return None
    pid, token = told.split()
    try:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            if token in str(handle.readlink()):  # another machine may be called as this one
                with handle.open("rb") as file:
                    return _mapped(file.fileno(), size)
    except OSError:  # the process has ended, or is another user's
        pass
    return None
