"""Where a run's numbers go: TensorBoard, a table of epochs, `metrics.csv`, and any tracker of your own are writers."""

import contextlib
import csv
import logging
import math
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from machinery import distributed
from machinery.errors import StorageError, told
from machinery.files import replacing

_KINDS = r"scalars?|images?|audio|text|histogram(_raw)?|pr_curve|embedding|figure|video|mesh|graph"


class TensorboardWriter:
    """TensorBoard's `SummaryWriter` at a current step; its `add_…` methods do nothing when it is off.

    Each mode ("train", "valid") is a run of TensorBoard's below the run's folder, so that both curves share a chart.
    Event files are made at the first write. Trouble in writing warns once and never stops a training.

    Args:
        log_dir: where the event files go.
        logger: gets the warning.
        enabled: False turns every method into nothing.
        hparams: what the user has set, for TensorBoard's page of hyper-parameters.
        best_epoch: says which epoch is the best so far.
    """

    def __init__(
        self,
        log_dir: Path | None,
        logger: logging.Logger,
        enabled: bool,
        hparams: Mapping[str, Any] | None = None,
        best_epoch: Callable[[], int] = lambda: 0,
    ) -> None:
        self.log_dir, self.logger, self.enabled = log_dir, logger, enabled
        self.step, self.mode = 0, "train"
        #: Points at this step and later, of an earlier process of the run, are dropped.
        self.purge_step: int | None = None
        self._hparams, self._best_epoch, self._best = hparams, best_epoch, dict[str, float]()
        self._writers: dict[str, Any] = {}

    def set_step(self, step: int, mode: str = "train") -> None:
        """Set the step and the mode ("train", "valid") of the writes that follow."""
        self.step, self.mode = step, mode

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """A point for each number, such as "loss/train"; of a whole epoch those that have no points yet."""
        if "epoch" in numbers:
            valid = {name[4:]: value for name, value in numbers.items() if name.startswith("val_")}
            if numbers["epoch"] == self._best_epoch():
                self._best = {f"best/{name}/valid": value for name, value in valid.items()}
            numbers = {"samples_per_second": numbers["samples/s"], **self._best}
            if self._hparams and valid:
                tags = [*valid, *(f"best/{name}" for name in valid if self._best)]
                self._write(
                    "file_writer", lambda writer: self._describe(writer, tags), mode="valid"
                )
        for name, value in numbers.items():
            tag, _, mode = (
                name.rpartition("/") if name.endswith(("/train", "/valid")) else (name, "", "train")
            )
            self._write("add_scalar", tag, value, step, mode=mode)

    def _describe(self, writer: Any, tags: list[str]) -> None:
        """The hyper-parameters of the run, and which of its numbers to compare runs by; once."""
        from torch.utils.tensorboard.summary import hparams

        for part in hparams(dict(self._hparams or {}), dict.fromkeys(tags, 0.0)):
            writer.add_summary(part)
        self._hparams = None

    def __getattr__(self, name: str) -> Callable[..., None]:
        if not re.fullmatch(f"add_({_KINDS})", name):
            raise AttributeError(f"TensorboardWriter has no method {name!r}")

        def add(tag: Any, *args: Any, **kwargs: Any) -> None:
            # The step is the argument after the data; a caller's own wins.
            if len(args) < 2 and name != "add_graph":
                kwargs.setdefault("global_step", self.step)
            self._write(name, tag, *args, mode=self.mode, **kwargs)

        return add

    def _write(self, name: str, *args: Any, mode: str, **kwargs: Any) -> None:
        if not self.enabled:
            return
        try:
            if mode not in self._writers:
                # Imported here: it costs a second, and not every run wants it.
                from torch.utils.tensorboard import SummaryWriter

                self._writers[mode] = SummaryWriter(
                    f"{self.log_dir}/{mode}", purge_step=self.purge_step
                )
            writer = self._writers[mode]
            if name == "file_writer":
                args[0](writer.file_writer)
            else:
                getattr(writer, name)(*args, **kwargs)
        except Exception as error:
            self.enabled = False
            self.logger.warning(
                f"TensorBoard is off from here on, training goes on: {type(error).__name__}: {error}"
            )

    def close(self) -> None:
        """Write what is pending."""
        for writer in self._writers.values():
            with contextlib.suppress(
                Exception
            ):  # a full disk must not stop a run that has been saved
                writer.close()


class Writer:
    """Writes numbers somewhere; anything with its methods can be added: `trainer.writers.add(…)` in train.py."""

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Write numbers by name, such as "loss/train"; those of a whole epoch have an "epoch" among them.

        Args:
            step: batches done since the run began.
        """

    def close(self) -> None:
        """Write what is pending: the run ends, or is stopped."""


class Writers:
    """All writers of a run; one that fails is left out from then on, and training goes on."""

    def __init__(self, *writers: Any) -> None:
        self._writers = list(writers)

    def add(self, writer: Any) -> None:
        """Write to this one, too; of several processes, the main one does."""
        self._writers += [] if distributed.RANK else [writer]

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        """Hand the numbers to each."""
        self._each(lambda writer: writer.log(numbers, step))

    def close(self) -> None:
        """Close each."""
        self._each(lambda writer: writer.close())

    def _each(self, call: Callable[[Any], None]) -> None:
        """Whatever a writer meets (no network, a full disk) must not end a training."""
        for writer in list(self._writers):
            try:
                call(writer)
            except (Exception, SystemExit) as error:
                self._writers.remove(writer)
                what = f"{type(writer).__name__} is off from here on, training goes on"
                logging.getLogger("logger").warning(f"{what}: {told(error)}")
                with contextlib.suppress(Exception, SystemExit):
                    writer.close()


Row = Mapping[str, float]


class EpochTable(Writer):
    """The rows on the console, as wide as the terminal; what has no place is in `metrics.csv`.

    Args:
        logger: prints them.
        best_epoch: says which epoch is the best so far; its row gets a star.
        monitored: the number that always has a place.
    """

    def __init__(
        self, logger: logging.Logger, best_epoch: Callable[[], int], monitored: str = ""
    ) -> None:
        self.logger, self._best_epoch, self._monitored = logger, best_epoch, monitored
        self._seen: list[str] = []
        self._names: list[str] = []

    def log(self, numbers: Row, step: int) -> None:
        """Print the row of an epoch; other numbers have no place here."""
        if "epoch" in numbers:
            if list(numbers) != self._seen:
                self._seen, self._names = list(numbers), self._fitting(list(numbers))
                left_out = [name for name in numbers if name not in self._names]
                if left_out:
                    self.logger.info(
                        f"only in metrics.csv, for want of space: {', '.join(left_out)}"
                    )
                self.logger.info(" ".join(f"{name:>{_width(name)}}" for name in self._names))
            cells = [f"{_shown(name, numbers[name]):>{_width(name)}}" for name in self._names]
            self.logger.info(
                " ".join(cells) + (" *" if numbers["epoch"] == self._best_epoch() else "")
            )

    def _fitting(self, names: list[str]) -> list[str]:
        """The columns that fit beside each other; the last metrics go first, in training and in validation."""
        metrics = [name for name in names if name not in ("epoch", "lr", "seconds", "samples/s")]
        order = [each for name in metrics for each in (f"val_{name}", name) if each in metrics]
        spare = [name for name in dict.fromkeys(order) if name != self._monitored]
        while (
            sum(_width(name) + 1 for name in names) + 1 > shutil.get_terminal_size().columns
            and spare[1:]
        ):
            names.remove(spare.pop())
        return names


class MetricsFile(Writer):
    """The rows in a CSV file, whole at any time."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, numbers: Row, step: int) -> None:
        """Append the row of an epoch; a metric that came later gets a column."""
        if "epoch" in numbers:
            self._rewrite(
                [
                    *(self._read() if self.path.is_file() else []),
                    {k: repr(v) for k, v in numbers.items()},
                ]
            )

    def cut(self, last_epoch: int) -> None:
        """Drop the rows after `last_epoch`, and what is none: the run goes on from there."""
        try:
            rows = [
                row
                for row in self._read()
                if None not in (*row, *row.values()) and row["epoch"].isdigit()
            ]
            if rows:
                self._rewrite([row for row in rows if int(row["epoch"]) <= last_epoch])
        except (OSError, StorageError) as error:
            logging.getLogger("logger").warning(
                f"{self.path.name} cannot be written, training goes on: {error}"
            )
        except (ValueError, KeyError, csv.Error):
            self.path.replace(self.path.with_name(self.path.name + ".old"))
            logging.getLogger("logger").warning(
                f"{self.path.name} is no table of epochs: renamed {self.path.name}.old"
            )

    def _read(self) -> list[dict[str, Any]]:
        with open(self.path, newline="", encoding="utf-8") as file:
            # A line that a killed process left unfinished is not a row.
            return list(csv.DictReader([line for line in file if line.endswith("\n")]))

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with replacing(self.path, "w") as file:
            writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _width(name: str) -> int:
    return max(len(name), 5 if name == "epoch" else 7)


def _shown(name: str, value: float) -> str:
    extreme = (
        not isinstance(value, int)
        and value
        and math.isfinite(value)
        and not 1e-3 <= abs(value) < 1e5
    )
    kind = {"seconds": ".1f", "samples/s": ",.0f", "lr": ".3g"}.get(
        name, ".3g" if extreme else ".4f"
    )
    return format(value, "," if isinstance(value, int) else kind)
