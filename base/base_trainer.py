"""The epochs of a run: train, judge, report, save; resume where it stopped.

What an epoch is, a subclass says.
"""

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from logger.logger import setup_logging, to_files
from logger.visualization import EpochTable, MetricsFile, TensorboardWriter, Writers, row_of_epoch
from machinery import distributed
from machinery.checkpoints import environment, outcome, parts, saving
from machinery.checkpoints.saving import Checkpoints
from machinery.checkpoints.starts import Position
from machinery.checks.methods import check_overrides
from machinery.checks.networks import warn_of_networks
from machinery.checks.own_values import OwnValues
from machinery.errors import ConfigError, NonFiniteError
from machinery.order import seeding, split
from machinery.order.outstanding import OUTSTANDING, first_tensor
from machinery.stopping import StopRequest
from machinery.update import networks, together
from machinery.update.runtime import learning_rate, unwrap
from machinery.update.watching import ClassicNames, Monitor, numbers_of
from parse_config import ConfigParser

Log = dict[str, float]


class BaseTrainer(ClassicNames, ABC):
    """Runs the epochs; a subclass defines `_train_epoch`.

    Whatever attribute of the trainer has `state_dict` and `load_state_dict` (networks, optimizers,
    schedulers, also in lists and dicts) is saved in the checkpoints and restored when `train`
    starts.

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

    #: The average of the weights that is judged in their place, if `trainer.ema` asks for one.
    ema: networks.Average | None = None
    # What a subclass may have; these are for one that has not.
    data_loader: Any = None
    valid_data_loader: Any = None
    lr_scheduler: Any = None
    #: Batches in an epoch; 0: nobody knows.
    len_epoch: int = 0
    #: Batches in an update.
    accumulate: int = 1
    # Whether its losses are weighted by what their batches count for, on several processes.
    _weighs_losses: bool = False
    # Whether the weights are what `step` batches of the epoch have made of them.
    _whole: bool = False
    # Batches done before the epoch in hand, and how many it had when it was interrupted.
    _before: int = 0
    _interrupted: int | None = None

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any],
        metric_ftns: Sequence[Any],
        optimizer: Optimizer,
        config: ConfigParser,
    ) -> None:
        check_overrides(type(self), BaseTrainer, config)
        settings = config.settings.trainer
        if settings.epochs is None and config.launch.trains:
            raise ConfigError(f"{config.where('trainer')}: trainer.epochs is missing")
        start = config.launch.start(config.checked)
        start.check_model(unwrap(model))  # before the run folder is made
        self.config = config
        self.settings = settings
        self.logger = config.get_logger("trainer", settings.verbosity)
        self.model = model
        self.criterion = criterion
        self.metric_ftns = metric_ftns
        self.optimizer = optimizer
        self.device = networks.device_for(model, signature(type(self)).parameters, config.checked)
        self.epochs = settings.epochs or 0
        self.seed = config.settings.seed
        self.monitor = Monitor.asked_by(config.checked)
        #: The first epoch, that in hand, and how many of its batches are done.
        self.start_epoch = 1
        self.epoch = 1
        self.step = 0
        #: The learning rate of the last update.
        self.lr = math.nan
        # Samples that the last epoch has trained on, in this process; 0 if nobody counts.
        self._samples = 0.0
        # Whether the run had come to its end.
        self._ended = False
        launch = config.launch
        self._checkpoints = Checkpoints(config.run, settings, launch.typed, launch.goes_on_from)
        self.checkpoint_dir = config.run.folder
        self.stop = StopRequest(self._dropped)
        self._make_writers()
        self._own = OwnValues({*vars(self), *dir(BaseTrainer)})

    def _make_writers(self) -> None:
        """Where the numbers go; a tracker of your own is added in train.py."""
        log_dir = self.config.run.log_dir
        enabled = self.settings.tensorboard and self.config.launch.trains
        self.writer = TensorboardWriter(
            log_dir, self.logger, enabled, self.config.flat(), self._best_epoch
        )
        self._metrics = MetricsFile(log_dir / "metrics.csv")
        table = EpochTable(self.logger, self._best_epoch, self.monitor.name)
        self.writers = Writers(table, self._metrics, self.writer)

    @abstractmethod
    def _train_epoch(self, epoch: int) -> Log:
        """Train one epoch, validate, step an epoch scheduler; return the log: numbers by name."""

    def batch_size_of(self, batch: Any) -> int:
        """How many samples (or tokens, or whatever the mean loss is over) a batch holds."""
        tensor = first_tensor(batch)
        if tensor is None:
            hint = "let the trainer's batch_size_of(batch) say how large it is"
            raise ConfigError(f"a batch holds no tensor: {hint}")
        return tensor.shape[0]

    def _networks(self) -> list[nn.Module]:
        """The networks among the attributes, the loss and the metrics if they are some."""
        return parts.networks_in(vars(self))

    def _held(self) -> parts.Held:
        """What the checkpoints hold of this trainer."""
        return parts.held(vars(self), self.model, self.metric_ftns, self._fixed)

    @cached_property
    def _fixed(self) -> dict[str, Any]:
        """As it is at the start: data may change from epoch to epoch."""
        return parts.fixed_facts(
            self.data_loader, self.config, self.accumulate, self.len_epoch, self.metric_ftns
        )

    @property
    def batches_done(self) -> int:
        """Batches done since the run began."""
        return self._before + self.step

    @property
    def history(self) -> Any:
        """The numbers of all epochs so far, a pandas DataFrame with a row for each."""
        return self._metrics.history()

    def train(self) -> None:
        """Run the epochs from where the run stands to the last, or until nothing improves."""
        owned = outcome.owned(self._checkpoints, self._position, self._save_whole, to_files)
        with self.stop, owned, contextlib.closing(self.writers):
            epochs = self._start()
            self._connect()
            self._own.begin(vars(self))
            for epoch in epochs:
                started = time.perf_counter()
                log = self._run_epoch(epoch)
                spoilt = self.monitor.not_finite(epoch, log, self._rate())
                improved = self.monitor.update(epoch, log)
                self._report(epoch, log, time.perf_counter() - started)
                late = self.stop.is_late
                finished = epoch == self.epochs or self.monitor.exhausted or late
                self._save_epoch(epoch, improved, finished, spoilt)
                if self.monitor.exhausted:
                    without = f"{self.monitor.bad_epochs} epochs without improvement"
                    self.logger.info(f"early stop: {without}")
                if late:
                    self.logger.info(f"trainer.max_time {self.settings.max_time} is over")
                if finished:
                    break
            self._finish(idle=not epochs)

    def _best_epoch(self) -> int:
        return self.monitor.best_epoch

    def restore(self) -> None:
        """Load the checkpoint that the config names, if any; bring all networks to the device."""
        device = torch.device(self.device)  # a trainer of the user's own may have its name
        networks.bring(self._networks(), device)
        launch, run = self.config.launch, self.config.run
        if not run.environment:
            dataset = getattr(self.data_loader, "dataset", None)
            run.made_of(environment.describe(device, dataset))
        if self.ema is None and self.settings.ema is not None:
            only_finite = self.settings.on_nan == "ignore"
            self.ema = networks.Average(self.model, self.settings.ema, only_finite)
            self.ema.follow(self.optimizer)
        start = launch.start(self.config.checked)
        position = self._checkpoints.restore(start, self._held())
        if position is not None:
            self.logger.info(f"resuming from {launch.checkpoint}")
            self._go_on_from(position)
        if self.ema is not None and not launch.trains:
            self.ema.replace()
        launch.release()

    def _go_on_from(self, position: Position) -> None:
        """Stand where a checkpoint was saved."""
        self.lr = position.lr
        self._before = position.before
        self._interrupted = position.batches
        self._ended = position.finished
        self.config.run.seconds_before = position.seconds
        self.epoch = position.epoch
        self.start_epoch = position.epoch
        if position.step is None:
            self.start_epoch += 1
        else:
            self.step = position.step

    def _start(self) -> range:
        """Restore a checkpoint, if the run has one; the epochs to train, perhaps none."""
        run = self.config.run
        self.restore()
        if self.config.launch.checking:
            self.epochs = min(self.epochs, self.start_epoch)
        epochs = range(self.start_epoch, self.epochs + 1)
        left = math.inf
        if self.settings.max_seconds is not None:
            left = self.settings.max_seconds - run.seconds
        if self.monitor.exhausted or left <= 0:  # nothing is left to do but the end of an epoch
            epochs = epochs[: int(self.step > 0)]
        if epochs or distributed.from_main(self._end_was_lost):
            setup_logging(run.log_dir)
            distributed.from_main(self._begin)
            run.start_clock()
        self.stop.allow(left)
        self.logger.info(outcome.whereabouts(run))
        return epochs

    def _end_was_lost(self) -> bool:
        """Whether a kill came between the last file and the end of the run."""
        return self._ended and self.config.run.state() != "finished"

    def _begin(self) -> None:
        """Make the run's files those of a run that stands here; what trains nothing leaves them."""
        run, launch = self.config.run, self.config.launch
        run.sweep()
        if launch.continues and launch.checkpoint is not None:
            best = self.monitor.best_epoch
            saving.take_over(run, self.epoch, self.step, launch.checkpoint, best)
        run.begin(self.config.snapshot())
        environment.keep_changes(run.folder)
        if torch.device(self.device).type == "cpu":
            environment.advise(self.logger)
        warn_of_networks(self.model, self.criterion, self._held().optimizers, self.logger)
        self.writer.continue_from(self.batches_done + 1)
        self._metrics.cut(self.start_epoch - 1)

    def _connect(self) -> None:
        """Let several processes have the same weights."""
        weigh = None
        if not self._weighs_losses:
            weigh = OUTSTANDING.learnt
        optimizers = self._held().optimizers
        together.connect(self._networks(), optimizers, weigh, self.settings.strategy)
        self._checkpoints.begin(self.stop.ask)

    def _run_epoch(self, epoch: int) -> Log:
        """One epoch, from the randomness that belongs to its start."""
        self.epoch = epoch
        seeding.seed_everything(self.seed, "epoch", epoch, distributed.rank())
        self.stop.agree()
        if self.stop.signum is not None:
            self._leave()
        parts.begin_epoch(vars(self), epoch)
        self._own.begin_epoch(self._held())
        with_modes = self._held().with_modes
        networks.begin_in_training(with_modes, self.step)
        # Such a loop doesn't ask whether to stop, so there a signal ends the epoch at once.
        with self.stop.unpolled():
            log = self._train_epoch(epoch)
        for optimizer in with_modes:
            optimizer.eval()
        self.stop.agree()
        self._before += self.step or max(self.len_epoch, 1)
        self._interrupted = None
        self.step = 0
        return distributed.from_main(lambda: numbers_of(log, self.logger))

    def _dropped(self) -> str:
        """What is lost when a signal ends an epoch at once."""
        hint = self._checkpoints.resume_hint()
        return f" in epoch {self.epoch}, to be done again\n{hint}"

    def _position(self) -> dict[str, Any]:
        """Where the run stands, for status.json."""
        return {"epoch": self.epoch, "step": self.step, **self.monitor.judgement()}

    def _rate(self) -> float:
        """The learning rate; a loop of its own doesn't note that of its updates."""
        if math.isnan(self.lr):
            return learning_rate(self.optimizer)
        return self.lr

    def _report(self, epoch: int, log: Log, seconds: float) -> None:
        """The numbers of an epoch, for the table and all other writers."""
        lr = self._rate()
        samples = self._samples or split.samples_in(self.data_loader)
        self.writers.log(row_of_epoch(epoch, log, lr, seconds, samples), self.batches_done)
        self.writer.set_step(self.batches_done)
        self.writer.add_weights(unwrap(self.model))

    def _save(
        self, step: int | None, due: bool = True, improved: bool = False, finished: bool = False
    ) -> None:
        """Write the checkpoint of this moment if it is `due`, and the best if it `improved`.

        Args:
            step: batches done in an unfinished epoch; None after a finished one.
            finished: the run is at its end.
        """
        if not (due or improved):
            return
        held = self._held()
        place = (self.epoch, step, self.lr, finished, self._before, self.len_epoch)
        position = Position(*place, self.config.run.seconds)
        self._checkpoints.check(held, position, self.settings.on_nan)
        self._own.warn(vars(self), inside=step is not None)
        together.agree(self._networks())
        best, config = self.monitor.best, self.config.snapshot()
        self._checkpoints.save(self.model, held, position, best, config, due, improved)

    def _save_epoch(self, epoch: int, improved: bool, finished: bool, spoilt: str = "") -> None:
        """Save a finished epoch as the period asks, always the best, the last and before a stop.

        Args:
            spoilt: why the run ends here, though the weights are whole; "" if it doesn't.
        """
        monitor = self.monitor
        if finished and monitor.on and not monitor.best_epoch:
            self.logger.warning(f"{monitor.name} was never finite: there is no model_best.pth")
        asked = self.stop.signum is not None
        due = epoch % self.settings.save_period == 0 or finished or asked
        if spoilt:
            due = True
        self._save(None, due, improved, finished)
        if spoilt:
            raise NonFiniteError(f"{spoilt}\n  {self._checkpoints.skip_hint()}")
        if self.stop.signum is None or finished:
            return
        if not due:  # asked for while the best was being written
            self._save(None)
        raise self.stop.leave(f" after epoch {epoch}\n{self._checkpoints.resume_hint()}")

    def _save_step(self) -> None:
        """Save inside the epoch in hand, after `self.step` of its batches."""
        self._save(self.step)

    def _save_whole(self) -> None:
        """Save what an error has left that came between two updates."""
        if self._whole and self.step:
            self._save_step()

    def _leave(self) -> None:
        """Save and leave: a signal has asked for it."""
        where = f" in epoch {self.epoch}, step {self.step}"
        if self.step:
            self._save_step()
        elif self.epoch > 1:  # nothing of this epoch is done yet
            self.epoch -= 1
            self._save(None)
        raise self.stop.leave(f"{where}\n{self._checkpoints.resume_hint()}")

    def _finish(self, idle: bool) -> None:
        """Say what came out and what to do with it."""
        if self.config.launch.checking:
            self.logger.info(outcome.checked(self._checkpoints, self.config, self._held(), idle))
            return
        time_left = (self.settings.max_time or "", self.stop.is_late, self.config.run.seconds)
        goal = outcome.Goal(self.epochs, *time_left)
        args = (self.monitor, self._held(), goal, self.epoch, idle)
        for line in outcome.summary(self._checkpoints, *args):
            self.logger.info(line)
