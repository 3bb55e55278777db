"""Exact averages over samples, summed where the values are."""

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from machinery import distributed
from machinery.checkpoints.file import plain
from machinery.errors import CheckpointError, ConfigError, described, told


class MetricTracker:
    """Sums of values and of the samples behind them, one pair for each name.

    Values that are tensors are summed on their device in float64 (float32 where the device has none), so an update
    never waits for the GPU; only `avg` and `result` read them. Where several processes train, `result` and `since_last`
    are of all of them, and all have to call it; `avg` is of this one.

    Args:
        keys: the names, in the order in which `result` gives them; others may be added by updates.
        writer: gets each updated value as a scalar at its current step, if given.
        objects: metrics with `update`, `compute` and `reset`; the tracker has copies of its own.
    """

    def __init__(self, *keys: str, writer: Any = None, objects: Sequence[Any] = ()) -> None:
        self.writer, self._keys = writer, keys
        self._fresh = {metric.__name__: metric for metric in objects}
        try:
            self.objects: dict[str, Any] = copy.deepcopy(self._fresh)
        except Exception as error:
            raise ConfigError(
                f"metrics: training and validation need copies of {', '.join(self._fresh)}: {told(error)}"
            ) from error
        self.reset()

    def reset(self) -> None:
        """Forget all values."""
        self._sums: dict[str, Any] = dict.fromkeys(self._keys, 0.0)
        self._counts: dict[str, float] = dict.fromkeys(self._keys, 0)
        self._seen: dict[str, tuple[float, float]] = {}
        self._total: dict[str, float] = {}
        for metric in self.objects.values():
            metric.reset()

    def update_objects(self, output: Any, target: Any) -> None:
        """Show a batch to the metrics that are objects."""
        for metric in self.objects.values():
            metric.update(output, target)

    def update(self, key: str, value: Any, n: float | None = None) -> None:
        """Add the mean `value` of `n` samples (by default one), or a tensor [n] with one value for each sample.

        Raises:
            ConfigError: a tensor of another shape.
        """
        if self.writer is not None:
            self.writer.add_scalar(
                key, float(value.detach().float().mean() if torch.is_tensor(value) else value)
            )
        value = value if isinstance(value, torch.Tensor) else _number(key, value)
        size = [*value.shape] if isinstance(value, torch.Tensor) else []
        if size and (len(size) > 1 or n not in (None, *size)):
            raise ConfigError(
                f"{key}: expected one value, or one for each of {n} samples, found a tensor {size}"
            )
        n = (*size, 1)[0] if n is None else n
        if not isinstance(value, torch.Tensor):
            self._sums[key] = self._sums.get(key, 0.0) + value * n
        else:
            total = self._sums.get(key)
            if not isinstance(total, torch.Tensor):
                total = self._sums[key] = _exact(value.device) + (total or 0.0)
            if size:
                total += value.detach().sum(dtype=total.dtype)
            else:
                total.add_(value.detach(), alpha=n)
        self._counts[key] = self._counts.get(key, 0) + n

    def avg(self, key: str) -> float:
        """The average of one name over its samples (waits for the GPU); NaN before the first update."""
        return float(self._sums[key]) / self._counts[key] if self._counts[key] else math.nan

    def result(self) -> dict[str, float]:
        """The averages of all names that have had an update; one wait for the GPU."""
        sums, counts = self._read()
        averages = {key: sums[key] / counts[key] for key in sums if counts[key]}
        return averages | {
            name: _number(name, _of_all(metric).compute()) for name, metric in self.objects.items()
        }

    def since_last(self) -> dict[str, float]:
        """The averages over what was added since the last call; one wait for the GPU."""
        sums, counts = self._read()
        before, self._seen = self._seen, {key: (sums[key], counts[key]) for key in sums}
        averages = {}
        for key in sums:
            old_sum, old_count = before.get(key, (0.0, 0))
            if counts[key] > old_count:
                averages[key] = (sums[key] - old_sum) / (counts[key] - old_count)
        return averages

    def _read(self) -> tuple[dict[str, float], dict[str, float]]:
        """Sums and counts of all processes."""
        sums, self._total = _added(distributed.gathered((self._own(), self._counts)))
        return sums, self._total

    def _own(self) -> dict[str, float]:
        """The sums of this process; one wait for the GPU."""
        sums = dict(self._sums)
        on_device = [key for key, value in sums.items() if isinstance(value, torch.Tensor)]
        if on_device:
            sums.update(
                zip(on_device, torch.stack([sums[key] for key in on_device]).tolist(), strict=True)
            )
        return sums

    def count(self, key: str) -> float:
        """How many samples the average of `key` is over; of several processes, as of the last `result`."""
        return (self._counts if distributed.SIZE == 1 else self._total).get(key, 0)

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts, for a checkpoint inside an epoch; of several processes those of each."""
        own: dict[str, Any] = {"sums": self._own(), "counts": dict(self._counts)}
        if self.objects:
            own["objects"] = {name: _counted(metric) for name, metric in self.objects.items()}
        counted = own if distributed.SIZE == 1 else {"parts": distributed.gathered(own)}
        return {**counted, "seen": dict(self._seen)}

    def unsaved(self) -> list[str]:
        """The objects whose counts no checkpoint holds."""
        return [name for name, metric in self.objects.items() if _counted(metric) is None]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from sums and counts; tensors move to the device of the next value.

        Each process goes on from its own, or the main one from all, where there is another number of them now.
        """
        parts = state.get("parts") or [state]
        _, self._total = _added([(part["sums"], part["counts"]) for part in parts])
        same = len(parts) == distributed.SIZE
        parts = [parts[distributed.RANK]] if same else parts if distributed.RANK == 0 else []
        sums, counts = _added([(part["sums"], part["counts"]) for part in parts])
        self._sums, self._counts = (
            dict.fromkeys(self._keys, 0.0) | sums,
            dict.fromkeys(self._keys, 0) | counts,
        )
        self._seen = dict(state["seen"])
        for i, part in enumerate(parts):
            for name, counted in part.get("objects", {}).items():
                if name in self.objects and counted is not None:
                    metric = copy.deepcopy(self._fresh[name]) if i else self.objects[name]
                    metric.load_state_dict(copy.deepcopy(counted))
                    if i and not isinstance(
                        metric, MetricTracker
                    ):  # the first of which has those of all
                        self.objects[name].merge_state(metric)


def _added(parts: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> Any:
    """The sums and the counts of several processes, each added up by name."""
    added: tuple[dict[str, float], dict[str, float]] = ({}, {})
    for part in parts:
        for total, numbers in zip(added, part, strict=True):
            for key, value in numbers.items():
                total[key] = total[key] + value if key in total else value
    return added


def asks_others(metric: Any) -> bool:
    """Whether a metric object computes by itself what all processes have counted, as torchmetrics' and ours do."""
    return isinstance(metric, MetricTracker) or hasattr(metric, "sync_context")


def _of_all(metric: Any) -> Any:
    """A metric object with what those of all processes have counted."""
    if distributed.SIZE == 1 or asks_others(metric):
        return metric
    first, *others = distributed.gathered(metric)
    for other in others:
        first.merge_state(other)
    return first


def _exact(device: torch.device) -> torch.Tensor:
    """A zero of float64, or of float32 on a device that has no float64 (Apple's, some of Intel's)."""
    try:
        return torch.zeros((), dtype=torch.float64, device=device) + 0.0
    except (TypeError, RuntimeError):
        return torch.zeros((), dtype=torch.float32, device=device)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        found = described(value) or f"a {type(value).__name__}"
        raise ConfigError(f"{name}: expected a number, found {found}") from None


def _counted(metric: Any) -> Any:
    """What a metric object has counted, by a `state_dict` of its own class; None where a checkpoint would lose some."""
    if hasattr(metric, "persistent"):  # or torchmetrics leaves it out
        metric.persistent(True)
    inherited = getattr(type(metric), "state_dict", nn.Module.state_dict) is nn.Module.state_dict
    wrapper = isinstance(metric, nn.Module) and [
        *metric.children()
    ]  # whose own counts are in no state
    with contextlib.suppress(CheckpointError):
        return None if inherited or wrapper else plain(metric.state_dict())
    return None
