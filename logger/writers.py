"""Where a run's numbers go: the table of epochs, TensorBoard, and any tracker of your own are writers."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol


class Writer(Protocol):
    """Writes numbers somewhere. Add yours in train.py: `trainer.writers.add(MyTracker())`."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write numbers by name, such as "loss/train"; those of a whole epoch have an "epoch" among them.

        Args:
            step: batches done since the run began.
        """

    def close(self) -> None:
        """Write what is pending: the run ends, or is stopped."""


class Writers:
    """All writers of a run; one that fails is left out from then on, and training goes on."""

    def __init__(self, *writers: Writer) -> None:
        self._writers = list(writers)
        self._failed: list[Writer] = []

    def add(self, writer: Writer) -> None:
        """Write to this one, too."""
        self._writers.append(writer)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Hand the numbers to each."""
        for writer in [writer for writer in self._writers if writer not in self._failed]:
            with self._warning(writer):
                writer.log(numbers, step)

    def close(self) -> None:
        """Close each."""
        for writer in self._writers:
            with self._warning(writer):
                writer.close()

    @contextmanager
    def _warning(self, writer: Writer) -> Iterator[None]:
        """Whatever a writer meets (no network, a full disk) must not end a training."""
        try:
            yield
        except Exception as error:
            self._failed.append(writer)
            what = f"{type(writer).__name__} is off from here on, training goes on"
            logging.getLogger("logger").warning(f"{what}: {type(error).__name__}: {error}")
