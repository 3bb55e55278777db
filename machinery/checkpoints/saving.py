"""What a checkpoint holds, and when its files are written, copied and set aside."""

import logging
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from machinery import distributed
from machinery.checkpoints import file as checkpoint, run_folder, shards, stored
from machinery.checkpoints.built import Built
from machinery.checkpoints.commands import Script
from machinery.checkpoints.file import Content
from machinery.checkpoints.later import Later
from machinery.checkpoints.parts import Held, class_of, state_of, trained
from machinery.checkpoints.round_trip import AT_SAVE, AT_START, RoundTrips
from machinery.checkpoints.run import Run
from machinery.checkpoints.starts import Position, Start
from machinery.checkpoints.structure import size, structure
from machinery.checkpoints.untrained import Digests, digests, left_out, networks_of
from machinery.config.settings import TrainerSettings
from machinery.errors import CheckpointError, ConfigError, NonFiniteError, StorageError
from machinery.files import set_aside
from machinery.plain_data import plain
from machinery.update.runtime import kind_of, learning_rate, whole
from machinery.update.watching import not_finite

_CHANGED = "no run could go on with what has changed since this one was built:"
_INSTEAD = (
    "do it in the trainer's constructor; or, with weights, undo it before the save (prune.remove, "
    "remove_parametrizations)"
)


def problem_of_saving(settings: TrainerSettings) -> str:
    """Why checkpoints cannot be as the trainer's settings say; empty if they can."""
    if settings.checkpoint != "sharded":
        return ""
    if settings.save == "trained":
        what = '"sharded" holds all weights, and trainer.save "trained" leaves some out'
        return f"{what}: choose one of them"
    return shards.what_is_missing()


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
        self._suffix = run_folder.FILE
        if settings.checkpoint == "sharded":
            self._suffix = run_folder.SHARDED
        problem = problem_of_saving(settings)
        if problem:
            raise ConfigError(f"trainer.checkpoint: {problem}")
        self._writes_later = settings.async_save
        self._later: Later | None = None
        # Of each network the weights that were not trained when it was built.
        self._untrained: dict[str, Digests] = {}
        self._built: Built | None = None
        self._round_trips = RoundTrips()

    def begin(self, on_failure: Callable[[], None]) -> None:
        """From here on there is something to save.

        Args:
            on_failure: is called, in another thread, if what is written while the training goes on
                could not be: the next save says so.
        """
        if self._writes_later:
            self._later = Later(on_failure)

    def rest(self) -> None:
        """Wait until what this process writes is done, whatever has become of it."""
        if self._later is not None:
            self._later.rest()

    def settle(self) -> None:
        """Wait until what is being written is done; all processes have to ask.

        Raises:
            StorageError: it could not be written.
        """
        if self._later is None:
            return
        self._later.rest()
        distributed.from_main(self._later.wait)
        self._later.wait()

    def end(self) -> None:
        """There is nothing to save any more: at a clean end or a polite stop."""
        if self._later is not None:
            self._later.end()
            self._later = None

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
        if self._sharded:
            for name, part in {"model": held.model, **held.parts}.items():
                shards.check_kinds(name, plain(_made(state_of(part)), name))
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

    def _content(
        self,
        model: nn.Module,
        held: Held,
        position: Position,
        monitor_best: float,
        config: dict[str, Any],
    ) -> Content:
        """Everything that a trainer needs to go on, as for `save`.

        What is shared out over processes comes whole to the main one, or stays where it is if each
        process writes its part.
        """
        gathered = _as_it_is if self._sharded else whole
        # A DataParallel of the user's keeps its prefix: the test.py that goes with it puts one on.
        weights = model if isinstance(model, nn.DataParallel) else held.model
        states = {}
        for name, part in held.parts.items():
            states[name] = plain(gathered(state_of(part)), f"the state of {name}")
        structures = {name: structure(state) for name, state in states.items()}
        return {
            "format_version": checkpoint.FORMAT_VERSION,
            "arch": kind_of(held.model).__name__,
            "epoch": position.epoch,
            "state_dict": _weights(weights, gathered),
            "optimizer": states.pop("optimizer"),
            "monitor_best": monitor_best,
            "config": config,
            "progress": _progress(position, held.fixed),
            "states": states,
            "classes": {name: class_of(part) for name, part in held.parts.items()},
            "structures": structures,
            "environment": self.run.environment,
        }

    def save(
        self,
        model: nn.Module,
        held: Held,
        position: Position,
        monitor_best: float,
        config: dict[str, Any],
        due: bool,
        improved: bool,
    ) -> None:
        """Write the checkpoint of this moment if it is `due`, and the best if it `improved`.

        Of several processes, all have to call it.

        Args:
            model: as the trainer has it.
            held: what the trainer holds.
            position: where the run stands.
            monitor_best: the best value so far.
            config: as the user wrote it.

        Raises:
            StorageError: it could not be written; the checkpoints that were there are as they were.
        """
        content = self._content(model, held, position, monitor_best, config)
        epoch = content["epoch"]
        step = content["progress"]["step"]
        if self._leaves_out and distributed.is_main():
            content = left_out(content, held, self._untrained)
        path = None
        if due:
            path = self.run.folder / run_folder.checkpoint_name(epoch, step, self._suffix)
        if self._later is None:
            self._write(content, path, improved)
            return
        self.settle()
        if self._sharded or distributed.is_main():
            content = self._later.copy(content)
        self._later.begin(partial(self._write, content, path, improved, self._later.group))

    @property
    def _sharded(self) -> bool:
        return self._suffix == run_folder.SHARDED

    def _write(
        self, content: Content, path: Path | None, improved: bool, group: Any = None
    ) -> None:
        """Write a checkpoint to `path`, and the best if it improved; all processes have to call.

        Args:
            group: in which they talk, as for `distributed.gathered`.
        """
        epoch = content["epoch"]
        best = self.run.folder / run_folder.best_name(epoch, self._suffix)
        with self._told(content):
            distributed.from_main(partial(self.run.remake, content["config"]), group)
            if path is not None:
                self._write_one(content, path, group)
                self.newest = path  # whatever becomes of the best
            if improved and path is not None:
                distributed.from_main(partial(stored.copy, path, best), group)
            elif improved:
                self._write_one(content, best, group)
                self.newest = best
        distributed.from_main(partial(self._clear, best if improved else None), group)
        self.run.status("running", epoch=epoch, step=content["progress"]["step"])

    def _write_one(self, content: Content, path: Path, group: Any) -> None:
        """Write a checkpoint as a file, or as a folder."""
        if self._sharded:
            shards.save(content, path, group)
        else:
            distributed.from_main(partial(checkpoint.save, content, path), group)

    @contextmanager
    def _told(self, content: Content) -> Iterator[None]:
        """What could not be written, with the space that there is, and what is left."""
        try:
            yield
        except StorageError as error:
            raise StorageError(f"{error} ({self._space(content)}); {self._intact()}") from error

    def _clear(self, best: Path | None) -> None:
        """Remove what nobody needs any more.

        Args:
            best: that has just been written, in place of others.
        """
        if best is not None:
            run_folder.keep_best(best)
        run_folder.prune(self.run.folder, self._keep_last, self.newest)

    def _space(self, content: Content) -> str:
        """How much space a checkpoint needs, and how much there is."""
        text = f"needs about {size(content) / 1e6:.0f} MB"
        try:
            free = shutil.disk_usage(self.run.folder).free
        except OSError:  # the folder is gone
            return text
        return f"{text}, {free / 1e6:.0f} MB free"

    def _intact(self) -> str:
        if self.newest is None or not self.newest.exists():  # somebody has removed the folder
            return "there is no earlier checkpoint"
        return f"{self.newest.name} is intact"

    def resume_hint(self, *options: str) -> str:
        """The line that says how to go on."""
        self.rest()
        if not self.run.stays:
            return "nothing of it is kept"
        if self.newest is None:
            return "nothing had been saved yet"
        words = (*options, *self.run.words.to_go_on)
        return f"resume: {self.script.goes_on(self.newest, words)}"

    def skip_hint(self) -> str:
        """The line that says how to go on after a loss that was not finite: it would come again."""
        return self.resume_hint("--set", "trainer.on_nan=skip")


def _made(state: dict[str, Any]) -> dict[str, Any]:
    """A state without the weights that lazy layers will make with the first batch."""
    return {name: value for name, value in state.items() if not is_lazy(value)}


def _as_it_is(state: Any) -> Any:
    return state


def _weights(network: nn.Module, gathered: Callable[[Any], Any]) -> dict[str, torch.Tensor]:
    """The state of a network, with its versions, as torch gives it."""
    state = network.state_dict()
    for name, value in list(state.items()):
        state[name] = gathered(value)
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
    found = False
    for best in run_folder.bests(folder):
        if best == current or stored.is_of_epoch(best, best_epoch):
            found = True
            continue
        # The run goes on from before its best, or a kill came between an epoch's file and the best.
        set_aside(best)
        what = f"{best.name} is not of epoch {best_epoch}, the best so far"
        if best_epoch == 0:
            what = f"{best.name} cannot be compared with the epochs to come"
        logger.warning(f"{what}: renamed {best.name}.old")
    if best_epoch and not found:
        _make_best(folder, best_epoch)


def _make_best(folder: Path, epoch: int) -> None:
    """Let the checkpoint of an epoch be the best, if there is one that is whole."""
    for suffix in (run_folder.FILE, run_folder.SHARDED):
        source = folder / run_folder.checkpoint_name(epoch, None, suffix)
        if source.exists() and stored.damage(source) is None:
            stored.copy(source, folder / run_folder.best_name(epoch, suffix))
            return
