"""A run: its folder, who owns it, and what the folder says of it."""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from machinery import distributed
from machinery.checkpoints import run_folder
from machinery.checkpoints.commands import Script as Script
from machinery.config.trust import Words, words_for
from machinery.files import check_place, ensure_dir, read_json, sweep, write_json


class Run:
    """The folder of one run, which this process owns until `close`. Copies own nothing.

    Args:
        folder: of the checkpoints: models/NAME/RUN; that of the logs is log/NAME/RUN beside it.
        owned: lock the folder; False only reads it.
        stays: False for a trial, whose folder goes with the process.

    Raises:
        ConfigError: another process owns it.
        StorageError: it cannot be written.
    """

    _lock = -1

    def __init__(self, folder: Path, owned: bool = True, stays: bool = True) -> None:
        self.folder = folder
        self.stays = stays
        self.log_dir = folder.parent.parent.parent / "log" / folder.parent.name / folder.name
        #: What the run is made of: code, versions, machine and command line.
        self.environment: dict[str, Any] = {}
        #: What the commands that continue and test it have to say of its config.
        self.words = Words([], [])
        if owned:
            self._lock = run_folder.own(folder)
        self._begun: float | None = None
        #: Seconds that earlier processes have trained.
        self.seconds_before = 0.0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": -1}

    @property
    def begun(self) -> bool:
        """Whether this process has begun to train."""
        return self._begun is not None

    @property
    def seconds(self) -> float:
        """How long the run has been trained, by this process and earlier ones."""
        if self._begun is None:
            return self.seconds_before
        return self.seconds_before + time.monotonic() - self._begun

    def made_of(self, environment: dict[str, Any]) -> None:
        """Note what the run is made of."""
        self.environment = environment

    def sweep(self) -> None:
        """Remove the temporary files that a killed process left."""
        for path in (*self.folder.glob("*.tmp"), *self.log_dir.glob("*.tmp")):
            try:
                sweep(path)
            except OSError:
                continue  # gone already, or not ours to remove

    def begin(self, config: Mapping[str, Any]) -> None:
        """Describe the run in its folder, now that nothing stands in its way."""
        self.start_clock()
        self.words = words_for(config)
        self._describe(config)
        self.status("running")

    def start_clock(self) -> None:
        """From here on this process trains."""
        if self._begun is None:
            self._begun = time.monotonic()

    def remake(self, config: Mapping[str, Any]) -> None:
        """Make the folder again if somebody has removed it."""
        if self.folder.exists():
            return
        logging.getLogger("checkpoint").warning(f"{self.folder} is gone: making it again")
        self.close()
        ensure_dir(self.folder)
        self._lock = run_folder.own(self.folder)
        self._describe(config)

    def _describe(self, config: Mapping[str, Any]) -> None:
        """The config as it is now, and an entry for each process that has worked on the run."""
        file = self.folder / "environment.json"
        entries = _entries(file)
        _write(config, self.folder / "config.json")
        _write([*entries, self.environment], file)

    def status(self, state: str, **fields: Any) -> None:
        """Say how the run is doing; a run that has not begun leaves its folder as it was."""
        if self._begun is None:
            return
        if not distributed.is_main() and state != "failed":
            return  # the main process writes, or the one that fails
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        seconds = round(time.monotonic() - self._begun, 3)
        content = {"state": state, **fields, "time": now, "seconds": seconds}
        _write(content, self.folder / "status.json")

    def state(self) -> str:
        """What status.json says of the run."""
        try:
            return str(read_json(self.folder / "status.json").get("state"))
        except (OSError, ValueError, AttributeError):  # there is none, or it is spoilt
            return "unknown"

    def close(self) -> None:
        """Let go of the folder."""
        run_folder.disown(self.folder, self._lock)
        self._lock = -1

    def __del__(self, ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """Let go of the folder, but as Python ends: what that needs may be gone."""
        if self._lock >= 0 and not ending():
            self.close()


def _write(content: Mapping[str, Any] | list[Any], file: Path) -> None:
    """Write a record, unless something else stands in its place."""
    check_place(file)
    write_json(content, file)


def _entries(file: Path) -> list[Any]:
    """What environment.json holds so far."""
    try:
        before = read_json(file)
    except (OSError, ValueError):  # there is none, or it is spoilt
        return []
    if isinstance(before, list):
        return before
    return [before]
