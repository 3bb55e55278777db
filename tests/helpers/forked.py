"""Child processes for tests that kill: forked, so that they start with torch imported, each in a
process group."""

import gc
import multiprocessing
import os
import signal
import sys
import time

import pytest
import torch

from machinery.telling import end_command

if not hasattr(os, "fork"):
    pytest.skip("no forks on this platform", allow_module_level=True)
# The first backward of a process looks how many devices there are, starts threads for them, and no
# fork of it can call backward any more. Once fake tensors have been made (by torch.export), it
# finds one without a GPU; now it finds none.
torch.ones(1, requires_grad=True).sum().backward()


def start(function, *args, output=None, errors=None):
    """Run `function(*args)` as a command in a forked process with its own process group.

    Args:
        output: what it prints goes there; None: where the tests print.
        errors: what it prints to stderr; None: to `output`, too.
    """
    process = multiprocessing.get_context("fork").Process(
        target=_command, args=(function, args, output, errors)
    )
    process.start()
    return process


def _command(function, args, output, errors):
    os.setsid()
    gc.freeze()  # to look through what it has from the tests would copy all of that memory
    signal.signal(
        signal.SIGHUP, signal.SIG_DFL
    )  # as in a terminal, also where the tests are started by nohup
    if output is not None:
        for number, name in ((1, output), (2, errors or output)):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # pytest has put other files in their place.
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        function(*args)
    except SystemExit:
        raise
    except BaseException as error:
        # That of a project, whose classes are others than those of the tests, if it has come to set
        # it.
        hook = sys.excepthook if sys.excepthook.__name__ == end_command.__name__ else end_command
        hook(type(error), error, error.__traceback__)
        sys.exit(1)


def finish(process):
    """The exit code, once the process has ended; no member of its group may be left then."""
    process.join(120)
    alive = process.exitcode is None
    if alive:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    assert not alive, "the process hung"
    wait_for_group(process.pid)
    return process.exitcode


def wait_for_group(pid):
    """Until no process of the group is left; workers end a moment after their parent."""
    given_up = time.monotonic() + 60  # on a busy machine, their ends take long
    while time.monotonic() < given_up:
        try:
            os.killpg(pid, 0)
        except (ProcessLookupError, PermissionError):
            return
        time.sleep(0.001)
    os.killpg(pid, signal.SIGKILL)
    raise AssertionError("orphans were left")


class Prepared:
    """A process that does something once, and then forks for each command, which finds it done."""

    def __init__(self, function, *args):
        self._ours, theirs = multiprocessing.Pipe()
        given = (self._ours, theirs, function, args)
        self._process = multiprocessing.get_context("fork").Process(target=_serve, args=given)
        self._process.start()
        theirs.close()

    def run(self, function, *args, output):
        """Run `function(*args)` as a command; its exit code."""
        self._ours.send((function, args, output))
        code = self._ours.recv()
        assert isinstance(code, int), code
        return code

    def close(self):
        """Let it end."""
        self._ours.close()
        self._process.join()


def _serve(others, connection, function, args):
    others.close()
    gc.freeze()
    function(*args)
    while True:
        try:
            function, args, output = connection.recv()
        except EOFError:
            return
        try:
            connection.send(finish(start(function, *args, output=output)))
        except AssertionError as error:
            connection.send(str(error))


class KillAt:
    """A profile function that kills its process at the n-th call or return, in Python or in C."""

    def __init__(self, n):
        self.n, self.count, self.pid = n, 0, os.getpid()

    def __call__(self, frame, event, argument):
        self.count += 1
        if (
            self.count == self.n and os.getpid() == self.pid
        ):  # a worker inherits it, and is not meant
            os.kill(os.getpid(), signal.SIGKILL)
