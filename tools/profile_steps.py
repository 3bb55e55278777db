"""Where the time of a step goes, and a trace: python tools/profile_steps.py -c config.json

It trains in a scratch folder, in the first epochs of the run or from where a checkpoint (-r)
stands, and keeps nothing.
"""

import argparse
import contextlib
import gzip
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery import distributed
from machinery.errors import ConfigError, StorageError
from machinery.telling import note_batch
from parse_config import ConfigParser
from train import OPTIONS, build

#: What a step does, in the order in which a profile tells it, and the methods of the trainer that
#: do it.
PARTS = {
    "data": ("runtime.move",),  # and the fetch
    "forward": ("_forward",),
    "backward": ("runtime.backward",),
    "optimizer": ("runtime.step",),
    "logging": ("_add_to_averages", "_log_window"),
    "saving": ("_save_step",),
}
#: Steps to let pass first: caches fill, kernels are chosen, a model is compiled.
WARM_UP = 3


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Show what the time of a step goes to, and trace some steps."
    )
    steps = "optimizer steps to time, and as many to trace (20)"
    parser.add_argument("--steps", type=int, default=20, help=steps)
    trace = "file of the trace (trace.json.gz)"
    parser.add_argument("--trace", type=Path, default=Path("trace.json.gz"), help=trace)
    sys.argv.append("--check")  # a scratch folder that goes at the end
    config = ConfigParser.from_args(parser, OPTIONS)
    arguments = config.launch.args
    if arguments.steps < 1:
        raise ConfigError(f"--steps {arguments.steps}: expected at least 1")
    trainer = build(config)
    config.launch.checking = False  # which would end each epoch after a batch
    with trainer.stop:
        trainer.restore()
        try:
            lines = list(profiled(trainer, arguments.steps, arguments.trace))
        finally:
            trainer._checkpoints.rest()  # before the folder goes
        if distributed.is_main():
            print("\n".join(lines))


def profiled(trainer: Any, steps: int, file: Path) -> Iterator[str]:
    """Time the parts of `steps` updates, trace as many more, and tell what came out, a line each.

    They are not the same updates: timing the parts makes each wait for the device, and a trace
    slows them down.

    Args:
        trainer: one with the template's own loop.
        file: of the trace, in Chrome's format, gzipped.

    Raises:
        ConfigError: the run is shorter, or the trainer does not train by updates.
    """
    import torch

    from trainer import Trainer

    if type(trainer)._train_epoch is not Trainer._train_epoch:
        name = type(trainer).__name__
        raise ConfigError(f"{name} has an epoch of its own, which is not made of updates")
    trainer._connect()
    parts = Parts(trainer)
    updates = _updates(trainer, parts)
    warm = _count(islice(updates, WARM_UP))
    clock = Clock(trainer.runtime.device)
    parts.context = clock.part
    for _ in islice(updates, steps):
        clock.read("other")  # what no part has counted
        clock.steps += 1
    parts.context = contextlib.nullcontext
    if warm < WARM_UP or clock.steps < steps:
        left = warm + clock.steps
        needed = WARM_UP + 2 * steps
        raise ConfigError(f"the run has {left} optimizer steps left, and this takes {needed}")
    yield clock.report()
    parts.context = torch.profiler.record_function
    yield _traced(trainer, islice(updates, steps), file)
    trainer._checkpoints.settle()


def _count(updates: Iterator[None]) -> int:
    """Do some updates; how many there were."""
    count = 0
    for _ in updates:
        count += 1
    return count


class Parts:
    """Does each part of a trainer's steps within a context of its name.

    Args:
        trainer: its methods are replaced, for the rest of its life.
    """

    def __init__(self, trainer: Any) -> None:
        self.context: Callable[[str], Any] = contextlib.nullcontext
        for name, methods in PARTS.items():
            for path in methods:
                *holders, method = path.split(".")
                owner = trainer
                for holder in holders:
                    owner = getattr(owner, holder)
                setattr(owner, method, self._within(name, getattr(owner, method)))

    def _within(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """A method that is a part of a step."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.context(name):
                return method(*args, **kwargs)

        return call


def _updates(trainer: Any, parts: Parts) -> Iterator[None]:
    """Train, an update at a time."""
    from machinery.update.networks import to_training

    for epoch in range(trainer.start_epoch, trainer.epochs + 1):
        trainer.epoch = epoch
        trainer._own.begin_epoch(trainer._held())
        to_training(trainer._networks())
        groups = trainer._groups(epoch)
        while True:
            with parts.context("data"):
                batches = next(groups, None)
            if batches is None:
                break
            try:
                if batches:  # else none of their samples could be read
                    trainer._update(batches)
            except Exception as error:
                note_batch(error, trainer)
                raise
            trainer._after_update(trainer._sizes.steps)
            yield
        trainer.step = 0


def _traced(trainer: Any, updates: Iterator[None], file: Path) -> str:
    """Trace updates, of several processes those of the main one; the line that says where."""
    import torch

    from machinery.files import replacing

    # Kineto would tell of its own doings on stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [torch.profiler.ProfilerActivity.CPU]
    if trainer.runtime.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profile = torch.profiler.profile(activities=activities, acc_events=True)
    with profile as trace:
        traced = _count(updates)
    told = f"trace of {traced} steps after these: {file} (open it in ui.perfetto.dev)"
    if not distributed.is_main():
        return told
    plain = trainer.config.log_dir / "trace.json"
    try:
        trace.export_chrome_trace(str(plain))
        content = plain.read_bytes()
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{plain} cannot be written: {error}") from error
    if not content.rstrip().endswith(b"}"):  # a full disk, of which Kineto says nothing
        raise StorageError(f"{plain} was cut short: is the disk full?")
    with replacing(file) as target:
        target.write(gzip.compress(content, compresslevel=6))
    return told


class Clock:
    """Adds up the seconds of each part, with the work that the device has for it.

    A part inside another is its own.

    Args:
        device: waited for at the edges of the parts.
    """

    def __init__(self, device: Any) -> None:
        self.seconds = dict.fromkeys((*PARTS, "other"), 0.0)
        self.steps = 0
        self._device = device
        self._parts = ["other"]
        self._since = self._now()

    def _now(self) -> float:
        if self._device.type != "cpu":
            import torch

            torch.accelerator.synchronize()
        return time.perf_counter()

    def read(self, name: str) -> None:
        """Count the time since the last reading for `name`."""
        now = self._now()
        self.seconds[name] += now - self._since
        self._since = now

    @contextlib.contextmanager
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
        shares = []
        for name, seconds in self.seconds.items():
            if seconds > 0:
                shares.append(f"{name} {seconds / total:.0%}")
        steps = f"{self.steps} steps"
        if self.steps == 1:
            steps = "1 step"
        each = f"{total / self.steps * 1e3:.3f} ms each"
        return f"profile of {steps}: {each}: {', '.join(shares)}"


if __name__ == "__main__":
    main()
