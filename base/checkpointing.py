"""What a checkpoint holds of a trainer, when it is written, and what else a run leaves in its folder."""

import contextlib
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from base.monitor import Monitor
from base.restoring import check_weights, fixed, load_all, load_weights, stateful, take_over
from utils import checkpoint, environment, run_folder
from utils.errors import DataError, NonFiniteError, Stopped, StorageError, UserError
from utils.files import write_json
from utils.runtime import unwrap

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer
    from parse_config import ConfigParser


class Checkpoints:
    """The checkpoints of one run.

    Args:
        config: says where the run's folder is, and which checkpoint to start from.
        model: the network that the weights are for.

    Raises:
        CheckpointError: the checkpoint to start from is damaged or does not fit the model.
    """

    def __init__(self, config: "ConfigParser", model: nn.Module) -> None:
        self.config = config
        self.logger = config.get_logger("checkpoint", config["trainer"]["verbosity"])
        self._state: dict[str, Any] | None = config.take_checkpoint()
        #: Once: asking git takes milliseconds, and the code that runs is that of the start.
        self._environment = {} if config.evaluating else environment.describe(_device(model))
        self._newest: Path | None = config.resume if self._state and not config.fine_tune else None
        #: Whether the run has taken its folder over: a resume that is refused leaves it as it was.
        self._begun = False
        #: The files that this process has verified.
        self._whole: set[Path] = set()
        if self._state is not None:
            check_weights(config, unwrap(model), self._state)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.config.save_dir

    def restore(self, trainer: "BaseTrainer") -> tuple[int, int, float]:
        """Load the checkpoint into the trainer and its parts.

        Returns:
            the epoch to go on with, how many of its batches are done, and the last learning rate.

        Raises:
            CheckpointError: a part does not fit; nothing has been loaded then.
        """
        state, self._state = self._state, None
        if state is None:
            return 1, 0, math.nan
        if self.config.fine_tune:
            load_weights(trainer, state)
            return 1, 0, math.nan
        load_all(trainer, state)
        if self.config.evaluating:
            return 1, 0, math.nan
        take_over(trainer, state)
        step = state["progress"]["step"]
        return state["epoch"] + (step is None), step or 0, state["progress"]["lr"]

    def state_of(self, trainer: "BaseTrainer", epoch: int, step: int | None, finished: bool) -> dict[str, Any]:
        """Everything that a run needs to go on, as plain data."""
        parts = stateful(trainer)
        return {
            "format_version": checkpoint.FORMAT_VERSION,
            "arch": type(unwrap(trainer.model)).__name__,
            "epoch": epoch,
            "state_dict": unwrap(trainer.model).state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "monitor_best": trainer.monitor.best,
            "config": self.config.config,
            "progress": {"step": step, "finished": finished, "lr": trainer.lr, **fixed(trainer)},
            "states": {name: part.state_dict() for name, part in parts.items() if name != "optimizer"},
            "classes": {name: type(part).__name__ for name, part in parts.items()},
            "environment": self._environment,
        }

    def save(
        self, trainer: "BaseTrainer", epoch: int, step: int | None, due: bool, improved: bool, finished: bool
    ) -> None:
        """Write the checkpoint of this moment if it is `due`, and the best if it `improved`.

        Raises:
            StorageError: it could not be written; the checkpoints that were there are as they were.
        """
        if not due and not improved:
            return
        if trainer.on_nan == "stop":
            self._check_weights(trainer)
        state = self.state_of(trainer, epoch, step, finished)
        path = self.folder / run_folder.checkpoint_name(epoch, step)
        best = self.folder / run_folder.BEST
        try:
            self._remake()
            if due:
                checkpoint.save(state, path)
                self._newest = path
                self._whole.add(path)
            if improved:
                checkpoint.copy(path, best) if due else checkpoint.save(state, best)
        except StorageError as error:
            raise StorageError(f"{error}{self._safe(state)}") from error
        run_folder.prune(self.folder, self.config["trainer"]["keep_last"], self._whole)
        self._status("running", epoch=epoch, step=step)

    def _check_weights(self, trainer: "BaseTrainer") -> None:
        """A finite loss can have gradients that are not: look at the weights before they become a file."""
        named = dict(unwrap(trainer.model).named_parameters())
        sums = [parameter.detach().sum(dtype=torch.float32) for parameter in named.values()]
        if not sums or bool(torch.isfinite(torch.stack(sums).sum())):
            return
        bad = [name for name, parameter in named.items() if not bool(torch.isfinite(parameter).all())]
        if bad:
            names = ", ".join(bad[:3]) + (", …" if bad[3:] else "")
            raise NonFiniteError(
                f"weights became NaN or infinite by epoch {trainer.epoch} (lr {float(trainer.lr):.3g}): {names}\n"
                f"  {self.resume_hint()}"
            )

    def read_back(self, trainer: "BaseTrainer") -> None:
        """Restore the checkpoint written last into the trainer, as a continued run would.

        Raises:
            CheckpointError: it does not fit.
        """
        if self._newest is not None:
            load_all(trainer, checkpoint.load(self._newest))

    def _safe(self, state: dict[str, Any]) -> str:
        """How much space was wanted, and what is intact, for an error message."""
        needed = checkpoint.size_of(state) / 1e6
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.folder).free / 1e6
            intact = f"; {self._newest.name} is intact" if self._newest else "; there is no earlier checkpoint"
            return f" (needs about {needed:.0f} MB, {free:.0f} MB free){intact}"
        return ""

    @contextlib.contextmanager
    def owned(self, trainer: "BaseTrainer") -> Iterator[None]:
        """Own the run folder for the time of the training, and leave its outcome in status.json."""
        try:
            run_folder.sweep(self.folder)
            self._preflight(trainer)
            yield
            self._status("finished", epoch=trainer.epoch, exit_code=0)
        except BaseException as error:
            stopped = isinstance(error, Stopped | KeyboardInterrupt)
            code = error.exit_code if isinstance(error, UserError | Stopped) else 130 if stopped else 1
            if self._begun:
                with contextlib.suppress(UserError, OSError):
                    self._status(
                        "stopped" if stopped else "failed",
                        epoch=trainer.epoch,
                        step=trainer.step,
                        exit_code=code,
                        message=str(error) or type(error).__name__,
                    )
            trainer.writer.close()
            if "Expected more than 1 value per channel" in str(error):
                raise DataError(
                    "a batch of one sample cannot pass BatchNorm: set data_loader.args.drop_last, or another "
                    f"batch_size\n  {self.resume_hint()}"
                ) from error
            if isinstance(error, DataError):
                raise DataError(f"{error}\n  {self.resume_hint()}") from error
            raise
        finally:
            if self.config.lock is not None:
                self.config.lock.close()

    def begin(self) -> None:
        """Describe the run in its folder, now that nothing stands in its way."""
        self._begun = True
        write_json(self.config.config, self.folder / "config.json")
        write_json(self._environment, self.folder / "environment.json")
        self._status("running")

    def _preflight(self, trainer: "BaseTrainer") -> None:
        """Refuse to start where two checkpoints don't fit: the next one is written before an old one goes."""
        state = {"model": unwrap(trainer.model).state_dict(), "optimizer": trainer.optimizer.state_dict()}
        needed = 2 * checkpoint.size_of(state)
        with contextlib.suppress(OSError):
            free = shutil.disk_usage(self.folder).free
            if free < needed:
                raise StorageError(
                    f"{self.folder} has {free / 1e6:.0f} MB free, and two checkpoints take {needed / 1e6:.0f} MB: "
                    "make room, or set trainer.save_dir"
                )

    def _remake(self) -> None:
        """Make the run folder again if somebody has removed it."""
        if not self.folder.exists():
            self.logger.warning(f"{self.folder} is gone: making it again")
            write_json(self.config.config, self.folder / "config.json")
            write_json(self._environment, self.folder / "environment.json")

    def _status(self, state: str, **fields: Any) -> None:
        write_json(
            {"state": state, **fields, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}, self.folder / "status.json"
        )

    def resume_hint(self) -> str:
        """The line that says how to go on."""
        if self._newest is None:
            return "nothing had been saved yet"
        return f"resume: python train.py -r {_shown(self._newest)}"

    def summary(self, monitor: Monitor, epochs: int, done: int, idle: bool, fixed_length: bool) -> list[str]:
        """The last lines of a run: the best value, its file, and what to type next."""
        lines = []
        best = self.folder / run_folder.BEST
        early = monitor.exhausted and done < epochs
        if idle:
            what = "stopped early; raise trainer.early_stop" if early else "raise trainer.epochs"
            lines.append(f"nothing to do (epoch {done} of {epochs}); {what} to continue")
        if monitor.best_epoch:
            lines.append(f"best {monitor.name} {monitor.best:.4f} in epoch {monitor.best_epoch}: {_shown(best)}")
        newest = best if monitor.best_epoch else self._newest
        if newest is not None:
            lines.append(f"test:     python test.py -r {_shown(newest)}")
        if self._newest is not None and (early or not fixed_length):
            more = f"early_stop={2 * int(monitor.patience)}" if early else f"epochs={2 * max(done, epochs)}"
            lines.append(f"continue: python train.py -r {_shown(self._newest)} --set trainer.{more}")
        return lines


def _device(model: nn.Module) -> torch.device | None:
    parameter = next(model.parameters(), None)
    return None if parameter is None else parameter.device


def _shown(path: Path) -> str:
    """A path as a person types it: relative to the current folder where it is below."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)
