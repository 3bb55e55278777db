"""Where the time of a step goes: the shares of what a step does, and a trace of some steps."""

import gzip
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from utils.errors import StorageError
from utils.files import replacing
from utils.runtime import PARTS, UNSEEN, Runtime

#: Steps to let pass first: caches fill, kernels are chosen, a model is compiled.
WARM_UP = 3


def steps_needed(steps: int) -> int:
    """The updates that an epoch must have for a profile of `steps`."""
    return WARM_UP + 2 * steps


def profiled(runtime: Runtime, groups: Iterator[Any], steps: int, file: Path) -> Iterator[Any]:
    """Pass the groups of batches on; time the parts of `steps` updates, trace as many more, and log what came out.

    They are not the same updates: timing the parts makes each wait for the device, and a trace slows them down.

    Args:
        runtime: says which part of a step is running.
        groups: the batches of each update.
        steps: how many.
        file: of the trace, in Chrome's format, gzipped.
    """
    logger = logging.getLogger("trainer")
    yield from islice(groups, WARM_UP)
    clock = Clock(runtime.device)
    try:
        runtime.part = clock.part
        for group in islice(groups, steps):
            yield group
            clock.read("other")  # what no part has counted
            clock.steps += 1
    finally:
        runtime.part = UNSEEN
    if clock.steps:
        logger.info(clock.report())
    if torch._C._autograd._profiler_enabled():
        logger.warning("no trace: another profiler is running")
    else:
        yield from _traced(runtime, groups, steps, file, logger)
    yield from groups


def _traced(runtime: Runtime, groups: Iterator[Any], steps: int, file: Path, logger: logging.Logger) -> Iterator[Any]:
    # Kineto would tell of its own doings on stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if runtime.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as trace:
        try:
            runtime.part = torch.profiler.record_function
            yield from islice(groups, steps)
        finally:
            runtime.part = UNSEEN
    plain = file.with_suffix("")
    try:
        trace.export_chrome_trace(str(plain))
        content = plain.read_bytes()
        if not content.rstrip().endswith(b"}"):  # a full disk, of which Kineto says nothing
            raise OSError("it was cut short")
        with replacing(file) as target:
            target.write(gzip.compress(content, compresslevel=6))
    except (OSError, RuntimeError, StorageError) as error:
        logger.warning(f"{file} cannot be written, training goes on: {error}")
    else:
        logger.info(f"trace of the steps after these: {file} (open it in ui.perfetto.dev)")
    finally:
        with suppress(OSError):
            plain.unlink()


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
