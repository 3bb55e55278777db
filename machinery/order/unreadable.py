"""Samples that cannot be read, and are left out: which they are, and how many are too many."""

import logging
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from machinery import distributed
from machinery.errors import DataError
from machinery.telling import told

#: What reading a file raises that is damaged, or is not there; other errors are mistakes of a
#: program.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, SyntaxError, struct.error, zlib.error)
#: Those of them that are mistakes of a program all the same, or faults of the machine.
_NO_FILE_S = (RecursionError, NotImplementedError, torch.OutOfMemoryError, torch.AcceleratorError)
#: The share of a pass that may be left out.
_MOST = 0.01
#: How many are named.
_NAMED = 3


class Empty:
    """Stands for a batch of which no sample could be read."""

    def __reduce__(self) -> str:
        return "EMPTY"  # a worker hands on the one of this module


#: The only one.
EMPTY = Empty()


class LeftOut(NamedTuple):
    """A sample that was left out."""

    number: int
    why: str


class Partial(NamedTuple):
    """A batch without some of its samples."""

    #: Its number in the pass.
    number: int
    #: A stand-in, where none of its samples could be read, or `EMPTY`.
    batch: Any
    samples: list[LeftOut]


class Reading:
    """What was left out of the pass under way, and of the one before.

    Args:
        name: of the loader.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # By pass, and by the number of the batch.
        self._passes: dict[int, dict[int, list[LeftOut]]] = {}
        self._latest = 0
        self._in_pass = 0
        self._told = True

    def begin(self, epoch: int, in_pass: int) -> None:
        """A pass over so many samples begins."""
        self._passes = {e: known for e, known in self._passes.items() if e == epoch - 1}
        self._passes[epoch] = {}
        self._latest = epoch
        self._in_pass = in_pass
        self._told = False

    def unpacked(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        """Pass on batches; note what was left out of them.

        Raises:
            DataError: it is more than 1 % of the pass.
        """
        for batch in batches:
            if isinstance(batch, Partial):
                self._passes.setdefault(epoch, {})[batch.number] = batch.samples
                self._check(self._of(epoch))
                batch = batch.batch
            yield batch
        if distributed.alone():
            self.tell()

    def left_out(self, epoch: int, number: int) -> int:
        """How many samples were left out of a batch of a pass."""
        return len(self._passes.get(epoch, {}).get(number, ()))

    def _of(self, epoch: int) -> list[LeftOut]:
        """What was left out of a pass, in this process."""
        samples = []
        for each in self._passes.get(epoch, {}).values():
            samples += each
        return samples

    def tell(self) -> None:
        """Say, once a pass, what was left out of it; of several processes all have to call it.

        Raises:
            DataError: it is more than 1 % of the pass.
        """
        if self._told:
            return
        self._told = True
        samples = []
        for each in distributed.gathered(self._of(self._latest)):
            samples += each
        self._check(samples)
        if samples and distributed.is_main():
            what = f"{self._shown(samples)} cannot be read, and left out:{_named(samples)}"
            logging.getLogger("data_loader").warning(what)

    def _shown(self, samples: list[LeftOut]) -> str:
        of_pass = f"samples of the loader {self.name!r} in pass {self._latest}"
        return f"{len(samples)} of {self._in_pass} {of_pass}"

    def _check(self, samples: list[LeftOut]) -> None:
        if len(samples) > _MOST * self._in_pass:
            what = f"{self._shown(samples)} cannot be read, more than 1 %"
            raise DataError(f"{what}:{_named(samples)}")


def is_unreadable(error: Exception | SystemExit) -> bool:
    """Whether an error says that a sample cannot be read."""
    return isinstance(error, _UNREADABLE) and not isinstance(error, _NO_FILE_S)


def _named(samples: list[LeftOut]) -> str:
    """The first of some samples, with what they raise."""
    shown = [f"sample {each.number}: {each.why}" for each in samples[:_NAMED]]
    if len(samples) > _NAMED:
        shown.append("…")
    return "\n  ".join(["", *shown])


def why_not(error: BaseException) -> str:
    """What an error says of a sample that cannot be read, in one line."""
    return told(error, anywhere=False).partition("\n")[0]


def tell_unreadable(loader: Any) -> None:
    """Say what was left out of the pass of a loader; of several processes all have to call it."""
    reading = getattr(loader, "unreadable", None)
    if reading is not None:
        reading.tell()
