"""How far an epoch has come: a bar on a terminal, and now and then a line, also in info.log."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from tqdm import tqdm

from machinery import distributed

# tqdm's own lock is shared with forked processes: one that is killed while it holds it would leave
# it locked for ever. Nobody else writes to this terminal.
tqdm.set_lock(threading.RLock())


class Progress(tqdm):  # type: ignore[type-arg]
    """The progress of one epoch.

    Args:
        label: of the epoch.
        step: batches that are done already.
        total: batches in the epoch.
        samples: that the batches before held.
        hidden: show nothing; None hides the bar where there is no terminal.
    """

    #: Seconds between two lines.
    every = 30.0

    def __init__(
        self,
        label: str = "",
        step: int = 0,
        total: int = 0,
        samples: float = 0,
        hidden: bool | None = True,
    ) -> None:
        super().__init__(
            desc=label, initial=step, total=total, unit="batch", leave=False, disable=hidden
        )
        self._label = label
        self._batches = total
        self._first_step = step
        self._samples_before = samples
        self._began = time.monotonic()
        self._last_line = self._began
        #: Gives the text of the loss that is shown after the first batches.
        self._first_loss: Callable[[], str] | None = None

    def follow(self, averages: Any, loss: str) -> None:
        """Show the loss of the first batches at once, before it is logged.

        Args:
            averages: of this process (`avg`).
            loss: its name.
        """
        self._first_loss = lambda: f"{loss} {averages.avg(loss):.4g}"

    def update(self, n: float | None = 1) -> bool | None:
        """Count batches that are done."""
        if self._first_loss is not None and not self.disable:
            self.set_postfix_str(self._first_loss(), refresh=False)  # waits for the GPU, once
            self._first_loss = None
        return super().update(n)

    def show(self, step: int, loss: str, samples: float) -> None:
        """Show the loss, and how many samples the `step` batches done held."""
        self._first_loss = None
        self.set_postfix_str(loss, refresh=False)
        now = time.monotonic()
        if now - self._last_line < self.every or step <= self._first_step:
            return
        self._last_line = now
        seconds = now - self._began
        seconds_a_batch = seconds / (step - self._first_step)
        left = self.format_interval(seconds_a_batch * (self._batches - step))
        rate = (samples - self._samples_before) / seconds
        where = f"{self._label}: step {step:,} of {self._batches:,}"
        # Beside a bar it goes to the files alone.
        logging.getLogger("trainer").info(
            f"{where}, {loss}, {rate:,.0f} samples/s, {left} left",
            extra={"aside": not self.disable},
        )


class Done(NamedTuple):
    """Where a run is: an epoch, and how many of its batches are done, with so many samples."""

    epoch: int
    step: int
    samples: float


def progress_of(done: Done, epochs: int, batches: int) -> Progress:
    """The progress of an epoch, which the main process shows where there is a terminal.

    Args:
        epochs: of the run.
        batches: in an epoch.
    """
    hidden = None
    if not distributed.is_main():
        hidden = True
    label = f"epoch {done.epoch}/{epochs}"
    return Progress(label, done.step, batches, done.samples, hidden)
