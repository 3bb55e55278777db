"""Which epoch is the best so far, and whether to go on."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from utils.errors import ConfigError

_STATE = ("best", "best_epoch", "bad_epochs")


class Monitor:
    """Watches one number of the log.

    Args:
        setting: "min NAME", "max NAME" or "off".
        early_stop: stop after this many epochs in a row without improvement; None or 0 never stops.
    """

    def __init__(self, setting: str, early_stop: int | None) -> None:
        self.mode, _, self.name = setting.partition(" ")
        self.patience = early_stop or math.inf
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch = 0
        self.bad_epochs = 0

    @property
    def on(self) -> bool:
        """Whether there is anything to watch."""
        return self.mode != "off"

    def check(self, names: Iterable[str]) -> None:
        """Make sure that the watched number is among the `names` of the log.

        Raises:
            ConfigError: it is not.
        """
        names = list(names)
        there = ", ".join(names)
        if self.on and self.name not in names:
            hint = " (there is no validation data)" if self.name.startswith("val_") and self.name[4:] in names else ""
            raise ConfigError(f"trainer.monitor: no metric is called {self.name!r}{hint}; there are: {there}")

    def update(self, epoch: int, log: Mapping[str, float]) -> bool:
        """Judge an epoch; only a strictly better, finite value is an improvement."""
        if not self.on:
            return False
        self.check(log)
        value = float(log[self.name])
        better = value < self.best if self.mode == "min" else value > self.best
        if better and math.isfinite(value):
            self.best, self.best_epoch, self.bad_epochs = value, epoch, 0
            return True
        self.bad_epochs += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether the patience is at its end."""
        return self.bad_epochs >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Best value, its epoch, and the epochs since."""
        return {"setting": f"{self.mode} {self.name}"} | {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on judging, unless it is another number that is watched now."""
        if state["setting"] == f"{self.mode} {self.name}":
            vars(self).update({name: state[name] for name in _STATE})
