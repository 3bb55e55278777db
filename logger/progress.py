"""How far an epoch has come: a bar on a terminal, a line now and then in info.log and where there is no terminal."""

import logging
import time

from tqdm import tqdm


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
        self._begin = time.monotonic(), step, samples
        self._told = self._begin[0]

    def show(self, step: int, loss: str, samples: float) -> None:
        """Show the loss, and how many samples the `step` batches done held."""
        self.set_postfix_str(loss, refresh=False)
        now = time.monotonic()
        if now - self._told >= self.every and step > self._begin[1]:
            (began, first, before), total = self._begin, int(self.total or 0)
            left = self.format_interval((now - began) / (step - first) * (total - step))
            rate = (samples - before) / (now - began)
            line = f"{self._label}: step {step:,} of {total:,}, {loss}, {rate:,.0f} samples/s, {left} left"
            # Beside a bar it goes to the files alone.
            logging.getLogger("trainer").info(line, extra={"aside": not self.disable})
            self._told = now
