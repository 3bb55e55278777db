"""What a checkpoint holds, and when its files are written, copied and set aside."""

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from machinery import distributed
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.checkpoints.built import Built
from machinery.checkpoints.commands import Script
from machinery.checkpoints.file import Content
from machinery.checkpoints.parts import Held, class_of, state_of, trained
from machinery.checkpoints.round_trip import AT_SAVE, AT_START, RoundTrips
from machinery.checkpoints.run import Run
from machinery.checkpoints.starts import Position, Start
from machinery.checkpoints.structure import size, structure
from machinery.checkpoints.untrained import Digests, digests, left_out, networks_of
from machinery.config.settings import TrainerSettings
from machinery.errors import CheckpointError, NonFiniteError, StorageError
from machinery.plain_data import plain
from machinery.update.runtime import kind_of, learning_rate, whole
from machinery.update.watching import not_finite

_CHANGED = "no run could go on with what has changed since this one was built:"
_INSTEAD = (
    "do it in the trainer's constructor; or, with weights, undo it before the save (prune.remove, "
    "remove_parametrizations)"
)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: where they go.
        settings: of the trainer: how many epochs' files stay, and what they hold.
        script: which continues the run, and how.
        newest: the file that the run goes on from.
    """

    def __init__(
        self, run: Run, settings: TrainerSettings, script: Script, newest: Path | None
    ) -> None:
        self.run = run
        #: The file that was written or restored last.
        self.newest = newest
        self.script = script
        self._keep_last = settings.keep_last
        self._leaves_out = settings.save == "trained"
        # Of each network the weights that were not trained when it was built.
        self._untrained: dict[str, Digests] = {}
        self._built: Built | None = None
        self._round_trips = RoundTrips()

    def restore(self, start: Start, held: Held) -> Position | None:
        """Load what the run starts from; where it stands, if it goes on.

        Args:
            held: what a trainer holds that has been built.

        Raises:
            CheckpointError: it does not fit, or no later run could go on with what is held.
        """
        self._built = Built(held)
        if self._leaves_out:
            for name, network in networks_of(held).items():
                self._untrained[name] = digests(network)
        position = start.restore(held, self.run.environment)
        if start.begins:
            self._round_trips.check(held, AT_START)
        return position

    def check(self, held: Held, position: Position, on_nan: str) -> None:
        """Let no file have what could not be used.

        Raises:
            NonFiniteError: weights are not finite, and `on_nan` is not "ignore"; with their names.
            CheckpointError: a run that is built afresh could not take it.
        """
        self._check_finite(held, position, on_nan)
        changes = []
        if self._built is not None:
            changes = self._built.changes(held)
        if changes:
            lines = [_CHANGED, *changes, _INSTEAD, self.resume_hint()]
            raise CheckpointError("\n  ".join(lines))
        largest = AT_SAVE if self.run.stays else math.inf
        self._round_trips.check(held, largest)

    def _check_finite(self, held: Held, position: Position, on_nan: str) -> None:
        lr = position.lr
        if math.isnan(lr) and "optimizer" in held.parts:  # a loop of its own has not noted it
            lr = learning_rate(held.parts["optimizer"])
        found = distributed.gathered(not_finite(trained(held), position.epoch, lr))
        spoilt = next(filter(None, found), "")
        if spoilt and on_nan == "ignore":
            what = f"{spoilt}; it is saved all the same: trainer.on_nan is ignore"
            logging.getLogger("checkpoint").warning(what)
        elif spoilt:
            raise NonFiniteError(f"{spoilt}\n  {self.skip_hint()}")

    def save(self, content: Content, held: Held, due: bool, improved: bool) -> None:
        """Write the checkpoint of this moment if it is `due`, and the best if it `improved`.

        Args:
            content: all of it.
            held: what it is of.

        Raises:
            StorageError: it could not be written; the checkpoints that were there are as they were.
        """
        epoch = content["epoch"]
        step = content["progress"]["step"]
        if self._leaves_out and distributed.is_main():
            content = left_out(content, held, self._untrained)
        path = self.run.folder / run_folder.checkpoint_name(epoch, step)
        best = self.run.folder / run_folder.BEST
        distributed.from_main(lambda: self._write(content, path if due else None, improved))
        self.newest = path if due else best
        self.run.status("running", epoch=epoch, step=step)

    def _write(self, content: Content, path: Path | None, improved: bool) -> None:
        """Write a checkpoint to `path`, and the best if it improved."""
        best = self.run.folder / run_folder.BEST
        try:
            self.run.remake(content["config"])
            if path is not None:
                checkpoint.save(content, path)
                self.newest = path  # whatever becomes of the best
            if improved and path is not None:
                checkpoint.copy(path, best)
            elif improved:
                checkpoint.save(content, best)
        except StorageError as error:
            raise StorageError(f"{error} ({self._space(content)}); {self._intact()}") from error
        run_folder.prune(self.run.folder, self._keep_last)

    def _space(self, content: Content) -> str:
        """How much space a checkpoint needs, and how much there is."""
        text = f"needs about {size(content) / 1e6:.0f} MB"
        try:
            free = shutil.disk_usage(self.run.folder).free
        except OSError:  # the folder is gone
            return text
        return f"{text}, {free / 1e6:.0f} MB free"

    def _intact(self) -> str:
        if self.newest is None:
            return "there is no earlier checkpoint"
        return f"{self.newest.name} is intact"

    def resume_hint(self, *options: str) -> str:
        """The line that says how to go on."""
        if not self.run.stays:
            return "nothing of it is kept"
        if self.newest is None:
            return "nothing had been saved yet"
        words = (*options, *self.run.words.to_go_on)
        return f"resume: {self.script.goes_on(self.newest, words)}"

    def skip_hint(self) -> str:
        """The line that says how to go on after a loss that was not finite: it would come again."""
        return self.resume_hint("--set", "trainer.on_nan=skip")


def content_of(
    model: nn.Module,
    held: Held,
    position: Position,
    monitor_best: float,
    config: dict[str, Any],
    environment: dict[str, Any],
) -> Content:
    """Everything that a trainer needs to go on; of several processes, all have to ask.

    Args:
        model: as the trainer has it.
        held: what the trainer holds.
        position: where the run stands.
        monitor_best: the best value so far.
        config: as the user wrote it.
        environment: what the run is made of.
    """
    # A DataParallel of the user's keeps its prefix: the test.py that goes with it puts one on.
    weights = model if isinstance(model, nn.DataParallel) else held.model
    states = {}
    for name, part in held.parts.items():
        states[name] = plain(whole(state_of(part)), f"the state of {name}")
    structures = {name: structure(state) for name, state in states.items()}
    return {
        "format_version": checkpoint.FORMAT_VERSION,
        "arch": kind_of(held.model).__name__,
        "epoch": position.epoch,
        "state_dict": _weights(weights),
        "optimizer": states.pop("optimizer"),
        "monitor_best": monitor_best,
        "config": config,
        "progress": _progress(position, held.fixed),
        "states": states,
        "classes": {name: class_of(part) for name, part in held.parts.items()},
        "structures": structures,
        "environment": environment,
    }


def _weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a network, with its versions, as torch gives it."""
    state = network.state_dict()
    for name, value in list(state.items()):
        state[name] = whole(value)
    return state


def _progress(position: Position, fixed: dict[str, Any]) -> Any:
    """Where the run stands, and what must be the same for it to go on exactly."""
    progress: dict[str, Any] = {
        "step": position.step,
        "finished": position.finished,
        "lr": position.lr,
        "before": position.before,
        "seconds": position.seconds,
        **fixed,
    }
    if position.step is not None:
        progress["in_epoch"] = position.batches
    return progress


def take_over(run: Run, epoch: int, step: int, current: Path, best_epoch: int) -> None:
    """Put later files aside, and make the best the best so far: the run goes on from here.

    Args:
        epoch, step: where the checkpoint that was restored stands; step 0 is an epoch's end.
        current: its file.
        best_epoch: the best one's epoch; 0 if there is none.
    """
    logger = logging.getLogger("checkpoint")
    folder = run.folder
    for name in run_folder.set_aside_later(folder, epoch, step or None):
        logger.warning(f"{name} is of a later time: renamed {name}.old")
    best = folder / run_folder.BEST
    if current == best or is_of_epoch(best, best_epoch):
        return
    # The run goes on from before its best, or a kill came between an epoch's file and the best.
    if best.exists():
        best.replace(best.with_name(best.name + ".old"))
        what = f"{best.name} is not of epoch {best_epoch}, the best so far"
        if best_epoch == 0:
            what = f"{best.name} cannot be compared with the epochs to come"
        logger.warning(f"{what}: renamed {best.name}.old")
    source = folder / run_folder.checkpoint_name(best_epoch, None)
    if best_epoch and checkpoint.damage(source) is None:
        checkpoint.copy(source, best)


def is_of_epoch(path: Path, epoch: int) -> bool:
    """Whether a file is a whole checkpoint of an epoch."""
    try:
        return checkpoint.load(path, mmap=True)["epoch"] == epoch
    except CheckpointError:
        return False
