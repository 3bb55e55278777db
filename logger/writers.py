"""What a writer of numbers is, and all writers of a run: a tracker of your own is one of them."""

import logging
from collections.abc import Mapping
from typing import Any

from machinery import distributed
from machinery.telling import told


def are_of_an_epoch(numbers: Mapping[str, float]) -> bool:
    """Whether they are the row of an epoch, and not those of some batches or of a validation."""
    return "epoch" in numbers


def row_of_epoch(
    epoch: int, log: Mapping[str, float], lr: float, seconds: float, samples: float
) -> dict[str, float]:
    """The numbers of a whole epoch.

    Args:
        log: its averages.
        lr: the learning rate of its last update.
        seconds: that it took.
        samples: that it trained on.

    On a GPU there is the peak of its memory, too, since the process began.
    """
    speed = samples / max(seconds, 1e-9)
    row = {"epoch": epoch, **log, "lr": lr, "seconds": round(seconds, 3), "samples/s": speed}
    peak = _peak_memory()
    if peak:
        row["peak_gib"] = round(peak, 3)
    return row


def _peak_memory() -> float:
    """GiB of this process's GPU that tensors have taken at most; 0 where there is none."""
    import torch  # reading a config, which comes by here, needs none

    if not torch.accelerator.is_available():
        return 0.0
    try:
        return torch.accelerator.max_memory_allocated() / 2**30
    except (RuntimeError, NotImplementedError):  # of a kind that does not count
        return 0.0


class Writer:
    """Writes numbers somewhere.

    Anything with its methods can be added: `trainer.writers.add(…)` in train.py.
    """

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write numbers by name, such as "loss/train"; a whole epoch's have an "epoch" among them.

        Args:
            step: batches done since the run began.
        """

    def close(self) -> None:
        """Write what is pending: the run ends, or is stopped."""


class Writers:
    """All writers of a run; one that fails is left out from then on, and training goes on.

    Whatever a writer meets (no network, a full disk, a client that exits) must not end a training.
    """

    def __init__(self, *writers: Any) -> None:
        self._writers: list[Any] = []
        for writer in writers:
            self.add(writer)

    def add(self, writer: Any) -> None:
        """Write to this one, too; of several processes, the main one does."""
        if distributed.is_main():
            self._writers.append(writer)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Hand the numbers to each."""
        for writer in list(self._writers):
            try:
                writer.log(numbers, step)
            except (Exception, SystemExit) as error:
                self._leave_out(writer, error)

    def close(self) -> None:
        """Close each."""
        for writer in list(self._writers):
            try:
                writer.close()
            except (Exception, SystemExit) as error:
                self._leave_out(writer, error)

    def _leave_out(self, writer: Any, error: BaseException) -> None:
        """Warn of the error, once, and go on without the writer that has met it."""
        self._writers.remove(writer)
        what = f"{type(writer).__name__} is off from here on, training goes on"
        logging.getLogger("logger").warning(f"{what}: {told(error)}")
        try:
            writer.close()
        except (Exception, SystemExit):
            pass  # that it is in trouble has been said
