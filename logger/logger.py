"""Messages: to the console at once, and to the run's `info.log` as soon as the run has a folder."""

import logging
import logging.config
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Any

from machinery import distributed
from machinery.errors import printable
from machinery.files import ROOT, read_json

CONFIG = ROOT / "logger" / "logger_config.json"
#: Records of before there was a folder; they go to info.log first.
_held = logging.handlers.MemoryHandler(capacity=1_000_000, flushLevel=logging.CRITICAL + 1)


class ConsoleHandler(logging.Handler):
    """Prints records to standard output; a progress bar on the terminal moves down instead of breaking."""

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "aside", False):  # for the files alone
            return
        try:
            text = printable(self.format(record))
            if "tqdm" in sys.modules:
                sys.modules["tqdm"].tqdm.write(text, file=sys.stdout)
            else:
                print(text, flush=True)
        except OSError:  # the terminal or the pipe is gone: training goes on without it
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        except Exception:
            self.handleError(record)


def setup_console() -> None:
    """Send records to the console, and hold them for the run's info.log."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # a daemon's
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    root = logging.getLogger()
    if _held not in root.handlers:
        logging.config.dictConfig(_settings(CONFIG, None))
        root.addHandler(_held)


def setup_logging(save_dir: Path, log_config: str | Path = CONFIG) -> None:
    """Configure logging as `logger_config.json` says, with the files of its handlers in `save_dir`."""
    try:
        logging.config.dictConfig(_settings(log_config, Path(save_dir)))
    except ValueError as error:  # of a file that cannot be opened, or of a mistake in the settings
        setup_console()
        logging.getLogger("logger").warning(
            f"no log files, training goes on: {error.__cause__ or error}"
        )
    # What the console has shown already goes to the files alone.
    for handler in _files():
        _warn_once(handler)
        for record in _held.buffer:
            if record.levelno >= handler.level:
                handler.handle(record)
    _held.buffer.clear()


def _settings(log_config: str | Path, folder: Path | None) -> dict[str, Any]:
    """The settings with the files in `folder`, or without files; only the main of several processes has a console."""
    settings: dict[str, Any] = read_json(log_config)
    kept = {}
    for name, handler in settings["handlers"].items():
        if "filename" in handler and folder is not None:
            kept[name] = {**handler, "filename": str(folder / handler["filename"])}
            if distributed.RANK:  # what is rotated by several would be lost
                own = {key: kept[name][key] for key in ("filename", "formatter") if key in handler}
                kept[name] = {"class": "logging.FileHandler", "level": "WARNING", **own}
        elif "filename" not in handler and not distributed.RANK:
            kept[name] = handler
    settings["handlers"], settings["root"]["handlers"] = kept, [*kept]
    return settings


def to_files(save_dir: Path, message: str) -> None:
    """Write a message to the log files in `save_dir` alone: the console shows it in its own way."""
    if all(
        Path(handler.baseFilename).resolve().parent != save_dir.resolve() for handler in _files()
    ):
        setup_logging(save_dir)
    for handler in _files():
        handler.handle(logging.LogRecord("trainer", logging.ERROR, "", 0, message, None, None))


def _files() -> list[logging.FileHandler]:
    return [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.FileHandler)
    ]


def _warn_once(handler: logging.FileHandler) -> None:
    """Let a log file that cannot be written say so once, on the console; training goes on."""

    def warn(_record: logging.LogRecord) -> None:
        setattr(handler, "handleError", lambda _record: None)  # noqa: B010
        name, error = Path(handler.baseFilename).name, sys.exc_info()[1]
        logging.getLogger("logger").warning(f"{name} cannot be written, training goes on: {error}")

    setattr(handler, "handleError", warn)  # noqa: B010
