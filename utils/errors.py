"""The errors a user can cause, each with the exit code that schedulers and scripts may rely on.

Raise one of these with one to three plain lines (what, where, what is safe, what to do) and the command prints them
without a traceback. Any other exception is a bug: its traceback is kept and the exit code is 1.
"""

import contextlib
import sys
import traceback
from collections.abc import Callable
from types import TracebackType


class UserError(Exception):
    """Base of the errors below; `exit_code` is the exit code of the command."""

    exit_code = 1


class ConfigError(UserError):
    """The command line or the config is wrong."""

    exit_code = 2


class DataError(UserError):
    """The data cannot be read, or is not what the config says."""

    exit_code = 3


class CheckpointError(UserError):
    """A checkpoint is damaged, foreign, or does not fit."""

    exit_code = 4


class NonFiniteError(UserError):
    """The loss or the monitored value became NaN or infinite."""

    exit_code = 5


class StorageError(UserError):
    """A file could not be written."""

    exit_code = 6


class Stopped(BaseException):
    """A signal asked the run to stop, and it has saved what it had. No `except Exception` on its way catches it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_command(command: Callable[[], int | None]) -> None:
    """Run a command's main function and leave the process with the exit code that its outcome stands for."""
    try:
        code = command() or 0
    except (UserError, Stopped) as error:
        code = _tell(error)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def catch_user_errors() -> None:
    """Let a program that does not use `run_command` end in the same way at an error that a user can cause."""
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, UserError | Stopped):
        raise SystemExit(_tell(error))
    sys.__excepthook__(kind, error, trace)


def printable(text: str) -> str:
    """A text without what would command a terminal."""
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text)


def _tell(error: UserError | Stopped) -> int:
    if "--traceback" in sys.argv:
        traceback.print_exception(error)
    with contextlib.suppress(OSError):  # a full disk, or a reader that has left
        print(printable(str(error) if isinstance(error, Stopped) else f"error: {error}"), file=sys.stderr, flush=True)
    return error.exit_code
