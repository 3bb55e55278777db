"""Randomness as a function of the seed and a place: nothing random depends on what ran before.

Every draw is seeded from a hash of where it happens (see docs/exactness.md), so a checkpoint holds
no generator states, and a resumed run draws what the unbroken one drew.
"""

import hashlib
import random
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

_root_seed = ContextVar("root_seed", default=0)
_follows_script = ContextVar("follows_script", default=False)
#: The kind of GPU that this torch was built for.
_KIND = torch.accelerator.current_accelerator()


def _gpu_module() -> Any:
    """torch.cuda or torch.xpu, which keep their generators in the same way; None for others."""
    if _KIND is None or _KIND.type not in ("cuda", "xpu"):
        return None
    return torch.get_device_module(_KIND)


_GPU = _gpu_module()


def set_root_seed(seed: int, follows_script: bool = False) -> None:
    """Set the seed of the run, which loaders made from now on take as their own.

    Args:
        follows_script: what is built draws from where the script has seeded the generators.
    """
    _root_seed.set(seed)
    _follows_script.set(follows_script)


def follows_script() -> bool:
    """Whether what is built draws from where the script has seeded the generators."""
    return _follows_script.get()


def root_seed() -> int:
    """The seed of the run; 0 before a config has set it."""
    return _root_seed.get()


def mix(*place: int | str) -> int:
    """Hash a place to an integer of 63 bits, the same in every process and on every machine."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _seed_torch(value: int) -> None:
    """Seed torch's generators, on the CPU and of the current GPU.

    The generator objects are used because `torch.manual_seed` takes 225 µs as long as CUDA is not
    initialised.
    """
    torch.default_generator.manual_seed(value)
    if _GPU is not None and _GPU.is_initialized():
        _GPU.default_generators[_GPU.current_device()].manual_seed(value)
    elif _KIND is not None and _KIND.type == "mps":
        torch.mps.manual_seed(value)


def _seed_numpy(value: int) -> None:
    np.random.seed(value & 0xFFFFFFFF)


#: What seeds the global generators, by the module that has them.
_SEEDERS: dict[str, Callable[[int], None]] = {
    "torch": _seed_torch,
    "numpy": _seed_numpy,
    "random": random.seed,
}
#: These modules.
MODULES = tuple(_SEEDERS)


def seed_everything(*place: int | str) -> None:
    """Seed torch (CPU and the current GPU), `random` and `numpy.random` from a place: 9 µs."""
    seed_modules(MODULES, *place)


def seed_modules(modules: Iterable[str], *place: int | str) -> None:
    """Seed the global generators of some modules from a place, as if all were."""
    value = mix(*place)
    for module in modules:
        _SEEDERS[module](value)


class Rows:
    """Within it, `uniform_rows` draws for the samples of one batch, a row for each.

    Args:
        seed, name: of the loader.
        epoch, position: the place of the batch's first sample.
        stride: from one sample's place to the next.
    """

    def __init__(self, seed: int, name: str, epoch: int, position: int, stride: int = 1) -> None:
        self.seed = seed
        self.name = name
        self.epoch = epoch
        self.position = position
        self.stride = stride
        #: The numbers of the samples that the batch has, if some are left out.
        self.read: list[int] | None = None
        #: How often it has been drawn for.
        self.calls = 0

    def __enter__(self) -> None:
        self._before = _rows.set(self)

    def __exit__(self, *_: object) -> None:
        _rows.reset(self._before)

    def places(self, count: int) -> torch.Tensor:
        """The places of the first samples, int64 [count]."""
        numbers = torch.arange(count)
        if self.read is not None:
            numbers = torch.tensor(self.read[:count])
        return self.position + self.stride * numbers

    def base(self) -> int:
        """What this call's numbers are counted from."""
        if self.calls == 0:
            return mix(self.seed, self.name, "rows", self.epoch)
        return mix(self.seed, self.name, "rows", self.epoch, self.calls)


_rows: ContextVar[Rows | None] = ContextVar("rows", default=None)


def uniform_rows(count: int, columns: int) -> torch.Tensor:
    """Random numbers for augmenting a whole batch: row i depends only on the place of sample i.

    Inside a loader the row of a sample is the same however the samples are cut into batches,
    workers or processes; elsewhere the rows come from torch's generator. Each call for a batch
    gives other numbers.

    Returns:
        float32 [count, columns] in [0, 1), on the CPU.
    """
    current = _rows.get()
    if current is None:
        return torch.rand(count, columns)
    base = current.base()
    current.calls += 1
    counters = columns * current.places(count).view(count, 1) + torch.arange(columns)
    return (_splitmix(counters + base) >> 40 & 0xFFFFFF).float() / (1 << 24)


def _splitmix(x: torch.Tensor) -> torch.Tensor:
    """Mix int64 by splitmix64; products wrap (Steele et al. 2014, doi:10.1145/2714064.2660195)."""
    x = x * -0x61C8864680B583EB
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ (x >> 31 & 0x1FFFFFFFF)


def number_type(n: int) -> torch.dtype:
    """What the numbers of n things are kept in: int32 where that is enough."""
    if n > torch.iinfo(torch.int32).max:
        return torch.int64
    return torch.int32


def permutation(n: int, *place: int | str) -> torch.Tensor:
    """The random order of n things that belongs to a place: [n], int32 where that is enough."""
    order = torch.empty(n, dtype=number_type(n))
    permute(order, *place)
    return order


def permute(order: torch.Tensor, *place: int | str) -> None:
    """Write the random order that belongs to a place into a tensor [n]."""
    generator = torch.Generator().manual_seed(mix(*place))
    torch.randperm(len(order), generator=generator, dtype=order.dtype, out=order)
