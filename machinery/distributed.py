"""The processes that train together: which one this is, and how they agree. Alone, all of it is a function call.

torchrun starts them, and says in the environment who is who. The main process, number 0, is the one that writes. They
tell each other small objects and numbers through the CPU (gloo); gradients are DistributedDataParallel's business.
"""

import atexit
import contextlib
import ctypes
import datetime
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

T = TypeVar("T")

LAUNCHED = all(
    os.environ.get(name, "").isdecimal() for name in ("LOCAL_RANK", "RANK", "WORLD_SIZE")
)
#: The number of this process, how many there are, and its number among those of this machine.
_ALONE = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
RANK, SIZE, LOCAL_RANK = (
    int(os.environ[name]) if LAUNCHED else alone for name, alone in _ALONE.items()
)
#: What they share beside the group, to see who was first.
_store: Any = None
#: Machine and process id of each.
_members: list[Any] = []
if LAUNCHED and sys.platform == "linux":
    # Be stopped when the launcher is killed, which could not pass a signal on.
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(os.environ.pop("_TEMPLATE_LAUNCHER", os.getppid())):
        os._exit(1)  # it has been killed already
_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"


def join() -> Any:
    """torch.distributed, with this process in the group; at the first call they wait for each other."""
    import torch
    import torch.distributed

    global _store
    dist: Any = torch.distributed
    if not dist.is_initialized():
        kind = torch.accelerator.current_accelerator(check_available=True)
        backend = "gloo"
        if kind is not None:
            torch.accelerator.set_device_index(LOCAL_RANK % torch.accelerator.device_count())
            backend = f"cpu:gloo,{kind.type}:{dist.get_default_backend_for_device(kind.type)}"
        timeout = datetime.timedelta(seconds=600)  # until the config says another time
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        hook = sys.excepthook
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        sys.excepthook = hook  # torch has put its own around it, which would swallow what it prints
        _store = dist.PrefixStore("said", store)
        atexit.register(leave)
        if hasattr(os, "register_at_fork"):
            # Gloo's threads enter Python to let go of a tensor: 3.11 may hang for ever if it is forked just then.
            os.register_at_fork(before=lambda: time.sleep(0.01))
        _members[:] = gathered((platform.node(), os.getpid()))
        restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
        if restarts and "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in os.environ:
            print(
                "warning: restarts may fail: set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun",
                file=sys.stderr,
            )
    return dist


def end_others() -> None:
    """Kill the other processes of this machine: one of them does not answer."""
    for machine, pid in _members:
        if machine == platform.node() and pid != os.getpid():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def leave() -> None:
    """Leave the group, at a clean end or a polite stop; after an error the others would be waited for."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def abandon() -> None:
    """After an error: leave nothing, so that nobody is waited for, and say what it was before the launcher ends all."""
    atexit.unregister(leave)
    if SIZE > 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def set_timeout(seconds: float) -> None:
    """How long the processes wait for each other."""
    if SIZE > 1:
        dist = join()
        set_it = (
            getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
        )  # an older name
        set_it(datetime.timedelta(seconds=seconds), dist.group.WORLD)


def gathered(value: T) -> list[T]:
    """The values of all processes, in the order of their numbers."""
    if SIZE == 1:
        return [value]
    values: list[Any] = [None] * SIZE
    join().all_gather_object(values, value)
    return values


def totals(numbers: Sequence[float]) -> Callable[[], list[float]]:
    """Start to add up numbers over all processes; what it returns waits for the sums."""
    import torch

    sums = torch.tensor(numbers, dtype=torch.float64)
    work = join().all_reduce(sums, async_op=True)

    def wait() -> list[float]:
        work.wait()
        return sums.tolist()

    return wait


def from_main(make: Callable[[], T]) -> T:
    """What the main process makes, or the error that it meets, in all of them."""
    value, error = _outcome(make, RANK == 0)
    sent, met = gathered((value, _sendable(error)))[0]
    if met is not None:
        raise error or met
    return value if RANK == 0 else sent


def in_turn(make: Callable[[], T]) -> T:
    """What each process makes, the first of a machine before its others: what is downloaded is there for them then."""
    value, error = _outcome(make, LOCAL_RANK == 0)
    met = next(filter(None, gathered(_sendable(error))), None)
    if met is not None:
        raise error or met
    return value if LOCAL_RANK == 0 else make()


def _outcome(make: Callable[[], Any], wanted: bool) -> tuple[Any, Exception | None]:
    try:
        return (make() if wanted else None), None
    except Exception as error:
        return None, error


def _sendable(error: Exception | None) -> Exception | None:
    # Others than ours may not survive the way.
    return (
        error
        if error is None or hasattr(error, "exit_code")
        else RuntimeError(f"{type(error).__name__}: {error}")
    )


def first_to_say(text: str) -> bool:
    """Whether no other process has said this; the main one goes first."""
    time.sleep(0.3 * (RANK > 0))
    with contextlib.suppress(Exception):  # the process that keeps the store may be gone
        return _store is None or bool(_store.add(text[:200], 1) == 1)
    return True


def broadcast(tensors: Iterable[Any]) -> None:
    """Give all processes the main one's values."""
    if SIZE > 1:
        dist = join()
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def average(tensor: Any) -> Any:
    """The average of a tensor over the processes."""
    tensor = tensor.clone()
    join().all_reduce(tensor)
    return tensor / SIZE


def spread(devices: str | None, n_gpu: int) -> None:
    """Let torchrun start this program once for each of several GPUs, in place of this process.

    Args:
        devices: the GPUs as the command line names them.
        n_gpu: how many the config asks for, of those there are.
    """
    count = len(set(devices.split(",")) - {""}) if devices else n_gpu
    if count > 1 and not devices:
        import torch

        count = min(count, torch.accelerator.device_count())
    if count < 2:
        return
    os.environ["_TEMPLATE_LAUNCHER"] = str(os.getpid())
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // count, 1)))
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # or restarts fail
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120")  # time to save
    flags = [
        "--standalone",
        f"--nproc_per_node={count}",
        f"--signals-to-handle={_SIGNALS}",
        f"--log-dir={os.devnull}",
    ]
    os.execv(sys.executable, [sys.executable, __file__, *flags, *sys.argv])


def _launch() -> int:
    """torchrun without its own reports, as the processes make theirs; the exit code is that of the first to fail."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    logging.disable(logging.CRITICAL)
    try:
        main(sys.argv[1:])
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(
                f"error: process {rank} was killed by {signal.Signals(-failure.exitcode).name}",
                file=sys.stderr,
            )
        return max(failure.exitcode, 0) or (143 if failure.exitcode == -signal.SIGTERM else 1)
    except SignalException as error:
        return {signal.SIGINT: 130, signal.SIGHUP: 129}.get(error.sigval, 143)
    return 0


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until torchrun handles it: an import may swallow the exception
    os._exit(
        _launch()
    )  # threads of torchrun that a second signal has left behind would be waited for
