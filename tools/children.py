"""Programs that a tool starts: they end when it does, and are told what it is told."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple


def options(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What `subprocess` is to start every child with.

    Args:
        variables: of the child's environment, besides those of this process.
    """
    found: dict[str, Any] = {}
    if variables is not None:
        found["env"] = {**os.environ, **variables}
    if sys.platform == "linux":
        found["preexec_fn"] = die_with_parent
    return found


def die_with_parent() -> None:
    """Let a process that is being started end when this one does, also by a kill."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: it saves and leaves


def setting_words(settings: Mapping[str, Any]) -> list[str]:
    """The words of a command of train.py that change its config, by dotted keys."""
    words = []
    for key, value in settings.items():
        words += ["--set", f"{key}={json.dumps(value)}"]
    return words


def is_ignored(number: int) -> bool:
    """Whether this process was started so that it does not hear a signal, as by nohup."""
    return signal.getsignal(number) is signal.SIG_IGN


def exit_code(number: int) -> int:
    """The exit code of a process that a signal has ended, as a shell tells it."""
    return 128 + number


def code_of(process: subprocess.Popen[Any]) -> int:
    """Wait for a process; its exit code as a shell tells it, also where a signal has ended it."""
    code = process.wait()
    if code < 0:
        return exit_code(-code)
    return code


def leave_at(names: Sequence[str]) -> None:
    """Let signals end this process as an error does: children and scratch folders go first.

    Args:
        names: of signals; one that the system has not never comes.
    """

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(exit_code(number))

    for name in names:
        number = signal.Signals.__members__.get(name)
        if number is not None and not is_ignored(number):
            signal.signal(number, leave)


class Asked(NamedTuple):
    """A signal that has come, and when."""

    number: int
    seconds: float


@contextlib.contextmanager
def passing_on(
    processes: Sequence[subprocess.Popen[Any]], at_second: signal.Signals
) -> Iterator[None]:
    """Within it, Ctrl-C and SIGTERM stop the children; this process ends once it is left.

    Args:
        processes: that get a SIGTERM, at which they save.
        at_second: what they get at a second signal.
    """
    asked: list[Asked] = []

    def pass_on(number: int, _frame: FrameType | None) -> None:
        asked.append(Asked(number, time.monotonic()))
        sent = signal.SIGTERM
        # Within a second it may be the same one, for a whole group.
        if asked[-1].seconds > asked[0].seconds + 1:
            sent = at_second
        # No wait here: the code that was interrupted may hold the lock of one.
        for process in processes:
            process.send_signal(sent)

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if not is_ignored(number):
            before[number] = signal.signal(number, pass_on)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        raise SystemExit(exit_code(asked[0].number))
