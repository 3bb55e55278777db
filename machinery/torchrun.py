"""Starting torchrun in place of this process; it starts the program once for each of several GPUs.

Run as a script, this file is torchrun without its own reports. It imports nothing of the project.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

#: The process id of the torchrun that `spread` has started, for the processes that it starts.
_LAUNCHER = "_TEMPLATE_LAUNCHER"
#: torchrun's setting without which restarts fail.
SEPARATE_STORE = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def spread(devices: str | None, n_gpu: int) -> None:
    """Let torchrun start this program once for each of several GPUs, in place of this process.

    Args:
        devices: the GPUs as the command line names them.
        n_gpu: how many the config asks for, of those there are.

    Raises:
        ConfigError: the program is none that could be started again: it is no file.
    """
    count = _processes(devices, n_gpu)
    if count < 2:
        return
    if not Path(sys.argv[0]).is_file():
        from machinery.errors import ConfigError  # here: as a script, this is not in the project

        raise ConfigError(f"this is not started once for each of {count} GPUs: name one by -d 0")
    threads = max((os.cpu_count() or 1) // count, 1)
    os.environ[_LAUNCHER] = str(os.getpid())
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault(SEPARATE_STORE, "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")  # time to save
    flags = [
        "--standalone",
        f"--nproc_per_node={count}",
        f"--signals-to-handle={_SIGNALS}",
        f"--log-dir={os.devnull}",
    ]
    os.execv(sys.executable, [sys.executable, __file__, *flags, *sys.argv])


def _processes(devices: str | None, n_gpu: int) -> int:
    """How many processes are wanted; of GPUs that nobody has named, no more than there are."""
    if devices:
        return len(set(devices.split(",")) - {""})
    if n_gpu < 2:
        return n_gpu
    import torch

    return min(n_gpu, torch.accelerator.device_count())


def end_with_launcher() -> None:
    """Be stopped when the launcher is killed, which could not pass a signal on (on Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        launcher = os.environ.pop(_LAUNCHER, None)
        if launcher is not None and int(launcher) != os.getppid():
            os._exit(1)  # it has been killed already


def _launch() -> int:
    """torchrun, whose processes make the reports; the exit code is that of the first to fail."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    logging.disable(logging.CRITICAL)
    try:
        main(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        return _code_of_failure(rank, failure.exitcode)
    except SignalException as error:
        return {signal.SIGINT: 130, signal.SIGHUP: 129}.get(error.sigval, 143)
    return 0


def _code_of_failure(rank: int, code: int) -> int:
    """The exit code for a process that has failed: its own, or one for what has killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        print(f"error: process {rank} was killed by {name}", file=sys.stderr)
    if code > 0:
        return code
    if code == -signal.SIGTERM:
        return 143
    return 1


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder
    # Until torchrun handles it: an import may swallow the exception.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    code = _launch()
    # Threads of torchrun that a second signal has left behind would be waited for.
    os._exit(code)
