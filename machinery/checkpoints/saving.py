"""When a checkpoint is written, how a run ends, and what can be done with what it leaves."""

import contextlib
import logging
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from logger.logger import to_files
from machinery import distributed
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.checkpoints.file import Content
from machinery.checkpoints.parts import held_by, networks, state_of
from machinery.checkpoints.run import Run
from machinery.errors import CheckpointError, DataError, LostError, Stopped, StorageError, UserError
from machinery.files import shown, shown_command
from machinery.update.monitor import Monitor
from machinery.update.networks import check_alike, share_buffers

#: What gloo and NCCL say when a process does not answer.
_LOST = (
    r"Timed out waiting \d+ms|Application timeout|gloo.*?((?:Connection|Broken|Read) [a-z ]+)|NCCL"
)


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run: where they go.
        keep_last: how many epochs' files stay; None keeps all.
        newest: the file that the run goes on from, if it does.
    """

    def __init__(self, run: Run, keep_last: int | None, newest: Path | None) -> None:
        #: The file written or restored last is the newest.
        self.run, self.newest, self._keep_last = run, newest, keep_last

    def save(self, content: Content, due: bool, improved: bool) -> None:
        """Write the checkpoint of this moment if it is `due`, and the best if it `improved`.

        Raises:
            StorageError: it could not be written; the checkpoints that were there are as they were.
        """
        epoch, step = content["epoch"], content["progress"]["step"]
        path = self.run.folder / run_folder.checkpoint_name(epoch, step)
        distributed.from_main(lambda: self._write(content, path, due, improved))
        self.newest = path if due else self.run.folder / run_folder.BEST
        self.run.status("running", epoch=epoch, step=step)

    def _write(self, content: Content, path: Path, due: bool, improved: bool) -> None:
        folder, best = self.run.folder, self.run.folder / run_folder.BEST
        try:
            self.run.remake(content["config"])
            if due:
                checkpoint.save(content, path)
            if improved:
                checkpoint.copy(path, best) if due else checkpoint.save(content, best)
        except StorageError as error:
            needed = (
                sum(each.nbytes for each in tree_leaves(content) if isinstance(each, torch.Tensor))
                / 1e6
            )
            space = ""
            with contextlib.suppress(OSError):
                space = f", {shutil.disk_usage(folder).free / 1e6:.0f} MB free"
            intact = (
                f"{self.newest.name} is intact" if self.newest else "there is no earlier checkpoint"
            )
            raise StorageError(f"{error} (needs about {needed:.0f} MB{space}); {intact}") from error
        run_folder.prune(folder, self._keep_last)

    @contextlib.contextmanager
    def owned(self, place: Callable[[], dict[str, Any]]) -> Iterator[None]:
        """Own the run folder for the time of the training, and leave its outcome in status.json and info.log.

        Args:
            place: says where the run is.
        """
        try:
            yield
            self.run.status("finished", **place(), exit_code=0)
        except BaseException as error:
            error = self._advised(error)
            late = (
                distributed.SIZE > 1 and isinstance(error, LostError | Stopped) and self.run.begun
            )
            if late and self.run.state() == "failed":
                raise SystemExit(1) from error  # another process has failed, and said why
            stopped = isinstance(error, Stopped | KeyboardInterrupt)
            code = (
                error.exit_code if isinstance(error, UserError | Stopped) else 130 if stopped else 1
            )
            who = f"process {distributed.RANK}: " if distributed.RANK else ""
            message = who + (str(error) or type(error).__name__)
            fields = {"exit_code": code, "message": message}
            if code == 1 and not isinstance(error, UserError):
                frame = traceback.extract_tb(error.__traceback__)[-1]
                fields["at"] = f"{frame.filename}:{frame.lineno}"
                message = who + "".join(traceback.format_exception(error))
            if self.run.begun or not (self.run.folder / "config.json").exists():
                to_files(self.run.log_dir, message)
            with contextlib.suppress(UserError, OSError):
                self.run.status("stopped" if stopped else "failed", **place(), **fields)
            raise error from error.__cause__
        finally:
            self.run.close()

    def _advised(self, error: BaseException) -> BaseException:
        """An error about the data or another process, with what can be done."""
        if isinstance(
            error, SystemExit
        ):  # of the project's own code: nobody is to believe that all is well
            error = RuntimeError(f"sys.exit({error.code!r}) was called").with_traceback(
                error.__traceback__
            )
        lost = (
            re.search(_LOST, str(error))
            if distributed.SIZE > 1 and isinstance(error, RuntimeError)
            else None
        )
        if lost:
            why = lost[0].replace("Application timeout", "Timed out")
            error = LostError(
                f"another process is lost, or has kept this one waiting too long ({why})"
            )
            if why.startswith("T"):  # it would keep the launcher waiting, too
                distributed.end_others()
        if "Expected more than 1 value per channel" in str(error):
            hint = "a batch of one sample cannot pass BatchNorm: set data_loader.args.drop_last, or another batch_size"
            error = DataError(hint).with_traceback(error.__traceback__)
            if (
                self.newest is not None and "-step" in self.newest.name
            ):  # where neither can be changed
                return DataError("a batch of one sample cannot pass BatchNorm").with_traceback(
                    error.__traceback__
                )
        if isinstance(error, DataError):
            error.args = (f"{error}\n  {self.resume_hint()}",)
        return error

    def resume_hint(self, *options: str) -> str:
        """The line that says how to go on."""
        if self.newest is None or not self.run.stays:
            return "nothing had been saved yet" if self.run.stays else "nothing of it is kept"
        return f"resume: {shown_command('train.py', '-r', self.newest, *options)}"

    def skip_hint(self) -> str:
        """The line that says how to go on after a loss that was not finite: as it was, it would come again."""
        return self.resume_hint("--set", "trainer.on_nan=skip")

    def summary(
        self, monitor: Monitor, epochs: int, done: int, idle: bool, fixed_length: bool
    ) -> list[str]:
        """The last lines of a run: the best value, its file, and what to type next."""
        lines = []
        best = self.run.folder / run_folder.BEST
        keys = " and ".join(
            ["trainer.early_stop"] * monitor.exhausted + ["trainer.epochs"] * (done >= epochs)
        )
        open_ended = done < epochs or not fixed_length
        if idle:
            what = (
                f"; {'stopped early; ' * monitor.exhausted}raise {keys} to continue"
                if open_ended
                else ""
            )
            lines.append(f"nothing to do (epoch {done} of {epochs}){what}")
        has_best = monitor.best_epoch > 0 and _is_of(best, monitor.best_epoch)
        if has_best:
            lines.append(
                f"best {monitor.name} {monitor.best:.4f} in epoch {monitor.best_epoch}: {shown(best)}"
            )
        newest = best if has_best else self.newest
        if newest is not None:
            lines.append(f"test:     {shown_command('test.py', '-r', newest)}")
        if self.newest is not None and open_ended:
            more = ["--set", f"trainer.epochs={epochs if done < epochs else 2 * done}"]
            if monitor.exhausted:
                more += [
                    "--set",
                    f"trainer.early_stop={2 * max(int(monitor.patience), monitor.bad_epochs)}",
                ]
            lines.append(f"continue: {shown_command('train.py', '-r', self.newest, *more)}")
        return lines


def content_of(trainer: Any, step: int | None, finished: bool) -> Content:
    """Everything that a trainer needs to go on; of several processes, all have to ask.

    Args:
        step: batches done in an unfinished epoch; None after a finished one.
        finished: whether the run is at its end.
    """
    check_alike(networks(trainer))
    share_buffers(networks(trainer))
    held = held_by(trainer)
    progress: Any = {"step": step, "finished": finished, "lr": trainer.lr, **held.fixed}
    return {
        "format_version": checkpoint.FORMAT_VERSION,
        "arch": type(held.model).__name__,
        "epoch": trainer.epoch,
        # A DataParallel that the user put on keeps its prefix: the test.py that goes with it puts one on, too.
        "state_dict": (
            trainer.model if isinstance(trainer.model, nn.DataParallel) else held.model
        ).state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "monitor_best": trainer.monitor.best,
        "config": trainer.config.snapshot(),
        "progress": progress,
        "states": {
            name: state_of(part) for name, part in held.parts.items() if name != "optimizer"
        },
        "classes": {name: type(part).__name__ for name, part in held.parts.items()},
        "environment": trainer.config.run.environment,
    }


def take_over(run: Run, epoch: int, step: int | None, current: Path, best_epoch: int) -> None:
    """Make the run folder that of a run which stands here: later files aside, and the best the best so far.

    Args:
        epoch, step, current: the place of the checkpoint that has been restored, and its file.
        best_epoch: the best one's epoch; 0 if there is none.
    """
    logger, folder = logging.getLogger("checkpoint"), run.folder
    for name in run_folder.set_aside_later(folder, epoch, step):
        logger.warning(f"{name} is of a later time: renamed {name}.old")
    best = folder / run_folder.BEST
    if current == best or _is_of(best, best_epoch):
        return
    # The run was continued from before its best, or a kill came between an epoch's file and the best.
    if best.exists():
        best.replace(best.with_name(best.name + ".old"))
        logger.warning(
            f"{best.name} is not of epoch {best_epoch}, the best so far: renamed {best.name}.old"
        )
    source = folder / run_folder.checkpoint_name(best_epoch, None)
    if best_epoch and checkpoint.damage(source) is None:
        checkpoint.copy(source, best)


def _is_of(path: Path, epoch: int) -> bool:
    """Whether a file is a whole checkpoint of an epoch."""
    with contextlib.suppress(CheckpointError):
        return checkpoint.load(path, mmap=True)["epoch"] == epoch
    return False
