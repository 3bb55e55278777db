"""Signals that ask a run to stop politely: it finishes the step in hand, saves, and leaves."""

import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from machinery import distributed
from machinery.errors import Stopped

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
#: Those of them that the system has.
_SIGNALS = [signal.Signals[name] for name in _NAMES if name in signal.Signals.__members__]
#: The exit codes of a run that has been stopped by other signals than SIGTERM.
_EXIT_CODES = {"SIGINT": 130, "SIGHUP": 129}

#: Seconds after which several processes ask each other for signals, if a step takes less.
_ASKED_EVERY = 0.1
#: Steps that go by until they ask each other, at most.
_MOST_STEPS = 10


class _Left(BaseException):
    """Leaves the fetch of a batch that nobody wants any more."""


def _nothing_to_say() -> str:
    return ""


class StopRequest:
    """Notes SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP while it is entered.

    The loops ask for `signum` between steps. A second Ctrl-C ends the process at once. What one of
    several processes has noted counts once all of them know.

    Args:
        describe: says where the run is when a signal ends it at once.
    """

    def __init__(self, describe: Callable[[], str] = _nothing_to_say) -> None:
        #: What this process has noted.
        self.noted: int | None = None
        #: What all processes have agreed on.
        self.signum: int | None = None
        # Whether a signal has come: `ask` is none.
        self._signalled = False
        self._describe = describe
        self._polled = True
        self._fetching = False
        self._before: dict[int, Any] = {}
        # When there is no time left, and whether all processes have agreed that this is so.
        self._deadline = math.inf
        self._late = False
        #: Steps since the processes agreed, and when that was.
        self._steps = 0
        self._since = time.monotonic()
        #: How many steps go by until they agree again.
        self._every = 0

    def __enter__(self) -> "StopRequest":
        """Note signals from here on; in the main thread, the only one that may."""
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                ignored = signal.getsignal(signum) == signal.SIG_IGN
                if ignored and signum.name == "SIGHUP":  # as by nohup
                    continue
                self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the signals to those who had them before."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before = {}

    def ask(self) -> None:
        """Ask as a signal does, from another thread, for what the next save has to tell."""
        self.noted = signal.SIGTERM
        if distributed.alone():
            self.signum = signal.SIGTERM

    def allow(self, seconds: float) -> None:
        """From here on so many seconds are left."""
        self._deadline = time.monotonic() + seconds

    @property
    def is_late(self) -> bool:
        """Whether there is no time left; of several processes, whether they have agreed on it."""
        if distributed.alone():
            return time.monotonic() >= self._deadline
        return self._late

    @contextmanager
    def unpolled(self) -> Iterator[None]:
        """Code that may not ask for `signum`: a signal raises `Stopped` until it calls `polled`."""
        self._polled = False
        try:
            if self.signum is not None:
                raise self.leave(self._describe())
            yield
        finally:
            self._polled = True

    def polled(self) -> None:
        """From here to the end of the `unpolled` code, somebody asks."""
        self._polled = True

    def agree(self, soon: bool = False) -> None:
        """Take what any process has noted as asked of all.

        Args:
            soon: called after each step; ask the others only now and then.
        """
        self._steps += 1
        if distributed.alone() or (soon and self._steps < self._every):
            return
        pace = (time.monotonic() - self._since) / self._steps
        noted = [float(self.noted == signum) for signum in _SIGNALS]
        late = float(time.monotonic() >= self._deadline)
        # Awaited at once: a fork must not come between, see `distributed.join`.
        *counts, lates, paces = distributed.totals([*noted, late, pace])()
        self.signum = _first_noted(counts)
        self._late = lates > 0
        # What is no step says nothing of the next, and steps that follow may be slow.
        self._every = 0
        if soon:
            steps = int(_ASKED_EVERY * distributed.size() / max(paces, 1e-9))
            self._every = min(steps, _MOST_STEPS)
        self._steps = 0
        self._since = time.monotonic()

    def until(self, batches: Iterator[Any], together: bool = True) -> Iterator[Any]:
        """The batches until a signal comes; the fetch of one is left then, however long it took.

        Args:
            together: several processes take them in step, so that none of them may leave alone.
        """
        if together and not distributed.alone():
            yield from batches
            return
        while True:
            try:
                batch = self._fetch(batches)
            except (StopIteration, _Left):
                return
            if self.noted is not None:
                return
            yield batch

    def _fetch(self, batches: Iterator[Any]) -> Any:
        """The next batch.

        Raises:
            StopIteration: there is none.
            _Left: a signal has come.
        """
        self._fetching = True
        try:
            if self.noted is not None:  # it came before this began
                raise _Left
            return next(batches)
        finally:
            self._fetching = False

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        """Handle a signal."""
        is_first = not self._signalled
        self._signalled = True
        if signum == signal.SIGINT and not is_first:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            end_workers()
            raise KeyboardInterrupt
        self.noted = signum
        if distributed.alone():
            self.signum = signum
        if is_first and (self._fetching or not self._polled):
            _shield.leave(self._leave_now)

    def _leave_now(self) -> None:
        """Leave what the signal has come into.

        Raises:
            Stopped: nobody asks for the signal here.
            _Left: it is the fetch of a batch.
        """
        if not self._polled:
            raise self.leave(self._describe())
        end_workers()
        raise _Left

    def leave(self, message: str) -> Stopped:
        """End the workers; the exception that ends the run, with the exit code for the signal."""
        end_workers()
        name = signal.Signals(self._asked()).name
        code = _EXIT_CODES.get(name, 143)
        if name == "SIGINT":
            name = "Ctrl-C"
        return Stopped(f"stopped by {name}{message}", code)

    def _asked(self) -> int:
        """The signal that is to be obeyed."""
        if self.signum is not None:
            return self.signum
        if self.noted is not None:
            return self.noted
        return signal.SIGTERM


def _first_noted(counts: list[float]) -> int | None:
    """The first of the signals that any process has noted."""
    for signum, count in zip(_SIGNALS, counts, strict=True):
        if count:
            return signum
    return None


class _Shield:
    """What keeps an exception out of where workers are started.

    Half of an iterator, or of what Python does at a fork, could only be told with a traceback.
    """

    def __init__(self) -> None:
        self._up = False
        self._owed: Callable[[], None] | None = None

    def leave(self, way: Callable[[], None]) -> None:
        """Go a way out, which raises: now, or where the shield comes down."""
        if not self._up:
            way()
        self._owed = way

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Up until the end of this."""
        self._up = True
        try:
            yield
        finally:
            self._up = False
            owed, self._owed = self._owed, None
        if owed is not None:
            owed()


_shield = _Shield()


@contextmanager
def shielded() -> Iterator[None]:
    """Where workers are started: all their threads have SIGTERM blocked then.

    Also those that torch starts at once. A stop is obeyed when they have been started.
    """
    with _shield.raised(), _sigterm_blocked():
        yield


@contextmanager
def _sigterm_blocked() -> Iterator[None]:
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Make a DataLoader worker outlive a stop until its parent has saved, and never its parent.

    A terminal's Ctrl-C and a scheduler's SIGTERM reach the whole process group: a worker that died
    of them would take the batch in hand with it, and torch would end the parent. So only the parent
    can end a worker.

    Args:
        init: the loader's own `worker_init_fn`, called afterwards.
        worker: number of the worker.
    """
    if hasattr(signal, "sigwaitinfo"):
        for signum in _SIGNALS:
            if signum != signal.SIGTERM:
                signal.signal(signum, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if init is not None:
        init(worker)


def _end_with_parent(parent: int) -> None:
    """Wait for a SIGTERM of the parent; those of others, to the group, are not for the worker."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def deaf_to_workers() -> Iterator[None]:
    """Where the end of a worker is no news, as while a run saves that ends for a lost one.

    torch's signal handler would raise in the midst of it.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "SIGCHLD"):
        yield
        return
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        if before is not None:  # else it was none of Python's, which cannot be put back
            signal.signal(signal.SIGCHLD, before)


def end_workers() -> None:
    """End the DataLoader workers now: torch would wait 5 s for each that is busy."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.terminate()
