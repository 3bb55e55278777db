"""Numbers, and whatever else a trainer has to show, to TensorBoard."""

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from logger.writers import Writer, are_of_an_epoch
from machinery import distributed
from machinery.telling import told

#: What a `SummaryWriter` can add.
_KINDS = (
    "audio",
    "embedding",
    "figure",
    "graph",
    "histogram",
    "histogram_raw",
    "image",
    "images",
    "mesh",
    "pr_curve",
    "scalar",
    "scalars",
    "text",
    "video",
)
#: Weights beyond this are no picture, and cost seconds.
_LARGEST_HISTOGRAM = 10_000_000
_METHODS = frozenset(f"add_{kind}" for kind in _KINDS)
#: Each mode is a run of TensorBoard's below the run's folder, so that both curves share a chart.
_MODES = ("train", "valid")
#: What the numbers of the best epoch so far are called; such a name comes last on the page.
BEST = "~best"


def _no_best_epoch() -> int:
    return 0


def _fits(weights: Any) -> bool:
    """Whether weights are as many as a histogram shows."""
    return 1 < int(weights.numel()) <= _LARGEST_HISTOGRAM


def _drawn(weights: Any) -> Any:
    """Weights as a histogram shows them; None of constant, huge or non-finite ones."""
    if not _fits(weights):
        return None
    if weights.is_complex() or weights.is_sparse:
        raise TypeError("they are complex, or sparse")
    values = weights.detach().float()
    if -math.inf < values.min() < values.max() < math.inf:
        return values
    return None


class TensorboardWriter(Writer):
    """TensorBoard's `SummaryWriter` at a current step; its `add_…` methods do nothing if it is off.

    Event files are made at the first write. What cannot be drawn is left out, where nothing can be
    written it is off; both warn once, and never stop a training.

    Args:
        log_dir: where the event files go.
        logger: gets the warning.
        enabled: False turns every method into nothing; so does a process that is not the main one.
        hparams: what the user has set, for TensorBoard's page of hyper-parameters.
        best_epoch: says which epoch is the best so far.
    """

    def __init__(
        self,
        log_dir: Path | None,
        logger: logging.Logger,
        enabled: bool,
        hparams: Mapping[str, Any] | None = None,
        best_epoch: Callable[[], int] = _no_best_epoch,
    ) -> None:
        self.log_dir = log_dir
        self.logger = logger
        self.enabled = enabled and distributed.is_main()
        # Whether all processes gather what is to be drawn; the main one may be off by now.
        self._gathers = enabled
        self.step = 0
        self.mode = "train"
        self._first_step: int | None = None
        #: None or empty once they are written, or if there are none.
        self._hparams = hparams
        self._best_epoch = best_epoch
        #: The validation's numbers in the best epoch.
        self._best: dict[str, float] = {}
        self._writers: dict[str, Any] = {}
        #: What has been said to be left out.
        self._left_out: set[str] = set()

    def continue_from(self, step: int) -> None:
        """Drop the points at this step and later, which an earlier process has written."""
        self._first_step = step

    def set_step(self, step: int, mode: str = "train") -> None:
        """Set the step and the mode ("train", "valid") of the writes that follow."""
        self.step = step
        self.mode = mode

    def add_weights(self, network: Any) -> None:
        """Histograms of a network's weights; constant, huge or non-finite ones have none.

        All processes have to ask for what is shared out over them.
        """
        for name, weights in network.named_parameters():
            if self._gathers and hasattr(weights, "full_tensor") and _fits(weights):
                weights = weights.full_tensor()
            if not self.enabled:
                continue
            try:
                values = _drawn(weights)
            except Exception as error:  # sparse, complex, or of a kind that is yet to come
                self._leave_out(f"the weights {name}", error)
                continue
            if values is not None:
                self._write(
                    "add_histogram",
                    f"weights/{name}",
                    values,
                    global_step=self.step,
                    bins=64,
                    mode=self.mode,
                )

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """A point for each number, such as "loss/train"; of an epoch those that have none yet."""
        if are_of_an_epoch(numbers):
            self._log_epoch(numbers, step)
            return
        for name, value in numbers.items():
            self._add_point(name, value, step)

    def _log_epoch(self, numbers: Mapping[str, float], step: int) -> None:
        """The speed, and the validation's numbers in the best epoch so far."""
        valid: dict[str, float] = {}
        for name, value in numbers.items():
            if name.startswith("val_"):
                valid[name.removeprefix("val_")] = value
        if numbers["epoch"] == self._best_epoch():
            self._best = valid
        if self._hparams and valid:
            self._describe(self._hparams, list(valid))
        self._add_point("samples_per_second", numbers["samples/s"], step)
        for name, value in self._best.items():
            self._add_point(f"{BEST}/{name}/valid", value, step)

    def _add_point(self, name: str, value: float, step: int) -> None:
        """A point; that of "loss/valid" is one of "loss" in the validation's run."""
        for mode in _MODES:
            if name.endswith(f"/{mode}"):
                tag = name.removesuffix(f"/{mode}")
                self._write("add_scalar", tag, value, step, mode=mode)
                return
        self._write("add_scalar", name, value, step, mode="train")

    def _describe(self, hparams: Mapping[str, Any], valid: list[str]) -> None:
        """The hyper-parameters of the run, and which of its numbers to compare runs by; once."""
        if not self.enabled:
            return
        tags = list(valid)
        if self._best:
            tags += [f"{BEST}/{name}" for name in valid]
        try:
            from torch.utils.tensorboard.summary import hparams as summaries_of

            for summary in summaries_of(dict(hparams), dict.fromkeys(tags, 0.0)):
                self._summary_writer("valid").file_writer.add_summary(summary)
        except Exception as error:
            self._meet("the hyper-parameters", error)
        self._hparams = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        """The `add_…` methods of a `SummaryWriter`."""
        if name not in _METHODS:
            raise AttributeError(f"TensorboardWriter has no method {name!r}")

        def add(*args: Any, **kwargs: Any) -> None:
            # The step is the argument after the tag and the data; a caller's own wins.
            if len(args) < 3 and name != "add_graph":
                kwargs.setdefault("global_step", self.step)
            self._write(name, *args, mode=self.mode, **kwargs)

        return add

    def _write(self, name: str, *args: Any, mode: str, **kwargs: Any) -> None:
        """Call the method of that name of the mode's `SummaryWriter`."""
        if not self.enabled:
            return
        try:
            method = getattr(self._summary_writer(mode), name)
            method(*args, **kwargs)
        except Exception as error:
            tags = [value for value in (*args, kwargs.get("tag")) if isinstance(value, str)]
            self._meet(" ".join([name.removeprefix("add_"), *tags[:1]]), error)

    def _meet(self, what: str, error: Exception) -> None:
        """Leave out what cannot be drawn; leave off where nothing can be written."""
        if isinstance(error, OSError | ImportError):
            self._turn_off(error)
        else:
            self._leave_out(what, error)

    def _leave_out(self, what: str, error: Exception) -> None:
        """Warn, once, of what cannot be drawn."""
        if what in self._left_out:
            return
        self._left_out.add(what)
        self.logger.warning(f"TensorBoard cannot show {what}: {told(error, anywhere=False)}")

    def _summary_writer(self, mode: str) -> Any:
        """The mode's `SummaryWriter`, made at its first use."""
        if mode not in self._writers:
            # Imported here: it costs a second, and not every run wants it.
            from torch.utils.tensorboard import SummaryWriter

            folder = f"{self.log_dir}/{mode}"
            self._writers[mode] = SummaryWriter(folder, purge_step=self._first_step)
        return self._writers[mode]

    def _turn_off(self, error: Exception) -> None:
        self.enabled = False
        what = "TensorBoard is off from here on, training goes on"
        self.logger.warning(f"{what}: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Write what is pending."""
        for writer in self._writers.values():
            try:
                writer.close()
            except Exception:
                pass  # a full disk must not stop a run that has been saved
