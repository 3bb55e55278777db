"""`-d` by forks: the launcher and the processes that it starts are copies of this one, which has
torch, instead of new interpreters; what goes on between them is as ever."""

import atexit
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
import torch.distributed.run
import torchvision.datasets  # noqa: F401 - for all that is forked
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

import forked
from projects import script

# What torch imports for the first optimizer takes seconds, and each process would do it again.
torch.optim.SGD([torch.zeros(1, requires_grad=True)])


def launch(folder, *arguments):
    """Run a script of a project that becomes torchrun; the completed process with its output."""
    words = list(map(str, arguments))
    with tempfile.TemporaryDirectory() as place:
        files = [Path(place) / name for name in ("stdout.txt", "stderr.txt")]
        process = forked.start(_launcher, folder, words, output=files[0], errors=files[1])
        code = forked.finish(process)
        said = [file.read_text() for file in files]
    return subprocess.CompletedProcess(words, code, *said)


def started(folder, output, *arguments):
    """The process of a script of a project that becomes torchrun; it prints to a file."""
    return forked.start(_launcher, folder, list(map(str, arguments)), output=output)


def torchrun(folder, words, output):
    """Start torchrun in a project as a user does; the process, which prints to a file."""
    return forked.start(_torchrun, folder, words, output=output)


def _torchrun(folder, words):
    os.chdir(folder)
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    subprocess_handler.Popen = _Forked
    sys.argv = ["torchrun", *words]
    torch.distributed.run.main()


def _launcher(folder, words):
    os.execv = partial(_become, _open_files())
    script(folder, words)


def _open_files():
    """What each descriptor is of."""
    found = {}
    for path in list(Path("/dev/fd").iterdir()):
        with suppress(OSError):  # that of the list itself is closed again
            number = int(path.name)
            status = os.fstat(number)
            found[number] = status.st_dev, status.st_ino
    return found


def _become(before, _, words):
    """Run another script of python in place of this one, whose files and locks are let go."""
    for number, file in _open_files().items():
        if before.get(number) != file:
            os.close(number)
    subprocess_handler.Popen = _Forked
    sys.argv = words[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")


class _Forked(subprocess.Popen):
    """A process that torchrun starts."""

    def __init__(self, args, env, **options):
        self._env = env
        super().__init__(args, env=env, **options)

    def _execute_child(self, args, *_):
        self.pid = os.fork()
        if self.pid == 0:
            _rank(list(args), self._env)
        self._child_created = True


def _rank(words, env):
    """Do what `python -u SCRIPT …` does, as a new program would, and end."""
    code = 1
    try:
        os.setsid()
        for number in signal.valid_signals():
            if callable(signal.getsignal(number)):
                signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        logging.disable(logging.NOTSET)
        atexit._clear()
        os.environ.clear()
        os.environ.update(env)
        code = _code(words[words.index("-u") + 1 :])
        atexit._run_exitfuncs()
    finally:
        os._exit(code)


def _code(words):
    """The exit code of a script."""
    try:
        try:
            script(Path.cwd(), words)
        except SystemExit:
            raise
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)
            return 1
    except SystemExit as end:
        return end.code or 0
    return 0
