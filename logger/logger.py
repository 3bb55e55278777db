"""Messages: to the console at once, and to the run's `info.log` as soon as the run has a folder."""

import logging
import logging.config
import logging.handlers
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from machinery import distributed, secrets
from machinery.files import ROOT, read_json
from machinery.telling import printable

CONFIG = ROOT / "logger" / "logger_config.json"
#: Records of before there was a folder; they go to info.log first.
_held = logging.handlers.MemoryHandler(capacity=1_000_000, flushLevel=logging.CRITICAL + 1)


class WithoutSecrets(logging.Formatter):
    """Formats records as another formatter does, but for secrets.

    Args:
        formatter: the other.
    """

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self._formatter = formatter or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        return secrets.hidden(self._formatter.format(record))


class ConsoleHandler(logging.Handler):
    """Prints records to standard output; a progress bar on the terminal moves down before."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, unless it is for the files alone (`extra={"aside": True}`)."""
        if vars(record).get("aside"):
            return
        try:
            text = _encodable(printable(self.format(record)))
            if "tqdm" in sys.modules:
                sys.modules["tqdm"].tqdm.write(text, file=sys.stdout)
            else:
                print(text, flush=True)
        except OSError:  # the terminal or the pipe is gone: training goes on without it
            sys.stdout = _nowhere()
        except Exception:
            self.handleError(record)


def _is_for_files(record: logging.LogRecord) -> bool:
    """Whether a record is not for the console alone (`extra={"console": True}`)."""
    return not vars(record).get("console")


def _encodable(text: str) -> str:
    """A text as standard output can show it, whose encoding may lack a letter of it."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def setup_console() -> None:
    """Send records to the console, and hold them for the run's info.log."""
    # A daemon has neither.
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()
    root = logging.getLogger()
    if _held not in root.handlers:
        logging.config.dictConfig(_settings(CONFIG, None))
        root.addHandler(_held)


def setup_logging(save_dir: Path, log_config: str | Path = CONFIG) -> None:
    """Configure logging as `logger_config.json` says, with its log files in `save_dir`."""
    try:
        logging.config.dictConfig(_settings(log_config, Path(save_dir)))
    except ValueError as error:  # of a file that cannot be opened, or of a mistake in the settings
        setup_console()
        reason = error.__cause__ or error
        logging.getLogger("logger").warning(f"no log files, training goes on: {reason}")
    # What the console has shown already goes to the files alone.
    for handler in _file_handlers():
        _let_warn_once(handler)
        handler.addFilter(_is_for_files)
        handler.setFormatter(WithoutSecrets(handler.formatter))
        for record in _held.buffer:
            if record.levelno >= handler.level:
                handler.handle(record)
    _held.buffer.clear()


def to_files(save_dir: Path, message: str) -> None:
    """Write a message to the log files in `save_dir` alone: the console shows it in its own way."""
    if not _writes_to(save_dir):
        setup_logging(save_dir)
    record = logging.LogRecord("trainer", logging.ERROR, "", 0, message, None, None)
    for handler in _file_handlers():
        handler.handle(record)


def _writes_to(folder: Path) -> bool:
    """Whether logging has been set up with a file in that folder."""
    for handler in _file_handlers():
        if Path(handler.baseFilename).resolve().parent == folder.resolve():
            return True
    return False


def _settings(log_config: str | Path, folder: Path | None) -> dict[str, Any]:
    """The settings of a log config, as `logging.config` takes them.

    Args:
        folder: where the files go; None: there are none yet.

    Raises:
        ValueError: what stands there is no file.
    """
    settings: dict[str, Any] = read_json(log_config)
    handlers = {}
    for name, handler in settings["handlers"].items():
        if "filename" in handler:
            if folder is not None:
                handlers[name] = _file_settings(handler, folder)
        elif distributed.is_main():  # of several processes, only the main one has a console
            handlers[name] = handler
    settings["handlers"] = handlers
    settings["root"]["handlers"] = list(handlers)
    return settings


def _file_settings(handler: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a handler that writes to a file, which is in `folder`."""
    path = folder / handler["filename"]
    if path.is_symlink() or (path.exists() and not path.is_file()):  # a pipe would be waited for
        raise ValueError(f"{path} is a link, or no file")
    filename = str(path)
    if distributed.is_main():
        return {**handler, "filename": filename}
    # What is rotated by several would be lost: the others add to the file what is wrong with them.
    plain = {"class": "logging.FileHandler", "level": "WARNING", "filename": filename}
    if "formatter" in handler:
        plain["formatter"] = handler["formatter"]
    return plain


def _file_handlers() -> list[logging.FileHandler]:
    handlers = logging.getLogger().handlers
    return [handler for handler in handlers if isinstance(handler, logging.FileHandler)]


def _let_warn_once(handler: logging.FileHandler) -> None:
    """Let a log file that cannot be written say so once, on the console; training goes on."""
    name = Path(handler.baseFilename).name
    warned = False

    def warn(_record: logging.LogRecord) -> None:
        nonlocal warned
        if warned:  # also while the warning itself comes back here
            return
        warned = True
        error = sys.exc_info()[1]
        logging.getLogger("logger").warning(f"{name} cannot be written, training goes on: {error}")

    # It is no subclass's: logger_config.json says which classes the handlers have.
    handler.handleError = warn  # type: ignore[assignment,method-assign]


def _nowhere() -> TextIO:
    """A stream that swallows what is written to it, for as long as the process lives."""
    return open(os.devnull, "w")
