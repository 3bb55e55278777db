"""A run: its folder, who owns it, and what the folder says of it."""

import contextlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from machinery import distributed
from machinery.checkpoints import run_folder
from machinery.files import ensure_dir, read_json, write_json


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
        self.folder, self.stays = folder, stays
        self.log_dir = folder.parent.parent.parent / "log" / folder.parent.name / folder.name
        #: What the run is made of: code, versions, machine and command line.
        self.environment: dict[str, Any] = {}
        self._lock = run_folder.own(folder) if owned else -1
        #: When this process began to train; None before.
        self.begun: float | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_lock": -1}

    def sweep(self) -> None:
        """Remove the temporary files that a killed process left."""
        for path in (*self.folder.glob("*.tmp"), *self.log_dir.glob("*.tmp")):
            with contextlib.suppress(OSError):
                path.unlink()

    def begin(self, config: Mapping[str, Any]) -> None:
        """Describe the run in its folder, now that nothing stands in its way."""
        self.begun = time.monotonic()
        self._describe(config)
        self.status("running")

    def remake(self, config: Mapping[str, Any]) -> None:
        """Make the folder again if somebody has removed it."""
        if not self.folder.exists():
            logging.getLogger("checkpoint").warning(f"{self.folder} is gone: making it again")
            self.close()
            ensure_dir(self.folder)
            self._lock = run_folder.own(self.folder)
            self._describe(config)

    def _describe(self, config: Mapping[str, Any]) -> None:
        """The config as it is now, and an entry for each process that has worked on the run."""
        file, entries = self.folder / "environment.json", []
        with contextlib.suppress(OSError, ValueError):
            before = read_json(file)
            entries = before if isinstance(before, list) else [before]
        write_json(config, self.folder / "config.json")
        write_json([*entries, self.environment], file)

    def status(self, state: str, **fields: Any) -> None:
        """Say how the run is doing; a run that has not begun leaves its folder as it was."""
        # The main process writes, or the one that fails.
        if self.begun is not None and (distributed.RANK == 0 or state == "failed"):
            now, seconds = (
                time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                round(time.monotonic() - self.begun, 3),
            )
            write_json(
                {"state": state, **fields, "time": now, "seconds": seconds},
                self.folder / "status.json",
            )

    def state(self) -> str:
        """What status.json says of the run."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return str(read_json(self.folder / "status.json").get("state"))
        return "unknown"

    def close(self) -> None:
        """Let go of the folder."""
        run_folder.disown(self.folder, self._lock)
        self._lock = -1

    __del__ = close
