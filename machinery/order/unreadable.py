"""Samples that cannot be read, and are left out: which they are, and how many are too many."""

import itertools
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


class _Pass:
    """What was left out of a pass, by the number of the batch.

    Args:
        samples: in the pass.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.left_out: dict[int, list[LeftOut]] = {}
        #: How many of the samples have been told.
        self.told = 0

    def distinct(self) -> dict[int, str]:
        """What each sample raised, by its number: one that is drawn again counts once."""
        found: dict[int, str] = {}
        for samples in self.left_out.values():
            found.update(samples)
        return found


class Reading:
    """What was left out of the passes under way, and of the one before.

    A checkpoint holds it, so that no resume forgets what has been left out of a pass so far.

    Args:
        name: of the loader.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._passes: dict[int, _Pass] = {}
        # Whether all of them have been looked at since the last one began.
        self._told = True

    def begin(self, epoch: int, first: int, in_pass: int) -> None:
        """A pass over so many samples begins with a batch, or is gone on with."""
        if self._told:
            self._passes = {e: known for e, known in self._passes.items() if e >= epoch - 1}
        before = self._passes.get(epoch)
        now = _Pass(in_pass)
        if before is not None and first > 0:
            now.told = before.told
            # Later ones are read again: they may have been mended.
            now.left_out = {k: known for k, known in before.left_out.items() if k < first}
        self._passes[epoch] = now
        self._told = False

    def unpacked(self, batches: Iterator[Any], epoch: int) -> Iterator[Any]:
        """Pass on batches; note what was left out of them.

        Raises:
            DataError: it is more than 1 % of the pass.
        """
        now = self._passes[epoch]
        for batch in batches:
            if isinstance(batch, Partial):
                now.left_out[batch.number] = batch.samples
                self._check(epoch, now.samples, now.distinct())
                batch = batch.batch
            yield batch
        if distributed.alone():
            self.tell()

    def left_out(self, epoch: int, number: int) -> int:
        """How many samples were left out of a batch of a pass."""
        if epoch not in self._passes:
            return 0
        return len(self._passes[epoch].left_out.get(number, ()))

    def tell(self) -> None:
        """Say, once a pass, what was left out of it; of several processes all have to call it.

        Raises:
            DataError: it is more than 1 % of a pass.
        """
        if self._told:
            return
        self._told = True
        everywhere = distributed.gathered({e: of.distinct() for e, of in self._passes.items()})
        for epoch, of_pass in sorted(self._passes.items()):
            samples: dict[int, str] = {}
            for each in everywhere:
                samples.update(each.get(epoch, {}))
            self._check(epoch, of_pass.samples, samples)
            if len(samples) > of_pass.told and distributed.is_main():
                shown = self._shown(epoch, of_pass.samples, samples)
                what = f"{shown} cannot be read, and left out:{_named(samples)}"
                logging.getLogger("data_loader").warning(what)
            of_pass.told = len(samples)

    def _shown(self, epoch: int, in_pass: int, samples: dict[int, str]) -> str:
        return f"{len(samples)} of {in_pass} samples of the loader {self.name!r} in pass {epoch}"

    def _check(self, epoch: int, in_pass: int, samples: dict[int, str]) -> None:
        if len(samples) > _MOST * in_pass:
            what = f"{self._shown(epoch, in_pass, samples)} cannot be read, more than 1 %"
            raise DataError(f"{what}:{_named(samples)}")

    def state_dict(self) -> dict[str, Any]:
        """What was left out, of all processes together; all of them have to ask."""
        passes: dict[int, dict[str, Any]] = {}
        for own in distributed.gathered(self._own_state()):
            for epoch, state in own.items():
                left_out = passes.setdefault(epoch, {**state, "left_out": {}})["left_out"]
                for number, samples in state["left_out"].items():
                    left_out[number] = left_out.get(number, []) + samples
        return {"passes": passes}

    def _own_state(self) -> dict[int, dict[str, Any]]:
        """What was left out in this process, as plain data."""
        passes = {}
        for epoch, of_pass in self._passes.items():
            left_out = {}
            for number, samples in of_pass.left_out.items():
                left_out[number] = [[*sample] for sample in samples]
            known = {"samples": of_pass.samples, "told": of_pass.told, "left_out": left_out}
            passes[epoch] = known
        return passes

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what was left out when a checkpoint was saved; the main process has all."""
        self._passes = {}
        for epoch, saved in state["passes"].items():
            of_pass = _Pass(int(saved["samples"]))
            of_pass.told = int(saved["told"])
            self._passes[epoch] = of_pass
            if not distributed.is_main():
                continue
            for number, samples in saved["left_out"].items():
                of_pass.left_out[number] = [LeftOut(i, why) for i, why in samples]
        self._told = False


def is_unreadable(error: Exception | SystemExit) -> bool:
    """Whether an error says that a sample cannot be read."""
    return isinstance(error, _UNREADABLE) and not isinstance(error, _NO_FILE_S)


def _named(samples: dict[int, str]) -> str:
    """The first of some samples, with what they raise."""
    shown = [f"sample {i}: {why}" for i, why in itertools.islice(samples.items(), _NAMED)]
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
