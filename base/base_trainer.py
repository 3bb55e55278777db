"""The epochs of a run: train, judge, report, save; resume where it stopped. What an epoch is, a subclass says."""

import contextlib
import dataclasses
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from base.base_data_loader import BaseDataLoader
from logger.logger import setup_logging
from logger.visualization import EpochTable, MetricsFile, TensorboardWriter, Writers
from machinery import distributed
from machinery.checkpoints import environment, file as checkpoint, restoring
from machinery.checkpoints.parts import held_by, networks
from machinery.checkpoints.saving import Checkpoints, content_of, take_over
from machinery.checks.settings import check_overrides, numbers_of
from machinery.errors import CheckpointError, ConfigError, NonFiniteError, UserError
from machinery.order import seeding
from machinery.order.batches import fingerprint
from machinery.stopping import StopRequest
from machinery.update.monitor import Monitor, check_finite
from machinery.update.networks import bring, connect
from machinery.update.runtime import first_tensor, unwrap

if TYPE_CHECKING:
    from parse_config import ConfigParser

Log = dict[str, float]


class BaseTrainer(ABC):
    """Runs the epochs; a subclass defines `_train_epoch`.

    Whatever attribute of the trainer has `state_dict` and `load_state_dict` (networks, optimizers, schedulers, also in
    lists and dicts) is saved in the checkpoints and restored when `train` starts.

    Args:
        model: the network; its weights are the checkpoint's `state_dict`.
        criterion: the loss.
        metric_ftns: the metrics, each with a `__name__`.
        optimizer: of the model.
        config: the parsed config.

    Raises:
        CheckpointError: the checkpoint to resume from is damaged or doesn't fit.
        ConfigError: another process owns the run folder.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any],
        metric_ftns: Sequence[Any],
        optimizer: torch.optim.Optimizer,
        config: "ConfigParser",
    ) -> None:
        check_overrides(type(self), BaseTrainer)
        saved, evaluating = config.launch.content(), config.launch.task == "evaluate"
        if not (config.settings.trainer.epochs or evaluating):
            raise ConfigError(f"{config.where('trainer')}: trainer.epochs is missing")
        if saved is not None:  # before the run folder is made
            restoring.check_weights(config, unwrap(model), saved)
        self.config = config
        self.settings = settings = config.settings.trainer
        self.logger: logging.Logger = config.get_logger("trainer", settings.verbosity)
        config.get_logger("checkpoint", settings.verbosity)
        self.model, self.criterion = model, criterion
        self.metric_ftns, self.optimizer = metric_ftns, optimizer
        self.device = next(
            (parameter.device for parameter in model.parameters()), torch.device("cpu")
        )
        self.epochs, self.seed = settings.epochs or 0, config.settings.seed
        self.monitor = Monitor(settings.monitor, settings.early_stop)
        #: The first epoch, that in hand, and how many of its batches are done.
        self.start_epoch, self.epoch, self.step = 1, 1, 0
        #: Whether the run had come to its end.
        self._ended = False
        self._samples = (
            0.0  # that the last epoch has trained on, in this process; 0 if nobody counts
        )
        #: The learning rate of the last update.
        self.lr = math.nan
        newest = config.resume if config.launch.task == "continue" else None
        self._checkpoints = Checkpoints(config.run, settings.keep_last, newest)
        self.stop = StopRequest(
            lambda: f" in epoch {self.epoch}, to be done again\n{self._checkpoints.resume_hint()}"
        )
        self.checkpoint_dir = config.run.folder
        self._metrics = MetricsFile(config.run.log_dir / "metrics.csv")
        enabled, best = (
            settings.tensorboard and not (evaluating or distributed.RANK),
            lambda: self.monitor.best_epoch,
        )
        self.writer = TensorboardWriter(
            config.run.log_dir, self.logger, enabled, config.flat(), best
        )
        #: Where the numbers go; a tracker of your own is added in train.py.
        table = EpochTable(self.logger, best, self.monitor.name)
        self.writers = Writers(*([] if distributed.RANK else [table, self._metrics, self.writer]))

    @abstractmethod
    def _train_epoch(self, epoch: int) -> Log:
        """Train one epoch, validate, step an epoch scheduler; return the log: one number for each name."""

    def batch_size_of(self, batch: Any) -> int:
        """How many samples (or tokens, or whatever the mean loss is over) a batch holds."""
        tensor = first_tensor(batch)
        if tensor is None:
            raise ConfigError(
                "a batch holds no tensor: let the trainer's batch_size_of(batch) say how large it is"
            )
        return tensor.shape[0]

    def train(self) -> None:
        """Run the epochs from where the run stands to the last, or until nothing improves any more."""
        with self.stop, self._checkpoints.owned(self._place), contextlib.closing(self.writers):
            epochs = self._start()
            connect(self)
            for epoch in epochs:
                started = time.perf_counter()
                log = self._run_epoch(epoch)
                self._check_monitored(epoch, log)
                improved = self.monitor.update(epoch, log)
                self._report(epoch, log, time.perf_counter() - started)
                finished = epoch == self.epochs or self.monitor.exhausted
                self._save_epoch(epoch, improved, finished)
                if self.monitor.exhausted:
                    self.logger.info(
                        f"early stop: {self.monitor.bad_epochs} epochs without improvement"
                    )
                if finished:
                    break
            self._finish(idle=not epochs)

    #: By their classic names: the best value so far, and whether the lowest ("min") or the highest ("max") is it.
    mnt_best = property(lambda self: self.monitor.best)
    mnt_mode = property(lambda self: self.monitor.mode)

    def _save_checkpoint(self, epoch: int, save_best: bool = False) -> None:
        """Save now, as after an epoch; nothing else calls it."""
        self.epoch = epoch
        self._save(None, improved=save_best)

    def _resume_checkpoint(self, resume_path: str | Path) -> None:
        """Go on from a checkpoint of this run; nothing else calls it."""
        launch = self.config.launch
        self.config.launch = dataclasses.replace(
            launch, task="continue", checkpoint=Path(resume_path), _content=None
        )
        self.restore()

    def restore(self) -> None:
        """Load the checkpoint that the config names, if any, and bring all networks to the device, as `train` does."""
        device = torch.device(self.device)  # a trainer of the user's own may have its name
        bring(networks(self), device)
        launch, run = self.config.launch, self.config.run
        data = fingerprint(getattr(getattr(self, "data_loader", None), "dataset", None))
        run.environment = run.environment or {**environment.describe(device), "data": data}
        saved = launch.content()
        if saved is None:
            return
        try:
            restoring.load(self.config, held_by(self), saved, run.environment)
        except UserError:
            raise
        except Exception as error:  # of a state that its owner cannot take
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise CheckpointError(f"{launch.checkpoint} cannot be restored: {reason}") from error
        if launch.task == "continue":
            self.logger.info(f"resuming from {launch.checkpoint}")
            step, batches = saved["progress"]["step"], getattr(self, "len_epoch", 0)
            if step and batches and step > batches:
                raise CheckpointError(
                    f"{launch.checkpoint} is {step} batches into an epoch of {batches}"
                )
            self.start_epoch, self.step, self.lr = (
                saved["epoch"] + (step is None),
                step or 0,
                saved["progress"]["lr"],
            )
            self._ended = saved["progress"]["finished"]
        launch.release()

    def _run_epoch(self, epoch: int) -> Log:
        """One epoch, from the randomness that belongs to its start."""
        self.epoch = epoch
        seeding.seed_everything(self.seed, "epoch", epoch, distributed.RANK)
        for loader in vars(self).values():
            if isinstance(loader, BaseDataLoader):
                loader.epoch = epoch  # for a loop of the user's own
        self.stop.agree()
        self._stop_if_asked()
        # Such a loop doesn't ask whether to stop, so there a signal ends the epoch at once.
        with self.stop.unpolled():
            log = self._train_epoch(epoch)
        self.stop.agree()
        self.step = 0
        return distributed.from_main(lambda: numbers_of(log, self.logger))

    def _check_monitored(self, epoch: int, log: Log) -> None:
        """Stop the run, and save nothing of this epoch, if the number that judges it is not finite."""
        value = log.get(self.monitor.name, 0.0)
        if self.monitor.on and self.settings.on_nan == "stop" and not math.isfinite(value):
            hint = self._checkpoints.skip_hint()
            raise NonFiniteError(
                f"{self.monitor.name} became {value} in epoch {epoch} (lr {self.lr:.3g})\n  {hint}"
            )

    def _start(self) -> range:
        """Restore a checkpoint, if the run has one; the epochs to train, of which there may be none."""
        run, launch = self.config.run, self.config.launch
        self.restore()
        self.epoch = max(self.start_epoch - (self.step == 0), 1)
        if launch.checking:
            self.epochs = min(self.epochs, self.start_epoch)
        # A run whose patience was at its end has nothing left to do.
        epochs = range(self.start_epoch, 0 if self.monitor.exhausted else self.epochs + 1)
        # A kill may have come between the last file and the end.
        if epochs or distributed.from_main(lambda: self._ended and run.state() != "finished"):
            setup_logging(run.log_dir)
            distributed.from_main(self._begin)
            run.begun = run.begun or time.monotonic()
        several = f", {distributed.SIZE} processes" * (distributed.SIZE > 1)
        self.logger.info(f"run folder: {self.checkpoint_dir}{several}")
        return epochs

    def _begin(self) -> None:
        """Make the run's files those of a run that stands here; what trains nothing leaves them as they are."""
        run, launch = self.config.run, self.config.launch
        run.sweep()
        if launch.task == "continue" and launch.checkpoint is not None:
            take_over(
                run, self.epoch, self.step or None, launch.checkpoint, self.monitor.best_epoch
            )
        run.begin(self.config.snapshot())
        environment.keep_changes(run.folder)
        if torch.device(self.device).type == "cpu" and environment.crowded():
            self.logger.info(environment.crowded())
        if not self.model.training:
            self.logger.warning(
                "the model is in evaluation mode, and trains in it: model.train() would change that"
            )
        self.writer.purge_step = (
            (self.start_epoch - 1) * getattr(self, "len_epoch", 0) + self.step + 1
        )
        if self._metrics.path.is_file():
            self._metrics.cut(self.start_epoch - 1)

    def _place(self) -> dict[str, Any]:
        best = {self.monitor.name: self.monitor.best, "epoch": self.monitor.best_epoch}
        return {
            "epoch": self.epoch,
            "step": self.step,
            **({"best": best} if self.monitor.best_epoch else {}),
        }

    def _report(self, epoch: int, log: Log, seconds: float) -> None:
        """The numbers of an epoch, for the table and all other writers."""
        lr = (
            self.lr
            if not math.isnan(self.lr)
            else float(self.optimizer.param_groups[0].get("lr", math.nan))
        )
        loader = getattr(self, "data_loader", None)
        samples = (
            self._samples
            or getattr(loader, "n_samples", None)
            or len(getattr(loader, "dataset", ()))
        )
        row = {
            "epoch": epoch,
            **log,
            "lr": lr,
            "seconds": round(seconds, 3),
            "samples/s": samples / max(seconds, 1e-9),
        }
        self.writers.log(row, epoch * getattr(self, "len_epoch", 1))
        if self.writer.enabled:
            self.writer.set_step(epoch * getattr(self, "len_epoch", 1))
            self._histograms()

    def _histograms(self) -> None:
        """The weights' histograms; constant, empty, huge or non-finite tensors have none."""
        for name, parameter in unwrap(self.model).named_parameters():
            if (
                1 < parameter.numel() <= 10_000_000
                and -math.inf < parameter.min() < parameter.max() < math.inf
            ):
                self.writer.add_histogram(f"weights/{name}", parameter.float(), bins=64)

    def _save(
        self, step: int | None, due: bool = True, improved: bool = False, finished: bool = False
    ) -> None:
        if due or improved:
            if self.settings.on_nan == "stop":
                check_finite(unwrap(self.model), self.epoch, self.lr, self._checkpoints.skip_hint())
            self._checkpoints.save(content_of(self, step, finished), due, improved)

    def _save_epoch(self, epoch: int, improved: bool, finished: bool) -> None:
        """Save a finished epoch as the period asks, always the best, the last and the one before a stop."""
        value = self.monitor
        if value.on and not value.best_epoch and finished:
            self.logger.warning(f"{value.name} was never finite: there is no model_best.pth")
        due = epoch % self.settings.save_period == 0 or finished or self.stop.signum is not None
        self._save(None, due, improved, finished)
        if self.stop.signum is not None and not finished:
            if not due:  # asked for while the best was being written
                self._save(None)
            raise self.stop.leave(f" after epoch {epoch}\n{self._checkpoints.resume_hint()}")

    def _save_step(self) -> None:
        """Save inside the epoch in hand, after `self.step` of its batches."""
        self._save(self.step)

    def _stop_if_asked(self) -> None:
        """Save and leave, if a signal has asked for it."""
        if self.stop.signum is not None:
            place = f" in epoch {self.epoch}, step {self.step}"
            if self.step:
                self._save_step()
            elif self.epoch > 1:  # nothing of this epoch is done yet
                self.epoch -= 1
                self._save(None)
            raise self.stop.leave(f"{place}\n{self._checkpoints.resume_hint()}")

    def _finish(self, idle: bool) -> None:
        """Say what came out and what to do with it."""
        if self.config.launch.checking:
            if (
                newest := self._checkpoints.newest
            ) is not None and not idle:  # read it back as a continued run would
                restoring.load(
                    self.config, held_by(self), checkpoint.load(newest), self.config.run.environment
                )
            done = "the run is at its end" if idle else "trained, validated, saved and read back"
            self.logger.info(f"check passed: {done}; nothing of it is kept")
            return
        # A scheduler made for so many steps cannot be stretched.
        fixed_length = any(hasattr(part, "total_steps") for part in held_by(self).parts.values())
        for line in self._checkpoints.summary(
            self.monitor, self.epochs, self.epoch, idle, fixed_length
        ):
            self.logger.info(line)
