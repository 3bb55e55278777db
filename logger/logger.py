"""Messages: to the console at once, and to the run's `info.log` as soon as the run has a folder."""

import copy
import logging
import logging.config
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Any

from utils.files import ROOT, read_json

CONFIG = ROOT / "logger" / "logger_config.json"
#: Records of before there was a folder; they go to info.log first.
_held = logging.handlers.MemoryHandler(capacity=1_000_000, flushLevel=logging.CRITICAL + 1)


class ConsoleHandler(logging.Handler):
    """Prints records to standard output; a progress bar on the terminal moves down instead of breaking."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
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
    root = logging.getLogger()
    if _held not in root.handlers:
        settings = _settings()
        for name in settings["root"]["handlers"]:
            if "filename" in settings["handlers"][name]:
                del settings["handlers"][name]
        settings["root"]["handlers"] = list(settings["handlers"])
        logging.config.dictConfig(settings)
        root.addHandler(_held)


def setup_logging(save_dir: Path, log_config: str | Path = CONFIG) -> None:
    """Configure logging as `logger_config.json` says, with the files of its handlers in `save_dir`."""
    settings = _settings(log_config)
    for handler in settings["handlers"].values():
        if "filename" in handler:
            handler["filename"] = str(Path(save_dir) / handler["filename"])
    logging.config.dictConfig(settings)
    # What the console has shown already goes to the files alone.
    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    for handler in files:
        setattr(handler, "handleError", _FileTrouble(handler))  # noqa: B010
    for record in _held.buffer:
        for handler in files:
            if record.levelno >= handler.level:
                handler.handle(record)
    _held.buffer.clear()


class _FileTrouble:
    """Warns once, on the console, that a log file cannot be written; training goes on."""

    def __init__(self, handler: logging.FileHandler) -> None:
        self.handler = handler
        self.warned = False

    def __call__(self, _record: logging.LogRecord) -> None:
        if not self.warned:
            self.warned = True
            error = sys.exc_info()[1]
            name = Path(self.handler.baseFilename).name
            logging.getLogger("logger").warning(f"{name} cannot be written, training goes on: {error}")


def _settings(log_config: str | Path = CONFIG) -> dict[str, Any]:
    return copy.deepcopy(read_json(log_config))
