"""The epochs of a run: train, judge, report, save; resume where it stopped. What an epoch is, a subclass says."""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from base.base_data_loader import BaseDataLoader
from base.checkpointing import Checkpoints
from base.monitor import Monitor
from logger.table import EpochTable
from logger.visualization import TensorboardWriter, histogram
from utils.errors import NonFiniteError
from utils.runtime import unwrap
from utils.seeding import seed_everything
from utils.stopping import StopRequest

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
        settings = config["trainer"]
        self.config = config
        self.logger: logging.Logger = config.get_logger("trainer", settings["verbosity"])
        self.model = model
        self.criterion = criterion
        self.metric_ftns = metric_ftns
        self.optimizer = optimizer
        self.epochs: int = settings["epochs"]
        self.save_period: int = settings["save_period"]
        self.seed: int = config["seed"]
        self.on_nan: str = settings["on_nan"]
        self.monitor = Monitor(settings["monitor"], settings["early_stop"])
        self.stop = StopRequest(
            lambda: f" in epoch {self.epoch}, which has to be done again\n{self._checkpoints.resume_hint()}"
        )
        self.start_epoch = 1
        #: The epoch in hand, and how many of its batches are done.
        self.epoch = 1
        self.step = 0
        #: The learning rate of the last update.
        self.lr = math.nan
        self._checkpoints = Checkpoints(config, model)
        if not config.evaluating:
            self.checkpoint_dir = config.save_dir
            self._table = EpochTable(config.log_dir / "metrics.csv", self.logger)
        self.writer = TensorboardWriter(
            config.log_dir if not config.evaluating else None,
            self.logger,
            settings["tensorboard"] and not config.evaluating,
        )

    @abstractmethod
    def _train_epoch(self, epoch: int) -> Log:
        """Train one epoch, validate, step an epoch scheduler; return the log: one number for each name."""

    def train(self) -> None:
        """Run the epochs from where the run stands to the last, or until nothing improves any more."""
        with self.stop, self._checkpoints.owned(self):
            self._start()
            # A run whose patience was at its end has nothing left to do.
            epochs = range(self.start_epoch, 0 if self.monitor.exhausted else self.epochs + 1)
            for epoch in epochs:
                started = time.perf_counter()
                log = self._run_epoch(epoch)
                self._check_monitored(epoch, log)
                improved = self.monitor.update(epoch, log)
                self._report(epoch, log, improved, time.perf_counter() - started)
                finished = epoch == self.epochs or self.monitor.exhausted
                self._save_epoch(epoch, improved, finished)
                if self.monitor.exhausted:
                    self.logger.info(f"early stop: {self.monitor.bad_epochs} epochs without improvement")
                if finished:
                    break
            self._finish(idle=not epochs)

    def restore(self) -> tuple[int, int, float]:
        """Load the checkpoint that the config names, if any; `train` does it by itself.

        Returns:
            the epoch to go on with, how many of its batches are done, and the last learning rate.
        """
        return self._checkpoints.restore(self)

    def _run_epoch(self, epoch: int) -> Log:
        """One epoch, from the randomness that belongs to its start."""
        self.epoch = epoch
        seed_everything(self.seed, "epoch", epoch, 0)
        for loader in vars(self).values():
            if isinstance(loader, BaseDataLoader):
                loader.to(torch.device(getattr(self, "device", "cpu"))).set_place(epoch)
        # A loop of the user's own doesn't ask whether to stop, so there a signal ends the epoch at once.
        self.stop.polled = False
        log = self._train_epoch(epoch)
        self.stop.polled = True
        self.step = 0
        return {name: float(value) for name, value in log.items()}

    def _check_monitored(self, epoch: int, log: Log) -> None:
        """Stop the run if the number that judges it is not finite.

        Raises:
            NonFiniteError: nothing of this epoch is saved.
        """
        value = log.get(self.monitor.name, 0.0)
        if self.monitor.on and self.on_nan == "stop" and not math.isfinite(value):
            hint = self._checkpoints.resume_hint()
            raise NonFiniteError(f"{self.monitor.name} became {value} in epoch {epoch} (lr {self.lr:.3g})\n  {hint}")

    def _start(self) -> None:
        """Restore a checkpoint, if the run has one, and say what is going to happen."""
        self.start_epoch, self.step, self.lr = self.restore()
        self._checkpoints.begin()
        self.epoch = max(self.start_epoch - (self.step == 0), 1)
        if self.config.checking:
            self.epochs = min(self.epochs, self.start_epoch)
        if self._table.path.exists():
            self._table.cut(self.start_epoch - 1)
            length = getattr(self, "len_epoch", 0)
            self.writer.purge_step = (self.start_epoch - 1) * length + self.step + 1
        else:
            self.writer.add_text("config", self.config.as_markdown())
        self.logger.info(f"run folder: {self.checkpoint_dir}")

    def _report(self, epoch: int, log: Log, improved: bool, seconds: float) -> None:
        """A row of the table, in the console and in metrics.csv, and the epoch's numbers for TensorBoard."""
        lr = self.lr if not math.isnan(self.lr) else float(self.optimizer.param_groups[0]["lr"])
        rate = self._samples_per_epoch() / max(seconds, 1e-9)
        self._table.add({"epoch": epoch, **log, "lr": lr, "seconds": round(seconds, 3), "samples/s": rate}, improved)
        self.writer.mode = ""
        self.writer.add_scalar("lr", lr)
        self.writer.add_scalar("samples_per_second", rate)
        if self.writer.enabled:
            self._histograms()

    def _samples_per_epoch(self) -> float:
        """How many training samples an epoch has, for the throughput."""
        loader = getattr(self, "data_loader", None)
        return float(getattr(loader, "n_samples", 0) or 0)

    def _histograms(self) -> None:
        """The weights' histograms; constant, empty, huge or non-finite tensors have none."""
        for name, parameter in unwrap(self.model).named_parameters():
            if 1 < parameter.numel() <= 10_000_000:
                counts = histogram(parameter)
                if counts is not None:
                    self.writer.add_histogram_raw(name, **counts)

    def _save_epoch(self, epoch: int, improved: bool, finished: bool) -> None:
        """Save a finished epoch as the period asks, always the best, the last and the one before a stop."""
        value = self.monitor
        if value.on and not value.best_epoch and finished:
            self.logger.warning(f"{value.name} was never finite: there is no model_best.pth")
        due = epoch % self.save_period == 0 or finished or self.stop.signum is not None
        self._checkpoints.save(self, epoch, None, due, improved, finished)
        if self.stop.signum is not None and not finished:
            if not due:  # asked for while the best was being written
                self._checkpoints.save(self, epoch, None, due=True, improved=False, finished=False)
            raise self.stop.leave(f" after epoch {epoch}\n{self._checkpoints.resume_hint()}")

    def _save_step(self) -> None:
        """Save inside the epoch in hand, after `self.step` of its batches."""
        self._checkpoints.save(self, self.epoch, self.step, due=True, improved=False, finished=False)

    def _stop_if_asked(self) -> None:
        """Save and leave, if a signal has asked for it."""
        if self.stop.signum is not None:
            self._save_step()
            raise self.stop.leave(f" in epoch {self.epoch}, step {self.step}\n{self._checkpoints.resume_hint()}")

    def _finish(self, idle: bool) -> None:
        """Say what came out and what to do with it."""
        if self.monitor.best_epoch:
            best = {f"best/{self.monitor.name}": self.monitor.best}
            self.writer.add_hparams(self.config.flat(), best, run_name=".")
        self.writer.close()
        if self.config.checking and not idle:
            self._checkpoints.read_back(self)
            self.logger.info("check passed: trained, validated, saved and read back; nothing of it is kept")
            return
        # A scheduler made for so many steps cannot be stretched.
        fixed_length = hasattr(getattr(self, "lr_scheduler", None), "total_steps")
        for line in self._checkpoints.summary(self.monitor, self.epochs, self.epoch, idle, fixed_length):
            self.logger.info(line)
