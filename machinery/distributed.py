"""The processes that train together: which one this is, and how they agree.

A launcher (torchrun) starts them, and says in the environment who is who. The main process, number
0, is the one that writes. They tell each other small objects and numbers through the CPU (gloo);
gradients are DistributedDataParallel's business. A process that is alone may call all of it, and
gets its own values back.
"""

import atexit
import datetime
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from machinery import torchrun
from machinery.errors import ConfigError, UserError

T = TypeVar("T")

#: In the store: how many have asked whether they are the first to say something.
_ASKED = "how many have asked"


class Member(NamedTuple):
    """One of the processes, as its machine knows it."""

    machine: str
    pid: int


@dataclass
class World:
    """Which of the processes this one is, and what it knows of the others.

    Outside of this module, ask the functions below; only tests that pretend to be a rank set it.
    """

    #: The number of this process, how many there are, and its number among those of this machine.
    rank: int = 0
    size: int = 1
    local_rank: int = 0
    #: Whether a launcher has started it, be it alone.
    launched: bool = False
    #: What they share beside the group, to see who was first; None until they have joined.
    store: Any = None
    members: list[Member] = field(default_factory=list)
    #: How long they wait for each other, as far as somebody has said it.
    timeout: datetime.timedelta | None = None


def _read_world() -> World:
    """The world as the launcher describes it in the environment; without one, a process alone."""
    values = [os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if not all(value.isdecimal() for value in values):
        return World()
    return World(int(values[0]), int(values[1]), int(values[2]), launched=True)


world = _read_world()
if world.launched:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # an error is told in one line
    torchrun.end_with_launcher()


def check_launch() -> None:
    """Refuse to train alone as one of several processes whose launcher does not say who is who.

    Each of them would train a run of its own.

    Raises:
        ConfigError: with the command that works.
    """
    if world.launched:
        return
    told = os.environ.get("WORLD_SIZE", "")
    if told.isdecimal() and int(told) > 1:
        how = "--nnodes=$WORLD_SIZE --node_rank=$RANK --nproc_per_node=1"
        where = "--master_addr=$MASTER_ADDR --master_port=$MASTER_PORT"
        raise ConfigError(
            f"WORLD_SIZE is {told}, but LOCAL_RANK is not set, so each process would train alone:\n"
            f"  torchrun {how} {where} train.py …"
        )
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "")
    if tasks.isdecimal() and int(tasks) > 1:
        raise ConfigError(
            f"srun has started {tasks} tasks of this, each would train alone: one task a node,\n"
            "  srun --ntasks-per-node=1 torchrun … train.py … (examples/slurm)"
        )


def rank() -> int:
    """The number of this process."""
    return world.rank


def size() -> int:
    """How many processes train together."""
    return world.size


def local_rank() -> int:
    """The number of this process among those of its machine."""
    return world.local_rank


def is_main() -> bool:
    """Whether this is the process that writes."""
    return world.rank == 0


def alone() -> bool:
    """Whether there is no other process."""
    return world.size == 1


def launched() -> bool:
    """Whether a launcher has started this process."""
    return world.launched


def join() -> Any:
    """torch.distributed, with this process in the group; in the first call they wait for others."""
    import torch.distributed

    dist: Any = torch.distributed
    if not dist.is_initialized():
        _begin(dist)
    return dist


def until_threads_rest() -> None:
    """Let the other threads of this process come to rest, for a second at most."""
    for _ in range(100):
        time.sleep(0.01)  # which lets them enter Python, and leave it
        if not _is_another_at_work():
            return


def _is_another_at_work() -> bool:
    """Whether another thread of this process runs, or would if it got a core; as Linux tells."""
    this_one = str(threading.get_native_id())
    for task in Path("/proc/self/task").glob("*"):
        if task.name == this_one:
            continue
        try:
            state = (task / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended
            continue
        if state.rpartition(") ")[2].startswith("R"):
            return True
    return False


def _begin(dist: Any) -> None:
    """Make the group of all processes, and get to know them."""
    backend = _backend(dist)
    timeout = datetime.timedelta(seconds=600)  # until the config says another time
    store, number, count = next(dist.rendezvous("env://", timeout=timeout))
    hook = sys.excepthook
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=timeout)
    sys.excepthook = hook  # torch has put its own around it, which would swallow what it prints
    world.store = dist.PrefixStore("said", store)
    atexit.register(leave)
    if hasattr(os, "register_at_fork"):
        # Gloo's threads enter Python to let go of a tensor: 3.11 may hang for ever if it is forked
        # just then.
        os.register_at_fork(before=until_threads_rest)
    world.members = gathered(Member(platform.node(), os.getpid()))
    restarts = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    if restarts and torchrun.SEPARATE_STORE not in os.environ:
        print(
            f"warning: restarts may fail: set {torchrun.SEPARATE_STORE}=1 for torchrun",
            file=sys.stderr,
        )


def _backend(dist: Any) -> str:
    """What they talk through: gloo for what is on the CPU, the device's own for the rest."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        return "gloo"
    torch.accelerator.set_device_index(local_rank() % torch.accelerator.device_count())
    return f"cpu:gloo,{kind.type}:{dist.get_default_backend_for_device(kind.type)}"


def beside() -> int:
    """How many processes of this machine can tell each other something without waiting."""
    if world.store is None:
        return 1
    machines = [member.machine for member in world.members]
    return machines.count(platform.node())


def first_here(name: str) -> bool:
    """Whether no other process of this machine has asked this."""
    return bool(world.store.add(f"{platform.node()} asked {name}", 1) == 1)


def tell_here(name: str, value: str) -> None:
    """Tell the other processes of this machine something, whenever they ask."""
    world.store.set(f"{platform.node()} told {name}", value)


def told_here(name: str) -> str | None:
    """What a process of this machine has told; None if none has yet."""
    key = f"{platform.node()} told {name}"
    if not world.store.check([key]):
        return None
    return bytes(world.store.get(key)).decode()


def end_others() -> None:
    """Kill the other processes of this machine: one of them does not answer."""
    for member in world.members:
        if member.machine == platform.node() and member.pid != os.getpid():
            try:
                os.kill(member.pid, signal.SIGKILL)
            except OSError:  # it has ended
                pass


def leave() -> None:
    """Leave the group, at a clean end or a polite stop; after an error it would wait."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def leave_own(group: Any) -> None:
    """Leave a group that `own_group` has made, before it is met by the end of Python."""
    import torch.distributed as dist

    if group is not None and dist.is_initialized():
        dist.destroy_process_group(group)


def abandon() -> None:
    """After an error: leave nothing, so that nobody is waited for.

    And live long enough to say what it was: the launcher ends all as soon as one has failed.
    """
    atexit.unregister(leave)
    if not alone():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def set_timeout(seconds: float) -> None:
    """How long the processes wait for each other."""
    if alone():
        return
    dist = join()
    timeout = datetime.timedelta(seconds=seconds)
    world.timeout = timeout
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(timeout, dist.group.WORLD)
    else:
        # Its private name, until torch made it public; there is no other way to change the time of
        # a group that has been made, and the group is needed before the config has been read.
        dist.distributed_c10d._set_pg_timeout(timeout, dist.group.WORLD)


def gathered(value: T, group: Any = None) -> list[T]:
    """The values of all processes, in the order of their numbers.

    Args:
        group: of all of them, for a thread that may not meet what others say; see `own_group`.
    """
    if alone():
        return [value]
    values: list[Any] = [None] * size()
    join().all_gather_object(values, value, group)
    return values


def own_group() -> Any:
    """A group of all processes in which a thread can talk beside the others; None if alone.

    They wait for each other as long as elsewhere: of itself, a new group has torch's own time.
    """
    if alone():
        return None
    return join().new_group(backend="gloo", timeout=world.timeout)


def totals(numbers: Sequence[float]) -> Callable[[], list[float]]:
    """Start to add up numbers over all processes; what it returns waits for the sums."""
    if alone():
        return partial(list, numbers)
    import torch

    sums = torch.tensor(numbers, dtype=torch.float64)
    work = join().all_reduce(sums, async_op=True)

    def wait() -> list[float]:
        work.wait()
        return sums.tolist()

    return wait


def broadcast(tensors: Iterable[Any]) -> None:
    """Give all processes the main one's values."""
    if alone():
        return
    dist = join()
    for tensor in tensors:
        dist.broadcast(tensor.detach(), 0)


def average(tensor: Any) -> Any:
    """The average of a tensor over the processes."""
    if alone():
        return tensor
    tensor = tensor.clone()
    join().all_reduce(tensor)
    return tensor / size()


def together(make: Callable[[], T], group: Any = None) -> T:
    """What each process makes, once all have; the error that any of them meets, in all.

    Args:
        group: as for `gathered`.
    """
    if alone():
        return make()
    made = _outcome(make)
    others = gathered(_sendable(_Outcome(error=made.error)), group)
    if made.error is not None:
        raise made.error
    for other in others:
        if other.error is not None:
            raise other.error
    return made.value


class _Outcome(NamedTuple):
    """What a call has returned, or the error that it met."""

    value: Any = None
    error: Exception | None = None


def from_main(make: Callable[[], T], group: Any = None) -> T:
    """What the main process makes, or the error that it meets, in all of them.

    Args:
        group: as for `gathered`.
    """
    if alone():
        return make()
    if is_main():
        made = _outcome(make)
        gathered(_sendable(made), group)
    else:
        made = gathered(_Outcome(), group)[0]
    if made.error is not None:
        raise made.error
    return made.value


def in_turn(make: Callable[[], T]) -> T:
    """What each process makes, the first of a machine before its others.

    What the first one downloads is there for them then.
    """
    if alone():
        return make()
    is_first = local_rank() == 0
    made = _Outcome()
    if is_first:
        made = _outcome(make)
    others = gathered(_sendable(_Outcome(error=made.error)))
    if made.error is not None:
        raise made.error
    for other in others:
        if other.error is not None:
            raise other.error
    if is_first:
        return made.value
    return make()


def _outcome(make: Callable[[], Any]) -> _Outcome:
    try:
        return _Outcome(value=make())
    except Exception as error:
        return _Outcome(error=error)


def _sendable(outcome: _Outcome) -> _Outcome:
    """An outcome for the others: errors of other classes than ours might not survive the way."""
    error = outcome.error
    if error is None or isinstance(error, UserError):
        return outcome
    return _Outcome(error=RuntimeError(f"{type(error).__name__}: {error}"))


def first_to_say(text: str) -> bool:
    """Whether no other process has said this; the main one goes first."""
    if world.store is None:
        return True
    if is_main():
        atexit.register(_stay_until_asked)
    else:
        time.sleep(0.3)
    try:
        said = world.store.add(text[:200], 1)
        world.store.add(_ASKED, 1)
    except Exception:  # the process that keeps the store may be gone
        return True
    return bool(said == 1)


def _stay_until_asked() -> None:
    """The store ends with this process: stay until all have asked, a second at most."""
    given_up = time.monotonic() + 1
    try:
        while world.store.add(_ASKED, 0) < world.size and time.monotonic() < given_up:
            time.sleep(0.02)
    except Exception:  # another one keeps it
        return
