"""Exact averages over samples, summed where the values are."""

import copy
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from machinery import distributed
from machinery.errors import ConfigError
from machinery.telling import described, told
from machinery.update import metric_objects
from machinery.update.metric_objects import asks_others as asks_others
from machinery.update.metric_values import (
    Results,
    as_word,
    classes_of as classes_of,
    names_of_classes as names_of_classes,
)
from machinery.update.sharding import is_sharded

Evaluate = Callable[[Any, "MetricTracker"], Mapping[str, float]]


class MetricTracker(metric_objects.OfAllProcesses):
    """Sums of values and of the samples behind them, one pair for each name.

    Values that are tensors are summed on their device in float64 (float32 where the device has
    none), so an update never waits for the GPU; only `avg` and `result` read them. Where several
    processes train, `result` and `since_last` are of all of them, and all have to call it; `avg` is
    of this one.

    Args:
        keys: the names, in the order in which `result` gives them; others may be added by updates.
        writer: gets each updated value as a scalar at its current step, if given.
        objects: metrics with `update`, `compute` and `reset`; the tracker has copies of its own.
    """

    def __init__(self, *keys: str, writer: Any = None, objects: Sequence[Any] = ()) -> None:
        self.writer = writer
        #: The names of the classes, where the data has them.
        self.classes: Sequence[str] = ()
        #: What `result` has found that has rows and columns, such as confusion matrices.
        self.tables: dict[str, torch.Tensor] = {}
        self._keys = keys
        self._fresh = {metric.__name__: metric for metric in objects}
        try:
            self.objects: dict[str, Any] = copy.deepcopy(self._fresh)
        except Exception as error:
            names = ", ".join(self._fresh)
            what = f"training and validation need copies of {names}"
            raise ConfigError(f"metrics: {what}: {told(error)}") from error
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._sums: dict[str, Any] = dict.fromkeys(self._keys, 0.0)
        self._counts: dict[str, float] = dict.fromkeys(self._keys, 0)
        #: Samples of this process that have been counted.
        self.samples: float = 0
        # The sums and counts that `since_last` has given.
        self._seen: dict[str, tuple[float, float]] = {}
        # The counts of all processes, and their samples, as of the last reading.
        self._total: dict[str, float] = {}
        self._total_samples: float = 0
        for name, metric in self.objects.items():
            metric_objects.reset(name, metric)

    def update_objects(self, output: Any, target: Any) -> None:
        """Show a batch to the metrics that are objects."""
        for name, metric in self.objects.items():
            metric_objects.show(name, metric, output, target)

    def update(self, key: str, value: Any, n: float | None = None) -> None:
        """Add the mean `value` of `n` samples (by default one), or a value for each sample, [n].

        A dict of such is added as "key/name", each.

        Raises:
            ConfigError: a tensor of another shape.
        """
        if isinstance(value, dict):
            for name, each in value.items():
                self.update(f"{key}/{as_word(name)}", each, n)
            return
        if self.writer is not None:
            self.writer.add_scalar(key, _mean(value))
        if isinstance(value, torch.Tensor) and value.requires_grad:
            value = value.detach()
        if not isinstance(value, torch.Tensor):
            n = 1 if n is None else n
            self._sums[key] = self._sums.get(key, 0.0) + number(key, value) * n
        elif value.ndim == 0:
            n = 1 if n is None else n
            self._sum_on_device(key, value).add_(value, alpha=n)
        else:
            if value.ndim > 1 or n not in (None, len(value)):
                raise _no_values(key, value, n)
            n = len(value)
            total = self._sum_on_device(key, value)
            total += value.sum(dtype=total.dtype)
        self._counts[key] = self._counts.get(key, 0) + n

    def _sum_on_device(self, key: str, value: torch.Tensor) -> torch.Tensor:
        """The sum of a name as a tensor, which goes on from a number where there is one."""
        total = self._sums.get(key, 0.0)
        if not isinstance(total, torch.Tensor):
            total = _exact_zero(value.device) + total
            self._sums[key] = total
        return total

    def avg(self, key: str) -> float:
        """The average of one name over its samples (waits for the GPU); NaN if it has none."""
        if not self._counts[key]:
            return math.nan
        return float(self._sums[key]) / self._counts[key]

    def result(self) -> dict[str, float]:
        """The averages of all names that have had an update; one wait for the GPU.

        What metrics compute that is no single number is "NAME/KEY" or "NAME/CLASS".
        """
        everywhere = self._read()
        averages = {}
        for key, total in everywhere.sums.items():
            if everywhere.counts[key]:
                averages[key] = total / everywhere.counts[key]
        results = Results(averages, self.classes)
        for name, metric in self.objects.items():
            results.add(name, metric_objects.computed(name, metric, self._fresh[name]))
        self.tables = results.tables
        return results.numbers

    def of_each(self, evaluate: Evaluate, loaders: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of several sets of data, as "SET_NAME".

        Args:
            evaluate: gives those of one.
            loaders: of the sets, by name.
        """
        numbers = {}
        tables = {}
        samples: float = 0
        for name, loader in loaders.items():
            for each, value in evaluate(loader, self).items():
                numbers[f"{name}_{each}"] = value
            for each, table in self.tables.items():
                tables[f"{name}_{each}"] = table
            samples += self.samples_everywhere()
        self.tables = tables
        self.samples = samples
        self._total_samples = samples
        return numbers

    def since_last(self) -> dict[str, float]:
        """The averages over what was added since the last call; one wait for the GPU."""
        everywhere = self._read()
        averages = _Averages()
        for key, total in everywhere.sums.items():
            count = everywhere.counts[key]
            old_total, old_count = self._seen.get(key, (0.0, 0))
            if count > old_count:
                averages[key] = (total - old_total) / (count - old_count)
            self._seen[key] = (total, count)
        return averages

    def _read(self) -> "_Totals":
        """Sums and counts of all processes."""
        own = _Totals(self._own_sums(), self._counts, self.samples)
        everywhere = _added(distributed.gathered(own))
        self._total = everywhere.counts
        self._total_samples = everywhere.samples
        return everywhere

    def _own_sums(self) -> dict[str, float]:
        """The sums of this process; one wait for the GPU."""
        sums = dict(self._sums)
        on_device = [key for key, total in sums.items() if isinstance(total, torch.Tensor)]
        if on_device:
            values = torch.stack([sums[key] for key in on_device]).tolist()
            sums.update(zip(on_device, values, strict=True))
        return sums

    def count(self, key: str) -> float:
        """How many samples an average is over; of all processes, as of the last reading."""
        if distributed.alone():
            return self._counts.get(key, 0)
        return self._total.get(key, 0)

    def samples_everywhere(self) -> float:
        """How many samples have been counted; of all processes, as of the last reading."""
        if distributed.alone():
            return self.samples
        return self._total_samples

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts, for a checkpoint inside an epoch; of several processes those of each."""
        own: dict[str, Any] = {
            "sums": self._own_sums(),
            "counts": dict(self._counts),
            "samples": self.samples,
        }
        if self.objects:
            own["objects"] = {
                name: metric_objects.counted(metric) for name, metric in self.objects.items()
            }
        if distributed.alone():
            return {**own, "seen": dict(self._seen)}
        return {"parts": distributed.gathered(own), "seen": dict(self._seen)}

    def unsaved(self) -> list[str]:
        """The objects whose counts no checkpoint holds."""
        found = []
        for name, metric in self.objects.items():
            kept_aside = metric_objects.kept_aside(metric, self._fresh[name])
            if kept_aside or metric_objects.counted(metric) is None:
                found.append(name)
        return found

    def warn_of_unsaved(self, epoch: int) -> bool:
        """Tell of objects whose counts no checkpoint holds; whether there are any.

        Of several processes, all have to ask: what one of them has counted may be such.
        """
        found: dict[str, None] = {}
        if self.objects:
            for names in distributed.gathered(self.unsaved()):
                found.update(dict.fromkeys(names))
        unsaved = ", ".join(found)
        if unsaved == "":
            return False
        what = f"{unsaved} has no state_dict of all that it counts, and no checkpoint can hold it"
        logging.getLogger("trainer").warning(f"{what}: epoch {epoch} is not saved before its end")
        return True

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from sums and counts; tensors move to the device of the next value.

        Each process goes on from its own, or the main one from all, where there is another number
        of them now.
        """
        saved = state.get("parts", [state])
        all_counted = [_as_totals(each) for each in saved]
        self._total = _added(all_counted).counts
        self._total_samples = _added(all_counted).samples
        self._seen = dict(state["seen"])
        if len(saved) == distributed.size():
            mine = slice(distributed.rank(), distributed.rank() + 1)
        elif distributed.is_main():
            mine = slice(None)
        else:
            mine = slice(0)
        own = _added(all_counted[mine])
        self._sums = {**dict.fromkeys(self._keys, 0.0), **own.sums}
        self._counts = {**dict.fromkeys(self._keys, 0), **own.counts}
        self.samples = own.samples
        objects = [each.get("objects", {}) for each in saved[mine]]
        for name, metric in self.objects.items():
            states = [each[name] for each in objects if each.get(name) is not None]
            metric_objects.restore(metric, self._fresh[name], states)


class _Averages(dict[str, float]):
    """Averages by name; that of what has no sample is NaN, as where all targets are ignored."""

    def __missing__(self, name: str) -> float:
        return math.nan


class _Totals(NamedTuple):
    """What a process has counted: sums and counts by name, and samples."""

    sums: Mapping[str, float]
    counts: dict[str, float]
    samples: float


def _as_totals(state: Mapping[str, Any]) -> _Totals:
    """What a process has counted, from its state."""
    samples = state.get("samples")
    if samples is None:  # of an earlier version, where all averages were over samples
        samples = max(state["counts"].values(), default=0)
    return _Totals(state["sums"], state["counts"], samples)


def _added(processes: Iterable[_Totals]) -> _Totals:
    """The sums and the counts of several processes, each added up by name."""
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    samples: float = 0
    for each in processes:
        _add(sums, each.sums)
        _add(counts, each.counts)
        samples += each.samples
    return _Totals(sums, counts, samples)


def _add(totals: dict[str, float], numbers: Mapping[str, float]) -> None:
    for key, value in numbers.items():
        if key in totals:
            totals[key] += value
        else:
            totals[key] = value


def _mean(value: Any) -> float:
    """A value, or the mean of several, as a number."""
    if isinstance(value, torch.Tensor):
        return float(value.detach().float().mean())
    return float(value)


def _no_values(key: str, values: torch.Tensor, n: float | None) -> ConfigError:
    """The error for a tensor that is no list of one value for each of `n` samples."""
    expected = f"expected one value, or one for each of {n} samples"
    hint = ""
    if values.ndim == 1:
        hint = " (one for each class comes from a metric that counts: update, compute, reset)"
    return ConfigError(f"{key}: {expected}, found a tensor {list(values.shape)}{hint}")


def _exact_zero(device: torch.device) -> torch.Tensor:
    """A zero of float64; of float32 where a device has no other (Apple's, some of Intel's)."""
    try:
        return torch.zeros((), dtype=torch.float64, device=device) + 0.0
    except (TypeError, RuntimeError):
        return torch.zeros((), dtype=torch.float32, device=device)


def by_kind(metrics: Sequence[Any], device: torch.device) -> tuple[list[Any], list[Any]]:
    """Metrics that are functions, and those that are objects; networks among these on the
    device."""
    functions = []
    objects = []
    for metric in metrics:
        if not hasattr(metric, "compute"):
            functions.append(_of_classes(metric))
            continue
        objects.append(metric)
        if isinstance(metric, torch.nn.Module):
            metric.to(device)
    return functions, objects


def _of_classes(metric: Any) -> Any:
    """A metric that is a function; one of torchmetrics' for classes takes shares of them, too."""
    if not metric_objects.takes_classes(metric):
        return metric

    def function(output: Any, target: Any) -> Any:
        return metric(output, metric_objects.as_taken(metric, output, target))

    function.__name__ = metric.__name__
    return function


def number(name: str, value: Any) -> float:
    """A value as a number.

    Raises:
        ConfigError: it is none, with what it is.
    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        found = described(value) or f"a {type(value).__name__}"
        raise ConfigError(f"{name}: expected a number, found {found}") from None


def named_terms(loss: Any, names: Sequence[str]) -> dict[str, Any]:
    """What `_forward` returns as the loss, by the names of its terms.

    Raises:
        ConfigError: other terms were promised, or one is of weights that are shared out.
    """
    if isinstance(loss, dict):
        terms: dict[str, Any] = loss
    else:
        terms = {names[0]: loss}
    if any(map(is_sharded, terms.values())):
        what = "fsdp has no loss of the weights themselves: the optimizer's weight_decay is one"
        raise ConfigError(f"trainer.strategy: {what}")
    if len(terms) == len(names) == 1 and names[0] in terms:  # most often: it costs no set
        return terms
    if terms.keys() != set(names):
        promised = ", ".join(names)
        returned = ", ".join(terms)
        raise ConfigError(f"loss_terms says {promised}, but _forward returns {returned}")
    return terms
