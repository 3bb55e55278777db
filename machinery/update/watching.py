"""What a run watches: the number that judges epochs, and whether losses and weights are finite."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from machinery import distributed
from machinery.config.checking import Checked
from machinery.errors import NonFiniteError
from machinery.order.outstanding import tensors_in
from machinery.telling import described


class Monitor:
    """Watches one number of the log.

    Args:
        setting: "min NAME", "max NAME" or "off".
        early_stop: stop after this many epochs in a row without improvement; None or 0 never stops.
        ends: whether a value that is not finite ends the run.
    """

    def __init__(self, setting: str, early_stop: int | None, ends: bool = True) -> None:
        self.mode, _, self.name = setting.partition(" ")
        #: Whether there is anything to watch.
        self.on = self.mode != "off"
        self.patience: float = early_stop or math.inf
        self._ends = ends
        self.forget()

    @classmethod
    def asked_by(cls, config: Checked) -> "Monitor":
        """The monitor that a config asks for."""
        asked = config.settings.trainer
        return cls(asked.monitor, asked.early_stop, config.ends_at_nan)

    def forget(self) -> None:
        """Begin to judge anew."""
        self.best = math.inf if self.mode == "min" else -math.inf
        self.best_epoch = 0
        self.bad_epochs = 0

    def update(self, epoch: int, log: Mapping[str, float]) -> bool:
        """Judge an epoch; only a strictly better, finite value is an improvement.

        One without the value, such as an epoch that is not validated, is not judged.
        """
        if not self.on:
            return False
        if self.name not in log:
            what = f"epoch {epoch} has no {self.name}, and is not judged"
            logging.getLogger("trainer").warning(what)
            return False
        value = float(log[self.name])
        if not self._is_better(value):
            self.bad_epochs += 1
            return False
        self.best = value
        self.best_epoch = epoch
        self.bad_epochs = 0
        return True

    def not_finite(self, epoch: int, log: Mapping[str, float], lr: float) -> str:
        """Why the run ends, in words, if the number that judges an epoch is not finite; else ""."""
        value = log.get(self.name, 0.0)
        if not self.on or math.isfinite(value):
            return ""
        told = f"{self.name} became {value} in epoch {epoch} (lr {lr:.3g})"
        if self._ends:
            return told
        logging.getLogger("trainer").warning(f"{told}: no improvement")
        return ""

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.mode == "min":
            return value < self.best
        return value > self.best

    @property
    def exhausted(self) -> bool:
        """Whether the patience is at its end."""
        return self.bad_epochs >= self.patience

    def judgement(self) -> dict[str, Any]:
        """The best epoch so far, for status.json; nothing where none was judged."""
        if self.best_epoch == 0:
            return {}
        return {"best": {self.name: self.best, "epoch": self.best_epoch}}

    def state_dict(self) -> dict[str, Any]:
        """Best value, its epoch, and the epochs since."""
        return {
            "setting": f"{self.mode} {self.name}",
            "best": self.best,
            "best_epoch": self.best_epoch,
            "bad_epochs": self.bad_epochs,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on judging, unless it is another number that is watched now."""
        if state["setting"] != f"{self.mode} {self.name}":
            return
        self.best = state["best"]
        self.best_epoch = state["best_epoch"]
        self.bad_epochs = state["bad_epochs"]


#: Attributes of a trainer by the names of older versions of the classic template.
OLDER_NAMES = {"loss": "criterion", "metrics": "metric_ftns", "metric_fns": "metric_ftns"}


class ClassicNames:
    """What a trainer does, and what it monitors, by the names of the classic template."""

    monitor: Monitor
    config: Any
    restore: Callable[[], None]
    _save: Callable[..., None]

    @property
    def mnt_best(self) -> float:
        """The best value so far."""
        return self.monitor.best

    @property
    def mnt_mode(self) -> str:
        """Whether the lowest ("min") or the highest ("max") is the best."""
        return self.monitor.mode

    if not TYPE_CHECKING:  # which would know no misspelt attribute any more

        def __getattr__(self, name: str) -> Any:
            """What an older name stands for, where the trainer has nothing of its own by it."""
            newer = OLDER_NAMES.get(name)
            if newer in vars(self):
                return vars(self)[newer]
            what = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(what, name=name, obj=self)

    def _save_checkpoint(self, epoch: int, save_best: bool = False) -> None:
        """Save now, as after an epoch; nothing else calls it."""
        self.epoch = epoch
        self._save(None, improved=save_best)

    def _resume_checkpoint(self, resume_path: str | Path) -> None:
        """Go on from a checkpoint of this run; nothing else calls it."""
        self.config.launch = self.config.launch.continued(Path(resume_path))
        self.restore()


class _Bad(NamedTuple):
    """A loss that is not finite, as one process has seen it."""

    #: Which of the losses since the last look; infinity: none was bad.
    at: float
    value: float
    #: The one before it.
    last_finite: float | None


class LossWatch:
    """Keeps the losses on the device until they are looked at.

    Args:
        policy: what to do about a loss that is not finite: "stop" the run, "skip" the update, or
            "ignore" it.
    """

    def __init__(self, policy: str) -> None:
        #: Whether an update may have to leave no trace.
        self.may_skip = policy == "skip"
        self._stops = policy == "stop"
        self._losses: list[torch.Tensor] = []
        self._last: torch.Tensor | None = None
        self._looked = 0

    def start(self, step: int) -> None:
        """Begin an epoch, of which `step` batches are done."""
        self._looked = step

    def accepts(
        self, losses: Sequence[torch.Tensor], gradients: Callable[[], torch.Tensor | None]
    ) -> bool:
        """Note the losses of an update; False if it is to be skipped: waits for the GPU to know.

        Args:
            gradients: gives the largest of its gradients; None: nobody can say.
        """
        if self._stops:
            self._losses += losses
        if not self.may_skip:
            return True
        values = list(losses)
        largest = gradients()
        if largest is not None:
            values.append(largest)
        return all(distributed.gathered(_all_finite(values)))

    def accepts_within(
        self, losses: Sequence[torch.Tensor], weights: Callable[[], torch.Tensor | None]
    ) -> bool:
        """Look at what a step has done that computes its loss several times.

        Args:
            losses: of all times.
            weights: gives the largest of the weights after it.

        Returns:
            False if it is to be taken back.

        Raises:
            NonFiniteError: a loss was not finite, and the run is to stop then.
        """
        if not (self._stops or self.may_skip):
            return True
        values = list(losses)
        largest = weights()
        if largest is not None:
            values.append(largest)
        finite = all(distributed.gathered(_all_finite(values)))
        if not finite and self._stops:
            what = "the loss became NaN or infinite within a step that computes it several times"
            raise NonFiniteError(f"{what}: try a smaller lr")
        return finite

    def check_learnt(self, epoch: int, nothing: bool) -> None:
        """Refuse an epoch in which nothing was learnt, because each update was skipped.

        Raises:
            NonFiniteError: the run would go on like this for ever.
        """
        if nothing and (self.may_skip or self._stops):
            what = f"epoch {epoch} learnt nothing: each update had a loss or gradients"
            raise NonFiniteError(f"{what} that are not finite, and was skipped")

    def look(
        self,
        epoch: int,
        step: int,
        lr: float,
        hint: str,
        batch_of: Callable[[int, int], Any] | None = None,
    ) -> None:
        """Look at the losses since the last look; one wait for the GPU.

        Args:
            epoch, step: where the run is, in batches done.
            lr: the learning rate.
            hint: what the user can do.
            batch_of: makes a batch of an epoch again, by its number from 0.

        Raises:
            NonFiniteError: one was not finite: the weights are spoilt from there on.
        """
        losses = self._losses
        before = self._last
        batches = step - self._looked
        self._losses = []
        self._looked = step
        if losses:
            self._last = losses[-1]
        if not self._any_spoilt(losses):
            return
        found = _first_bad([float(loss) for loss in losses], before)
        # The process that met it first says where; from there on it is in all of them.
        earliest = min(distributed.gathered(found), key=attrgetter("at"))
        if earliest.at == math.inf:  # finite values whose sum overflows
            return
        where = f"by step {step}"
        if batches == len(losses):  # an update with several optimizers has more losses than batches
            number = step - batches + int(earliest.at)
            where = f"step {number + 1}"
            hint = f"{_of_batch(batch_of, epoch, number)}{hint}"
        last = "none"
        if earliest.last_finite is not None:
            last = f"{earliest.last_finite:.4g}"
        raise NonFiniteError(
            f"the loss became {earliest.value} in epoch {epoch}, {where} "
            f"(lr {float(lr):.3g}, last finite loss {last})\n  {hint}"
        )

    def _any_spoilt(self, losses: list[torch.Tensor]) -> bool:
        """Whether any process has a loss that is not finite; all have to ask."""
        spoilt = bool(losses) and not bool(torch.isfinite(torch.stack(losses).sum()))
        if distributed.alone():
            return spoilt
        return sum(distributed.totals([spoilt])()) > 0


def _of_batch(batch_of: Callable[[int, int], Any] | None, epoch: int, number: int) -> str:
    """A line on the numbers of a batch that are not finite, if there are some.

    Of several processes, the one that has met the loss need not be this one.
    """
    if batch_of is None or not distributed.alone():
        return ""
    try:
        batch = batch_of(epoch, number)
    except Exception:  # it is made again only to say more
        return ""
    for k, tensor in enumerate(tensors_in(batch)):
        if not tensor.is_floating_point() or bool(torch.isfinite(tensor).all()):
            continue
        first = int((~torch.isfinite(tensor)).nonzero()[0][0])
        what = f"tensor {k} {described(tensor)}, sample {first}"
        return f"its batch holds numbers that are not finite ({what}): mend the data\n  "
    return ""


def _first_bad(values: list[float], before: torch.Tensor | None) -> _Bad:
    """The first value that is not finite, and the finite one before it."""
    last = None if before is None else float(before)
    for index, value in enumerate(values):
        if not math.isfinite(value):
            return _Bad(index, value, last)
        last = value
    return _Bad(math.inf, math.nan, None)


def _all_finite(values: Sequence[torch.Tensor]) -> bool:
    """Whether numbers, each a tensor [], are finite; one wait for the GPU."""
    return bool(torch.stack([torch.isfinite(value) for value in values]).all())


def not_finite(trained: Mapping[str, torch.Tensor], epoch: int, lr: float) -> str:
    """Which weights are not finite, in words; "" if all are. One wait for the GPU.

    A finite loss can have gradients that are not, so they are looked at before they become a file.

    Args:
        trained: trained weights, and the optimizers' state of them, by name.
        epoch, lr: where the run is, and its learning rate.
    """
    sums = [value.detach().sum(dtype=torch.float32) for value in trained.values()]
    if not sums:
        return ""
    device = sums[0].device
    if bool(torch.isfinite(torch.stack([total.to(device) for total in sums]).sum())):
        return ""
    bad = [name for name, value in trained.items() if not bool(torch.isfinite(value).all())]
    if not bad:  # finite values whose sum overflows
        return ""
    names = ", ".join(bad[:3])
    if len(bad) > 3:
        names += ", …"
    return f"weights became NaN or infinite by epoch {epoch} (lr {float(lr):.3g}): {names}"


def numbers_of(log: Mapping[str, Any], logger: logging.Logger) -> dict[str, float]:
    """The numbers of an epoch's log; the rest, text or many values, is shown."""
    numbers = {}
    for name, value in log.items():
        number = value
        if isinstance(value, torch.Tensor):
            number = value.detach()
        try:
            numbers[name] = float(number)
        except (TypeError, ValueError, RuntimeError):
            logger.info(f"{name} {value}")
    return numbers
