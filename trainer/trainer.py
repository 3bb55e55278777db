"""The batches of an epoch: change here what an update or an evaluation does.

Most tasks need one method of their own: `_forward`, which says what a batch means. Where an update
is more than one step of one optimizer (a GAN), there is `_update`.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from base.base_data_loader import one_pass, training_batches
from base.base_trainer import BaseTrainer, Log
from logger.pictures import draw_tables
from logger.progress import Done, Progress, progress_of
from machinery import distributed
from machinery.checks.fitting import check_monitored, check_parts
from machinery.checks.layer_table import watch
from machinery.checks.loss import no_mean_loss, warn_of_loss
from machinery.checks.methods import check_methods, loss_of
from machinery.checks.own_values import OwnValues
from machinery.errors import UserError
from machinery.order import seeding
from machinery.order.epochs import EpochLength, tell_unreadable
from machinery.telling import note_batch
from machinery.update import networks
from machinery.update.group import Again, Computed, Group
from machinery.update.metrics import MetricTracker, by_kind, classes_of, named_terms
from machinery.update.runtime import Runtime
from machinery.update.schedule import expect_steps, step_scheduler
from machinery.update.sizes import Counts, Sizes
from machinery.update.watching import LossWatch
from parse_config import ConfigParser


class Trainer(BaseTrainer):
    """Trains a network on batches of (data, target).

    Args:
        model, criterion, metric_ftns, optimizer, config: as in `BaseTrainer`.
        device: where the model is.
        data_loader, valid_data_loader: batches to train on, and to judge by (or a dict of several
            sets by name); any iterables, the first with a length.
        lr_scheduler: steps as `lr_scheduler.interval` of the config says.
        len_epoch: batches in an epoch; by default `trainer.len_epoch`, else a pass over the data.
    """

    #: The names of the loss terms that `_forward` returns; the first is minimised.
    loss_terms: Sequence[str] = ("loss",)
    #: The names of other numbers that a trainer of your own logs, for `trainer.monitor`.
    log_names: Sequence[str] = ()
    #: A method of your own says what the mean loss of a batch is over, if not over its samples.
    loss_size_of: Callable[[Any], float] | None = None

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[..., Any],
        metric_ftns: Sequence[Any],
        optimizer: Optimizer,
        config: ConfigParser,
        device: torch.device,
        data_loader: Any = None,
        valid_data_loader: Any = None,
        lr_scheduler: Any = None,
        len_epoch: int | None = None,
    ) -> None:
        self._length = EpochLength(len_epoch or config.settings.trainer.len_epoch, data_loader)
        self.len_epoch = self._length.first
        check_methods(type(self), Trainer, criterion, optimizer, config.checked)
        if config.launch.trains:  # before the run folder is made
            loaders = (data_loader, valid_data_loader)
            check_parts(self, Trainer, config, metric_ftns, model, loaders)
        super().__init__(model, criterion, metric_ftns, optimizer, config)
        self.device = device
        self.data_loader = data_loader
        self.valid_data_loader = valid_data_loader
        self.lr_scheduler = lr_scheduler
        self._set_up()

    def _set_up(self) -> None:
        """What computes and counts, as the settings say."""
        settings = self.settings
        scheduled = self.config.settings.lr_scheduler
        self.interval = "epoch" if scheduled is None else scheduled.interval
        if self.lr_scheduler is not None:
            expect_steps(self.optimizer)
        self.accumulate = settings.accumulate
        self.log_step = settings.log_step
        self.save_step = settings.save_step
        self.runtime = Runtime(self.device, settings)
        self.model = self.runtime.prepare(self.model, self.config.launch.trains)
        self._functions, self._objects = by_kind(self.metric_ftns, self.device)
        self.train_metrics = self._tracker()
        self.valid_metrics = self._tracker()
        self._watch = LossWatch(settings.on_nan)
        self._progress = Progress()
        # Samples of the epoch that an earlier process has trained on.
        self._samples_before = 0.0
        self._alone = distributed.alone()
        counts = type(self).batch_size_of is BaseTrainer.batch_size_of
        self._sizes = Sizes(self.batch_size_of, self.loss_size_of, counts, loss_of(self, Trainer))
        # The update under way, and whether it has made a step.
        self._group: Group | None = None
        self._stepped = False
        # The epoch for which it is known what optimizers there are.
        self._attended = 0
        # Gives the table of the layers, once they have seen a batch.
        self._layers: Callable[[], str] | None = None
        self._judges_loss = self.config.launch.new and type(self)._forward is Trainer._forward
        self._weighs_losses = type(self)._train_epoch is Trainer._train_epoch
        self._own = OwnValues({*vars(self), *dir(Trainer)})

    def _connect(self) -> None:
        """Let several processes have the same weights, or a part of each."""
        super()._connect()
        self.runtime.share_out(self.model, self._held().optimizers, self.ema)

    def _tracker(self) -> MetricTracker:
        """Averages of loss terms and metrics."""
        functions = [metric.__name__ for metric in self._functions]
        return MetricTracker(*self.loss_terms, *functions, objects=self._objects)

    def _train_epoch(self, epoch: int) -> Log:
        """Train one epoch, validate, step an epoch scheduler; the averages over all samples."""
        networks.clear_gradients(self._networks())
        networks.to_training(self._networks())
        self._whole = True
        for batches in self._groups(epoch):
            self._whole = False
            self._stepped = False
            try:
                if batches:  # else none of their samples could be read
                    self._update(batches)
                    self._check_update()
            except (Exception, SystemExit) as error:
                note_batch(error, self)
                raise
            self._after_update(self._sizes.steps)
            self._whole = True
        self._log_window()
        tell_unreadable(self.data_loader)
        log = self.train_metrics.result()
        stuck = self.runtime.no_step_was_possible()
        self._watch.check_learnt(epoch, stuck or self.loss_terms[0] not in log)
        self._samples = self.train_metrics.samples_everywhere() - self._samples_before
        if self.valid_data_loader is not None:
            with networks.evaluating(self._networks()):
                for name, value in self._valid_epoch(epoch).items():
                    log[f"val_{name}"] = value
        log = distributed.from_main(lambda: log)
        # What draws from here on does so alike after a resume inside the epoch.
        seeding.seed_everything(self.seed, "epoch end", epoch, distributed.rank())
        self._schedule("epoch", log)
        return log

    def _groups(self, epoch: int) -> Iterator[list[Any]]:
        """The epoch's batches from where the run stands, `accumulate` of them an update."""
        self.stop.polled()  # `_after_update` asks
        self.len_epoch = self._length.at(epoch, self.len_epoch, self.data_loader, self._interrupted)
        self._begin_counting(epoch)
        self.writer.set_step(self.batches_done)
        done = (epoch - 1) * self.len_epoch + self.step
        last = epoch * self.len_epoch
        if self.config.launch.checking:
            # Several processes find out in the second update that a parameter is not used.
            updates = min(distributed.size(), 2)
            last = min(last, done + updates * self.accumulate)
        batches = training_batches(self.data_loader, done, last, self.seed)
        batches = self.stop.until(self._sizes.noted(batches, done, self.data_loader))
        with contextlib.closing(self._progress):
            while not (self.step and self.stop.is_late):
                fetched = list(islice(batches, self.accumulate))
                if self.stop.signum is not None:
                    self._leave()
                if not fetched:
                    return
                yield self._sizes.fetch(fetched)
                self._progress.update(len(fetched))

    def _begin_counting(self, epoch: int) -> None:
        """Begin an epoch's averages, or go on with those of an earlier process."""
        self._own.begin_batches(self._held())
        if self.step == 0:
            self.train_metrics.reset()
        self._samples_before = self.train_metrics.samples_everywhere()
        self.train_metrics.classes = classes_of(self.data_loader)
        self._watch.start(self.step)
        if epoch == self.start_epoch:
            self._layers = watch(self.model, self.data_loader, self.epochs * self.len_epoch)
        done = Done(epoch, self.step, self._samples_before)
        self._progress = progress_of(done, self.epochs, self.len_epoch)
        self._progress.follow(self.train_metrics, self.loss_terms[0])

    def _update(self, batches: Sequence[Any]) -> None:
        """One optimizer step on some batches, as if they were one large batch."""
        with self.group(batches) as group:
            for batch in group:
                self.backward(self.compute(batch))
            group.step(self.optimizer)

    def _check_update(self) -> None:
        """Refuse a first update that has not come through the door: nothing would watch it."""
        if self._layers is not None and not self._stepped:
            raise UserError(
                f"{type(self).__name__}._update has made no group.step(…) of a self.group(batches)"
            )

    def group(self, batches: Sequence[Any]) -> Group:
        """Batches that make up one update, or some of them; within it, `compute` is on them.

        Raises:
            UserError: not all were gone through, or no step was made.
        """
        if self._open_group() is not None:
            raise UserError("a group is begun within another: an update has one after the other")
        if self._attended != self.epoch:
            held = self._held()
            self.runtime.attend(held.optimizers, held.with_modes, self.ema)
            self._attended = self.epoch
        keep = None
        if self._watch.may_skip:  # an update that is skipped must leave no trace
            keep = partial(networks.keep_buffers, self._networks())
        self._group = Group(batches, self._sizes, self.runtime, self._apply_group, keep)
        return self._group

    def _open_group(self) -> Group | None:
        """The update under way."""
        if self._group is not None and self._group.open:
            return self._group
        return None

    def compute(self, batch: Any) -> Computed:
        """The loss terms, output and target of a batch, on the device and in the run's precision.

        Updates and evaluations go through here, also those of your own. In an update, what it gives
        of a batch for the first time is added to the averages.

        Raises:
            ConfigError: the terms are not those that `loss_terms` names.
        """
        group = self._open_group()
        if group is None or not torch.is_grad_enabled():
            counts = self._sizes.counts(batch)
            with self.runtime.autocast():
                return self._computed(batch, counts, None)
        counts = group.counts(batch)
        with self.runtime.autocast():
            computed = self._computed(batch, counts, group)
            if group.counts_first(counts):
                if self._watch.may_skip:
                    group.uncounted.append(computed.kept())
                else:
                    self._add_to_averages(self.train_metrics, computed)
        if self._judges_loss:
            of_samples = self._sizes.are_samples
            warn_of_loss(self.criterion, computed.output, computed.target, of_samples)
            self._judges_loss = False
        return computed

    def _computed(self, batch: Any, counts: Counts, group: Group | None) -> Computed:
        """What `_forward` makes of a batch."""
        terms, output, target = self._forward(self.runtime.move(batch))
        terms = named_terms(terms, self.loss_terms)
        return Computed(terms, output, target, counts, group)

    def _forward(self, batch: Any) -> tuple[Any, Any, Any]:
        """What a batch means, in training, validation and test.

        Returns:
            the mean loss over the batch, or a dict of the loss terms that `loss_terms` names (the
            first is minimised, all are logged); what the metrics take as output, and as target.
        """
        data, target = batch
        output = self.model(data)
        return self.criterion(output, target), output, target

    def backward(self, computed: Computed, term: str | None = None) -> None:
        """Add the gradients of a loss term; by default of the first that `loss_terms` names."""
        group = computed.group
        if group is None:
            wrong = self._open_group() is not None
        else:
            wrong = not group.open
        if wrong:
            raise UserError("backward() wants what compute(batch) gives in the same open group")
        if term is None:
            term = self.loss_terms[0]
        if term not in computed.terms:
            raise UserError(f"no loss term is called {term!r}: {', '.join(computed.terms)}")
        loss = computed.terms[term]
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.requires_grad:
            raise no_mean_loss(loss)
        weight = 1.0
        if computed.weighs:
            weight = computed.weight
        if group is not None:
            group.add_loss(loss.detach(), weight, computed.number)
        self.runtime.backward(loss, weight, computed.output)

    def _apply_group(
        self, group: Group, optimizers: Sequence[Optimizer], again: Again | None
    ) -> bool:
        """Let optimizers apply the gradients of a group; False if `on_nan` says to skip them."""
        self._stepped = True
        self.lr = self.optimizer.param_groups[0].get("lr", math.nan)
        gradients = partial(self.runtime.largest_gradient, optimizers)
        accepted = self._watch.accepts(group.losses, gradients)
        if accepted:
            if again is None:
                self.runtime.step(optimizers)
            else:
                group.forget_losses()  # those of its own passes count
                accepted = self.runtime.step_again(optimizers, again, group.take_mean, self._watch)
        if not accepted:
            where = f"step {self.step} of epoch {self.epoch}"
            self.logger.warning(f"{where} skipped: the loss is not finite, or a gradient")
        else:
            with self.runtime.autocast():
                for computed in group.uncounted:
                    self._add_to_averages(self.train_metrics, computed)
        self.runtime.clear(optimizers)
        return accepted

    def _add_to_averages(self, tracker: MetricTracker, batch: Computed) -> None:
        """Add a batch to averages; a stand-in adds nothing."""
        if batch.samples == 0:
            return
        tracker.samples += batch.samples
        output = batch.output
        target = batch.target
        with torch.no_grad():
            if batch.size:
                for name, value in batch.terms.items():
                    tracker.update(name, value, batch.size)
            for metric in self._functions:
                tracker.update(metric.__name__, metric(output, target), batch.samples)
            if self._objects:
                tracker.update_objects(output, target)

    def _after_update(self, batches: int) -> None:
        """Schedule, log, save inside the epoch and stop, where it is time."""
        if self.interval == "step":
            self._schedule("step", {})
        before = self.step
        self.step += batches
        if not self._alone:
            self.stop.agree(soon=True)
        if self._layers is not None:
            self.logger.info(self._layers())
            self._layers = None
            self.train_metrics.warn_of_unsaved(self.epoch)
            check_monitored(self, self.config, self.train_metrics)
        if self.step // self.log_step > before // self.log_step:
            self._log_window()
        if self.save_step is not None and self.step < self.len_epoch:
            if self.step // self.save_step > before // self.save_step:
                self._save_step()
        if self.stop.signum is not None:
            self._leave()

    def _log_window(self) -> None:
        """Write the averages since the last time; one wait for the GPU."""
        self._look_at_losses()
        averages = self.train_metrics.since_last()
        if not averages:
            return
        window = {f"{name}/train": value for name, value in averages.items()}
        window["lr"] = self.lr
        if self.runtime.grad_norm is not None:
            window["grad_norm/train"] = float(self.runtime.grad_norm)
        self.writers.log(window, self.batches_done)
        loss = self.loss_terms[0]
        shown = f"{loss} {averages[loss]:.4g}"
        self._progress.show(self.step, shown, self.train_metrics.samples_everywhere())

    def _look_at_losses(self) -> None:
        """End the run if a loss was not finite, and `on_nan` says so."""
        self._watch.look(
            self.epoch, self.step, self.lr, self._checkpoints.skip_hint(), self._length.batch
        )

    def _save_step(self) -> None:
        self._look_at_losses()
        if not self.train_metrics.warn_of_unsaved(self.epoch):
            super()._save_step()

    def _valid_epoch(self, epoch: int) -> Log:
        """Evaluate on the validation data."""
        step = self.batches_done
        self.writer.set_step(step, "valid")
        log = self.evaluate(self.valid_data_loader, self.valid_metrics)
        self.writers.log({f"{name}/valid": value for name, value in log.items()}, step)
        draw_tables(self.valid_metrics, self.checkpoint_dir, "valid", self.writer)
        return log

    def evaluate(self, loader: Any, tracker: MetricTracker | None = None) -> Log:
        """The averages over all samples of a loader; the same for validation and test.

        Of a dict of loaders those of each, as "SET_NAME".
        """
        if tracker is None:
            tracker = self._tracker()
        if isinstance(loader, Mapping):
            return tracker.of_each(self.evaluate, loader)
        tracker.reset()
        tracker.classes = classes_of(loader)
        networks.share_buffers(self._networks())
        batches = self.stop.until(one_pass(loader, self.seed), together=False)
        try:
            judged = networks.without_gradients(self.model)
            with self.judged(), judged, self._sizes.evaluating():
                for batch, counts in self.runtime.in_step(batches):
                    computed = self.compute(batch)
                    if counts:
                        with self.runtime.autocast():
                            self._add_to_averages(tracker, computed)
                    if self.config.launch.checking:
                        break
        except (Exception, SystemExit) as error:
            note_batch(error, self)
            raise
        self.stop.agree()
        if self.stop.signum is not None:
            self._leave()
        tell_unreadable(loader)
        return tracker.result()

    def judged(self) -> contextlib.AbstractContextManager[None]:
        """Within it, `self.model` is what is evaluated, in evaluation mode."""
        return networks.evaluating(self._networks(), self._held().with_modes, self.ema)

    def _schedule(self, interval: str, log: Log) -> None:
        """Step the scheduler if it steps at this interval; a plateau is judged by a number."""
        if self.lr_scheduler is None or interval != self.interval:
            return
        step_scheduler(self.lr_scheduler, log, self.monitor, self.loss_terms[0])
