"""Signals that ask a run to stop politely: it finishes the step in hand, saves, and leaves."""

import ctypes
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

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
    if hasattr(signal, name)
]

#: Seconds after which several processes ask each other for signals, if a step takes less.
_ASKED_EVERY = 0.1


class _Left(BaseException):
    """Leaves the fetch of a batch that nobody wants any more."""


class StopRequest:
    """Notes SIGTERM, SIGINT (Ctrl-C), SIGUSR1 and SIGHUP while it is entered; the loops ask for `signum` between steps.

    A second Ctrl-C ends the process at once. What one of several processes has noted counts once all of them know.

    Args:
        describe: says where the run is when a signal ends it at once.
    """

    def __init__(self, describe: Callable[[], str] = lambda: "") -> None:
        #: What this process has noted, and what all have agreed on.
        self.noted: int | None = None
        self.signum: int | None = None
        self._describe, self._polled, self._fetching = describe, True, False
        self._before: dict[int, Any] = {}
        # Steps since the processes agreed, how many go by until they do again, and when it was.
        self._steps, self._every, self._since = 0, 0, time.monotonic()

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            kept = [
                n for n in _SIGNALS if n.name != "SIGHUP" or signal.getsignal(n) != signal.SIG_IGN
            ]  # as by nohup
            self._before = {signum: signal.signal(signum, self._note) for signum in kept}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    @contextmanager
    def unpolled(self) -> Iterator[None]:
        """Code that may not ask for `signum`: until it calls `polled`, a signal raises `Stopped` at once."""
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
        if distributed.SIZE == 1 or (soon and self._steps < self._every):
            return
        # Awaited at once: see the forks in `distributed.join`.
        pace = (time.monotonic() - self._since) / self._steps
        *flags, paces = distributed.totals(
            [*(float(self.noted == signum) for signum in _SIGNALS), pace]
        )()
        self.signum = next(
            (signum for signum, count in zip(_SIGNALS, flags, strict=True) if count), None
        )
        # What is no step says nothing of the next, and steps that follow may be slow.
        self._every = (
            min(int(_ASKED_EVERY * distributed.SIZE / max(paces, 1e-9)), 10) if soon else 0
        )
        self._steps, self._since = 0, time.monotonic()

    def until(self, batches: Iterator[Any], together: bool = True) -> Iterator[Any]:
        """The batches until a signal comes; one that is being fetched then is left, however long it would take.

        Args:
            together: several processes take them in step, so that none of them may leave alone.
        """
        if together and distributed.SIZE > 1:
            yield from batches
            return
        while True:
            try:
                try:
                    self._fetching = True
                    batch = None if self.noted else next(batches)
                finally:
                    self._fetching = False
            except (StopIteration, _Left):
                return
            if self.noted:
                return
            yield batch

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.noted is not None and signum == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            end_workers()
            raise KeyboardInterrupt
        first, self.noted = self.noted is None, signum
        if distributed.SIZE == 1:
            self.signum = signum
        if first and not self._polled:
            raise self.leave(self._describe())
        if first and self._fetching:
            end_workers()
            raise _Left

    def leave(self, message: str) -> Stopped:
        """End the workers; the exception that ends the run, with the exit code for the signal."""
        end_workers()
        number = self.signum or self.noted or signal.SIGTERM
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        return Stopped(f"stopped by {name}{message}", {"Ctrl-C": 130, "SIGHUP": 129}.get(name, 143))


@contextmanager
def shielded() -> Iterator[None]:
    """Where workers are started: all their threads have SIGTERM blocked then, also those that torch starts at once."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_worker(init: Callable[[int], None] | None, worker: int) -> None:
    """Make a DataLoader worker outlive a stop until its parent has saved, and never outlive its parent.

    A terminal's Ctrl-C and a scheduler's SIGTERM reach the whole process group: a worker that died of them would take
    the batch in hand with it, and torch would end the parent. So only the parent can end a worker.

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


def end_workers() -> None:
    """End the DataLoader workers now, with what they have in hand: torch would wait 5 s for each that is busy."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.terminate()
