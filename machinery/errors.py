"""The errors a user can cause, each with the exit code that schedulers and scripts may rely on.

Raise one of these with one to three plain lines (what, where, what is safe, what to do) and the command prints them
without a traceback. Any other exception is a bug: its traceback is kept and the exit code is 1.
"""

import contextlib
import itertools
import sys
import traceback
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from machinery import distributed

_ROOT = Path(__file__).resolve().parent.parent
#: Files and folders whose lines say nothing about a mistake in the user's code.
_NOT_OWN = {
    "base",
    "machinery",
    "logger",
    "utils",
    "parse_config.py",
    "train.py",
    "test.py",
    "site-packages",
}
#: The trainer's methods that call the user's model, loss and metrics.
_OF_A_BATCH = ("_forward", "_record", "_update", "batch_size_of")


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


class LostError(UserError):
    """Another process has ended, or does not answer."""


class Stopped(BaseException):
    """A signal asked the run to stop, and it has saved what it had. No `except Exception` on its way catches it."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def catch_user_errors() -> None:
    """Let the program end at an error that a user can cause with its message and exit code, and without a traceback."""
    sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, Stopped):
        distributed.abandon()
    if isinstance(error, KeyboardInterrupt):
        raise SystemExit(130)
    if isinstance(error, UserError | Stopped) or _in_batch(error):
        raise SystemExit(_tell(error))
    if distributed.first_to_say(repr(error)):
        sys.__excepthook__(kind, error, trace)


def printable(text: str) -> str:
    """A text without what would command a terminal."""
    return "".join(
        char if unicodedata.category(char)[0] != "C" or char in "\n\t" else "?" for char in text
    )


def told(error: BaseException, anywhere: bool = True) -> str:
    """An exception with its message, and the last line of the user's own code that it has passed.

    Args:
        anywhere: where it has passed none, name the line that raised it.
    """
    frames = traceback.extract_tb(error.__traceback__)
    at = [frame for frame in frames if _place(frame.filename) not in _NOT_OWN] or (
        frames if anywhere else []
    )
    lines = [
        line[:300] for line in "".join(traceback.format_exception_only(error)).strip().splitlines()
    ]
    # torch quotes the traceback of a worker, whose last line says what happened.
    text = "\n  ".join(
        lines[:2] if "Traceback" not in "".join(lines[:2]) else [lines[0], lines[-1]]
    )
    return text + (f"\n  at {at[-1].filename}:{at[-1].lineno}: {at[-1].line}" if at else "")


def _place(file: str) -> str:
    """The folder or file of the project that a file is in; "site-packages" for all others."""
    path = Path(file)
    outside = not path.is_relative_to(_ROOT) or "site-packages" in path.relative_to(_ROOT).parts
    return "site-packages" if outside else path.relative_to(_ROOT).parts[0]


def _in_batch(error: BaseException) -> dict[str, Any]:
    """The variables of the method that says what a batch means, if an exception that is no bug of ours passed it."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = [frame for frame in frames if frame.f_code.co_name in _OF_A_BATCH]
    ours = frames and _place(frames[-1].f_code.co_filename) in _NOT_OWN - {"site-packages"}
    return dict(found[-1].f_locals) if found and not ours else {}


def described(value: Any, depth: int = 3) -> str:
    """Shape and type of a tensor, and of those in containers, the first of each; nothing of other values."""
    if isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype"):
        return f"{[*value.shape]} {str(value.dtype).removeprefix('torch.')}"
    items = (
        value.items()
        if isinstance(value, Mapping)
        else enumerate(value)
        if type(value) in (list, tuple)
        else ()
    )
    texts = [
        (key, described(item, depth - 1)) for key, item in itertools.islice(items, 5 * bool(depth))
    ]
    found = [f"{key}: {text}" if isinstance(key, str) else text for key, text in texts]
    return f"({', '.join(found)})" if any(found) else ""


def _tell(error: BaseException) -> int:
    if "--traceback" in sys.argv:
        traceback.print_exception(error)
    text = str(error)
    if not isinstance(error, UserError | Stopped):
        shapes = {
            name: described(value) for name, value in _in_batch(error).items() if name != "self"
        }
        shown = [
            f"{name} {shape}"
            for name, shape in shapes.items()
            if shape and (name != "batch" or len(shapes) < 3)
        ]
        named = any(
            word.startswith("--run_id") for word in sys.argv
        )  # whose folder is there already
        more = "the run's info.log shows all of it" if named else "--traceback shows all of it"
        text = "\n  ".join([told(error), *[", ".join(shown)][: len(shown)], more])
    who = f"process {distributed.RANK}: " if distributed.RANK else ""
    with contextlib.suppress(OSError):  # a full disk, or a reader that has left
        if "Timed out" in text or distributed.first_to_say(text):  # or it might have to wait again
            print(
                printable(text if isinstance(error, Stopped) else f"error: {who}{text}"),
                file=sys.stderr,
                flush=True,
            )
    return getattr(error, "exit_code", 1)
