"""The batches of an epoch: change here what an update or an evaluation does.

Most tasks need one method of their own: `_forward`, which says what a batch means. Where an update is more than one
step of one optimizer (a GAN), there is `_update`.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from base.base_data_loader import BaseDataLoader, one_pass, training_batches
from base.base_trainer import BaseTrainer, Log
from logger.progress import Progress
from machinery import distributed
from machinery.checkpoints.parts import networks
from machinery.checks.layer_table import watch
from machinery.checks.settings import (
    check_loss,
    check_parts,
    check_processes,
    check_settings,
    warn_of_loss,
)
from machinery.errors import ConfigError
from machinery.update.group import Group
from machinery.update.metrics import MetricTracker
from machinery.update.monitor import LossWatch
from machinery.update.networks import evaluating, keep_buffers, share_buffers, to_training
from machinery.update.runtime import Runtime

if TYPE_CHECKING:
    from parse_config import ConfigParser


class Trainer(BaseTrainer):
    """Trains a network on batches of (data, target).

    Args:
        model, criterion, metric_ftns, optimizer, config: as in `BaseTrainer`.
        device: where the model is.
        data_loader, valid_data_loader: batches to train on, and to judge by; any iterables, the first with a length.
        lr_scheduler: steps as `lr_scheduler.interval` of the config says.
        len_epoch: batches in an epoch; by default `trainer.len_epoch`, else a pass over the data.
    """

    #: The names of the loss terms that `_forward` returns; the first is minimised.
    loss_terms: Sequence[str] = ("loss",)

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any],
        metric_ftns: Sequence[Any],
        optimizer: torch.optim.Optimizer,
        config: "ConfigParser",
        device: torch.device,
        data_loader: Any = None,
        valid_data_loader: Any = None,
        lr_scheduler: Any = None,
        len_epoch: int | None = None,
    ) -> None:
        settings = config.settings.trainer
        names = [*self.loss_terms, *(metric.__name__ for metric in metric_ftns)]
        self.len_epoch = (
            len_epoch or settings.len_epoch or (0 if data_loader is None else len(data_loader))
        )
        check_parts(type(self), Trainer, criterion, optimizer)
        if config.launch.task != "evaluate":  # before the run folder is made
            check_settings(config, names, valid_data_loader is not None, self.len_epoch)
            check_processes(
                model, data_loader, metric_ftns, settings.sync_batchnorm and device.type != "cpu"
            )
        super().__init__(model, criterion, metric_ftns, optimizer, config)
        self.device = device
        self.data_loader, self.valid_data_loader, self.lr_scheduler = (
            data_loader,
            valid_data_loader,
            lr_scheduler,
        )
        if lr_scheduler is not None:
            # Their order is fixed below; torch's check cries wolf after a resume, and where fp16 skips the first step.
            optimizer._opt_called = True  # type: ignore[attr-defined]
        self.interval = (
            config.settings.lr_scheduler.interval if config.settings.lr_scheduler else "epoch"
        )
        self.accumulate, self.log_step, self.save_step = (
            settings.accumulate,
            settings.log_step,
            settings.save_step,
        )
        self.runtime = Runtime(device, settings)
        self.model = self.runtime.prepare(model, config.launch.task != "evaluate")
        objects = (metric for metric in metric_ftns if hasattr(metric, "compute"))
        self._objects = tuple(
            metric.to(device) if isinstance(metric, nn.Module) else metric for metric in objects
        )
        self._functions = tuple(metric for metric in metric_ftns if not hasattr(metric, "compute"))
        averaged = [*self.loss_terms, *(metric.__name__ for metric in self._functions)]
        self.train_metrics = MetricTracker(*averaged, objects=self._objects)
        self.valid_metrics = MetricTracker(*averaged, objects=self._objects)
        self._watch, self._progress, self._group = LossWatch(settings.on_nan), Progress(), Group()
        self._new = (
            config.launch.task != "continue" or config.launch.checking
        )  # no batch has been seen yet
        self._layers: Callable[[], str] | None = (
            None  # gives their table, once they have seen a batch
        )

    def _train_epoch(self, epoch: int) -> Log:
        """Train one epoch, validate, step an epoch scheduler; return the averages over all samples."""
        to_training(networks(self))
        for batches in self._groups(epoch):
            self._update(batches)
            self._after_update(len(batches))
        self._log_window()
        log = self.train_metrics.result()
        self._samples += self.train_metrics.count(self.loss_terms[0])
        if self.valid_data_loader is not None:
            with evaluating(networks(self)):
                log.update(
                    {f"val_{name}": value for name, value in self._valid_epoch(epoch).items()}
                )
        log = distributed.from_main(lambda: log)
        self._schedule("epoch", log)
        return log

    def _groups(self, epoch: int) -> Iterator[list[Any]]:
        """The epoch's batches from where the run stands, in groups of `accumulate`: one group an update."""
        self.stop.polled()  # `_after_update` asks
        if self.step == 0:
            self.train_metrics.reset()
        self._watch.start(self.step)
        self._samples = -self.train_metrics.count(self.loss_terms[0])  # those of an earlier process
        self._layers = watch(self.model) if epoch == self.start_epoch else None
        done = (epoch - 1) * self.len_epoch + self.step
        self.writer.set_step(done)
        # Several processes find out in the second update that a parameter is not used.
        tried = (
            self.accumulate * min(distributed.SIZE, 2)
            if self.config.launch.checking
            else self.len_epoch
        )
        last = done + min(tried, self.len_epoch - self.step)
        batches = self.stop.until(training_batches(self.data_loader, done, last, self.seed))
        label, hidden = f"epoch {epoch}/{self.epochs}", True if distributed.RANK else None
        self._progress = Progress(label, self.step, self.len_epoch, -self._samples, hidden)
        with contextlib.closing(self._progress):
            while True:
                group = list(islice(batches, self.accumulate))
                self._stop_if_asked()
                if not group:
                    return
                self._group = self._grouped(group, done)
                done += len(group)
                yield group
                self._progress.update(len(group))

    def _update(self, batches: Sequence[Any]) -> None:
        """One optimizer step on a group of batches, as if they were one large batch."""
        if batches is not self._group.batches:  # of an `_update` of the user's own
            self._group = self._grouped(batches)
        group, losses, seen = self._group, list[torch.Tensor](), []
        # An update that is skipped must leave no trace, also in the averages and in the buffers of BatchNorm.
        may_skip = self._watch.policy == "skip"
        tracker = None if may_skip else self.train_metrics
        put_back = keep_buffers(networks(self) if may_skip else [])
        for k, (batch, n) in enumerate(zip(batches, group.sizes, strict=True)):
            with self.runtime.unsynced(k + 1 < len(batches)):
                terms, output, target = self._compute(batch, tracker, n)
                loss = check_loss(terms[self.loss_terms[0]])
                # Weighted by samples, so that a smaller last batch counts for what it holds.
                share = group.share(k)
                self.runtime.backward(loss if share == 1 else loss * share)
            losses.append(loss.detach())
            if may_skip:
                # Some terms may be parts of a weight, which the step will change.
                seen.append(
                    (
                        {k: v.clone() if hasattr(v, "clone") else v for k, v in terms.items()},
                        output,
                        target,
                        n,
                    )
                )
        if self._new and type(self)._forward is Trainer._forward:
            warn_of_loss(self.criterion, output, target)
        self._new = False
        if not self._apply(self.optimizer, losses):
            put_back()
        for batch_seen in seen if may_skip and not self._watch.skipped else ():
            with self.runtime.autocast():
                self._record(self.train_metrics, *batch_seen)
        self._schedule("step", {})

    def _compute(
        self, batch: Any, tracker: MetricTracker | None, n: float | None = None
    ) -> tuple[Any, Any, Any]:
        """The loss terms (a dict), output and target of a batch, computed on the device and in the run's precision.

        Updates and evaluations go through here, also those of your own.

        Args:
            tracker: gets the loss terms and metrics, if given.
            n: how many samples the batch holds, where that is known already.
        """
        n = self.batch_size_of(batch) if n is None else n
        together = distributed.SIZE > 1 and torch.is_grad_enabled()
        k = self._group.index(batch, n) if together else None
        n = n if k is None else self._group.sizes[k]
        batch = self.runtime.move(batch)
        with self.runtime.autocast():
            terms, output, target = self._forward(batch)
            if not isinstance(terms, dict):
                terms = {self.loss_terms[0]: terms}
            if tracker is not None:
                self._record(tracker, terms, output, target, n)
        if together:
            self.runtime.weight = self._group.weight(k)
        return terms, output, target

    def _forward(self, batch: Any) -> tuple[Any, Any, Any]:
        """What a batch means, in training, validation and test.

        Returns:
            the mean loss over the batch, or a dict of the loss terms that `loss_terms` names (the first is
            minimised, all are logged); what the metrics take as output, and as target.
        """
        data, target = batch
        output = self.model(data)
        return self.criterion(output, target), output, target

    def _grouped(self, batches: Sequence[Any], first: int | None = None) -> Group:
        """Batches with their sizes; a stand-in for a part without samples counts nothing.

        Args:
            first: the first of them, counted from the beginning of the run; None: the user's own, of the last ones.
        """
        sizes = [self.batch_size_of(batch) for batch in batches]
        if distributed.SIZE == 1 or not isinstance(self.data_loader, BaseDataLoader):
            return Group(batches, sizes)
        if first is None:
            return Group(batches, [n * any(self._group.sizes) for n in sizes])
        by_samples = getattr(self.batch_size_of, "__func__", None) is BaseTrainer.batch_size_of
        return Group(batches, *self.data_loader.parts(first, sizes, by_samples))

    def _apply(self, optimizer: torch.optim.Optimizer, losses: list[torch.Tensor]) -> bool:
        """Let the optimizer apply the gradients of the losses; False if `on_nan` says to skip them."""
        self.lr = optimizer.param_groups[0].get("lr", math.nan)
        if self._watch.accepts(losses):
            self.runtime.apply(optimizer)
            return True
        self.logger.warning(
            f"step {self.step} of epoch {self.epoch} skipped: the loss is not finite"
        )
        optimizer.zero_grad(set_to_none=True)
        return False

    def _record(
        self, tracker: MetricTracker, terms: dict[str, Any], output: Any, target: Any, n: float
    ) -> None:
        """Add a batch to the averages."""
        if n == 0:  # a stand-in
            return
        if terms.keys() != set(self.loss_terms):
            raise ConfigError(
                f"loss_terms says {', '.join(self.loss_terms)}, but _forward returns {', '.join(terms)}"
            )
        with torch.no_grad():
            for name, value in terms.items():
                tracker.update(name, value, n)
            for metric in self._functions:
                tracker.update(metric.__name__, metric(output, target), n)
            if self._objects:
                tracker.update_objects(output, target)

    def _after_update(self, batches: int) -> None:
        """Log, save inside the epoch and stop, where it is time."""
        before, self.step = self.step, self.step + batches
        self.stop.agree(soon=True)
        if self._layers is not None:
            self.logger.info(self._layers())
            self._layers = None
        if self.step // self.log_step > before // self.log_step:
            self._log_window()
        if (
            self.save_step
            and self.step // self.save_step > before // self.save_step
            and self.step < self.len_epoch
        ):
            self._save_step()
        self._stop_if_asked()

    def _log_window(self) -> None:
        """Write the averages since the last time; one wait for the GPU."""
        self._watch.look(self.epoch, self.step, self.lr, self._checkpoints.skip_hint())
        window = {f"{name}/train": value for name, value in self.train_metrics.since_last().items()}
        if window:
            window["lr"] = self.lr
            if self.runtime.grad_norm is not None:
                window["grad_norm/train"] = float(self.runtime.grad_norm)
            self.writers.log(window, (self.epoch - 1) * self.len_epoch + self.step)
            loss = self.loss_terms[0]
            self._progress.show(
                self.step, f"{loss} {window[f'{loss}/train']:.4g}", self.train_metrics.count(loss)
            )

    def _save_step(self) -> None:
        self._watch.look(self.epoch, self.step, self.lr, self._checkpoints.skip_hint())
        unsaved = self.train_metrics.unsaved()
        if unsaved:
            what = f"{', '.join(unsaved)} has no state_dict, and counts what no checkpoint can hold"
            self.logger.warning(f"{what}: epoch {self.epoch} is not saved before its end")
        else:
            super()._save_step()

    def _valid_epoch(self, epoch: int) -> Log:
        """Evaluate on the validation data."""
        self.writer.set_step(epoch * self.len_epoch, "valid")
        log = self.evaluate(self.valid_data_loader, self.valid_metrics)
        self.writers.log(
            {f"{name}/valid": value for name, value in log.items()}, epoch * self.len_epoch
        )
        return log

    def evaluate(self, loader: Iterable[Any], tracker: MetricTracker | None = None) -> Log:
        """The averages over all samples of a loader; the same for validation and test."""
        tracker = tracker or MetricTracker(objects=self._objects)
        tracker.reset()
        share_buffers(networks(self))
        with torch.no_grad(), self.judged():
            for batch in self.stop.until(one_pass(loader, self.seed), together=False):
                self._compute(batch, tracker)
                if self.config.launch.checking:
                    break
        self.stop.agree()
        self._stop_if_asked()
        return tracker.result()

    def judged(self) -> contextlib.AbstractContextManager[None]:
        """Within it, `self.model` is what is evaluated, in evaluation mode."""
        return evaluating(networks(self))

    def _schedule(self, interval: str, log: Log) -> None:
        """Step the scheduler if it steps at this interval; a plateau is judged by the monitored number."""
        if self.lr_scheduler is not None and interval == self.interval:
            name = (
                self.monitor.name
                if self.monitor.on
                else "val_loss"
                if "val_loss" in log
                else self.loss_terms[0]
            )
            self.lr_scheduler.step(
                *([log[name]] if isinstance(self.lr_scheduler, ReduceLROnPlateau) else [])
            )
