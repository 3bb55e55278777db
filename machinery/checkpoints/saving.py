"""What a checkpoint holds, and when its files are written, copied and set aside."""

import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from machinery import distributed
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.checkpoints.file import Content
from machinery.checkpoints.parts import Held, state_of, trained
from machinery.checkpoints.restoring import Position
from machinery.checkpoints.run import Run
from machinery.errors import CheckpointError, NonFiniteError, StorageError
from machinery.files import shown_command
from machinery.update.watching import not_finite


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: where they go.
        keep_last: how many epochs' files stay; None keeps all.
        script: which continues the run.
    """

    def __init__(self, run: Run, keep_last: int | None, script: Path) -> None:
        self.run = run
        #: The file that was written or restored last.
        self.newest: Path | None = None
        self.script = script
        self._keep_last = keep_last

    def check_finite(self, held: Held, position: Position, on_nan: str) -> None:
        """Let no file have weights that are not finite, unless `on_nan` is "ignore".

        Raises:
            NonFiniteError: with the names of weights.
        """
        spoilt = not_finite(trained(held), position.epoch, position.lr)
        if spoilt and on_nan == "ignore":
            what = f"{spoilt}; it is saved all the same: trainer.on_nan is ignore"
            logging.getLogger("checkpoint").warning(what)
        elif spoilt:
            raise NonFiniteError(f"{spoilt}\n  {self.skip_hint()}")

    def save(self, content: Content, due: bool, improved: bool) -> None:
        """Write the checkpoint of this moment if it is `due`, and the best if it `improved`.

        Raises:
            StorageError: it could not be written; the checkpoints that were there are as they were.
        """
        epoch = content["epoch"]
        step = content["progress"]["step"]
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
            if improved and path is not None:
                checkpoint.copy(path, best)
            elif improved:
                checkpoint.save(content, best)
        except StorageError as error:
            raise StorageError(f"{error} ({self._space(content)}); {self._intact()}") from error
        run_folder.prune(self.run.folder, self._keep_last)

    def _space(self, content: Content) -> str:
        """How much space a checkpoint needs, and how much there is."""
        needed = 0
        for value in tree_leaves(content):
            if isinstance(value, torch.Tensor):
                needed += value.nbytes
        text = f"needs about {needed / 1e6:.0f} MB"
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
        return f"resume: {shown_command(self.script, '-r', self.newest, *words)}"

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
    progress: Any = {
        "step": position.step,
        "finished": position.finished,
        "lr": position.lr,
        **held.fixed,
    }
    optimizer = held.parts["optimizer"]
    others = {name: part for name, part in held.parts.items() if name != "optimizer"}
    return {
        "format_version": checkpoint.FORMAT_VERSION,
        "arch": type(held.model).__name__,
        "epoch": position.epoch,
        "state_dict": weights.state_dict(),
        "optimizer": optimizer.state_dict(),
        "monitor_best": monitor_best,
        "config": config,
        "progress": progress,
        "states": {name: state_of(part) for name, part in others.items()},
        "classes": {name: type(part).__name__ for name, part in held.parts.items()},
        "environment": environment,
    }


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
