"""Where the time of a step goes: a trace of some steps, and the shares of what a step does."""

import gzip
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from utils.errors import StorageError
from utils.files import replacing

#: Steps to let pass first: caches fill, kernels are chosen, a model is compiled.
WARM_UP = 3
#: What a step does, in the order of the report.
PARTS = ("data", "forward", "backward", "optimizer", "logging", "saving")

Part = Callable[[str], AbstractContextManager[Any]]


def steps_needed(steps: int) -> int:
    """The updates that an epoch must have for a profile of `steps`."""
    return WARM_UP + 2 * steps


def profiled(trainer: Any, groups: Iterator[Any], steps: int, file: Path) -> Iterator[Any]:
    """Pass the groups of batches on; time `steps` updates, trace as many more, and log what came out.

    They are not the same updates: timing the parts makes each wait for the device, and a trace slows them down.

    Args:
        trainer: a `Trainer`.
        groups: the batches of each update.
        steps: how many.
        file: of the trace, in Chrome's format, gzipped.
    """
    yield from islice(groups, WARM_UP)
    clock = Clock(trainer.device)
    with labelled(trainer, clock.part):
        for group in _fetched(groups, steps, clock.part):
            yield group
            clock.read("other")  # what no part has counted
            clock.steps += 1
    trainer.logger.info(clock.report())
    if torch._C._autograd._profiler_enabled():
        trainer.logger.warning("no trace: another profiler is running")
    else:
        yield from _traced(trainer, groups, steps, file)
    yield from groups


def _traced(trainer: Any, groups: Iterator[Any], steps: int, file: Path) -> Iterator[Any]:
    # Kineto would tell of its own doings on stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if trainer.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as trace, labelled(trainer, torch.profiler.record_function):
        yield from _fetched(groups, steps, torch.profiler.record_function)
    plain = file.with_suffix("")
    try:
        trace.export_chrome_trace(str(plain))
        content = plain.read_bytes()
        if not content.rstrip().endswith(b"}"):  # a full disk, of which Kineto says nothing
            raise OSError("it was cut short")
        with replacing(file) as target:
            target.write(gzip.compress(content, compresslevel=6))
    except (OSError, RuntimeError, StorageError) as error:
        trainer.logger.warning(f"{file} cannot be written, training goes on: {error}")
    else:
        trainer.logger.info(f"trace of the steps after these: {file} (open it in ui.perfetto.dev)")
    finally:
        with suppress(OSError):
            plain.unlink()


def _fetched(groups: Iterator[Any], steps: int, part: Part) -> Iterator[Any]:
    for _ in range(steps):
        with part("data"):
            group = next(groups, None)
        if group is None:  # a loader that has fewer batches than it says
            return
        yield group


@contextmanager
def labelled(trainer: Any, part: Part) -> Iterator[None]:
    """Let the methods that do a step's parts say so, for as long as the context lasts."""
    runtime = trainer.runtime
    methods = [
        (runtime, "place", "data"),
        (trainer, "_forward", "forward"),
        (runtime, "backward", "backward"),
        (runtime, "step", "optimizer"),
        (trainer, "_record", "logging"),
        (trainer, "_after_update", "logging"),
        (trainer, "_save_step", "saving"),
    ]
    if trainer.ema is not None:
        methods.append((trainer.ema, "update_parameters", "optimizer"))
    with ExitStack() as undo:
        for owner, name, what in methods:
            undo.callback(_restore, owner, name, vars(owner).get(name, _CLASS_S))
            setattr(owner, name, _within(part, what, getattr(owner, name)))
        yield


def _within(part: Part, what: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with part(what):
            return method(*args, **kwargs)

    return call


#: Stands for a method that is the class's, and not one of the object's own.
_CLASS_S = object()


def _restore(owner: Any, name: str, before: Any) -> None:
    if before is _CLASS_S:
        delattr(owner, name)
    else:
        setattr(owner, name, before)


class Clock:
    """Adds up the seconds of each part, with the work that the device has for it; a part inside another is its own.

    Args:
        device: waited for at the edges of the parts.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys((*PARTS, "other"), 0.0)
        self.steps = 0
        self._device = device
        self._parts = ["other"]
        self._since = self._now()

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    def read(self, name: str) -> None:
        """Count the time since the last reading for `name`."""
        now = self._now()
        self.seconds[name] += now - self._since
        self._since = now

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of a step."""
        self.read(self._parts[-1])
        self._parts.append(name)
        try:
            yield
        finally:
            self.read(self._parts.pop())

    def report(self) -> str:
        """Time for each step, and the share of each part."""
        total = sum(self.seconds.values())
        shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in self.seconds.items() if seconds)
        return (
            f"profile of {self.steps} step{'s' * (self.steps != 1)}: {total / self.steps * 1e3:.3f} ms each: {shares}"
        )


def first_step_timed(trainer: Any, groups: Iterator[Any]) -> Iterator[Any]:
    """Pass the groups of batches on, and say how long the first update took: with `compile`, most of it compiles."""
    for group in islice(groups, 1):
        started = time.perf_counter()
        yield group
        if trainer.device.type != "cpu":
            torch.accelerator.synchronize()
        trainer.logger.info(f"compiled: the first step took {time.perf_counter() - started:.1f} s")
    yield from groups


class Observer:
    """Times what the config asks for, once in a process.

    Args:
        settings: the section `trainer` of the config.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        #: How many steps are still to be profiled.
        self.profile: int | None = settings["profile"]
        self._compiling: bool = settings["compile"]

    def watch(self, trainer: Any, groups: Iterator[Any]) -> Iterator[Any]:
        """Pass an epoch's groups of batches on; profile them as soon as an epoch has the steps for it."""
        left = -(-(trainer.len_epoch - trainer.step) // trainer.accumulate)
        if self._compiling and left:
            self._compiling = False
            groups = first_step_timed(trainer, groups)
        if self.profile is not None and left >= steps_needed(self.profile) and not trainer.config.checking:
            groups = profiled(trainer, groups, self.profile, trainer.config.log_dir / f"trace-{trainer.epoch}.json.gz")
            self.profile = None
        return groups
