"""Metrics that are objects come back from a checkpoint inside an epoch as they were, or the epoch
is done again."""

from collections import defaultdict, deque

import numpy as np
import pytest
import torch
from torch import nn

import tiny
from machinery.update.metrics import MetricTracker
from tiny import interrupted


class Metric:
    __name__ = "own"

    def __init__(self):
        self.reset()

    def update(self, output, target):
        for value in (output.argmax(1) == target).double().tolist():
            self.add(value)

    def reset(self):
        self.total, self.n = 0.0, 0

    def add(self, value):
        self.total += value
        self.n += 1

    def compute(self):
        return self.total / max(self.n, 1)


class Arrays(Metric):
    def reset(self):
        self.total, self.n = np.zeros(2), np.float32(0)

    def add(self, value):
        self.total[int(value)] += 1
        self.n += np.float32(0.1)

    def compute(self):
        assert isinstance(self.total, np.ndarray) and type(self.n) is np.float32
        return self.total[1] / self.total.sum() + float(self.n)


class Nested(Metric):
    def reset(self):
        self.seen = {"right": [0, 0.0], "by class": ({}, torch.zeros(2))}
        self.function, self.kind = max, Metric

    def add(self, value):
        self.seen["right"][0] += 1
        self.seen["by class"][0][str(value)] = self.seen["by class"][0].get(str(value), 0) + 1
        self.seen["by class"][1][int(value)] += 1

    def compute(self):
        counts, tensor = self.seen["by class"]
        assert counts.get("1.0", 0) == float(tensor[1])
        return float(tensor[1]) / max(self.seen["right"][0], 1)


class WithState(Metric):
    def state_dict(self):
        return {"both": [self.total, self.n]}

    def load_state_dict(self, state):
        self.total, self.n = state["both"]


class Sets(Metric):
    def reset(self):
        super().reset()
        self.seen = set()

    def add(self, value):
        self.seen.add(self.n // 5)
        super().add(value)

    def compute(self):
        return super().compute() + len(self.seen)


class Deques(Metric):
    def reset(self):
        self.last = deque(maxlen=20)

    def add(self, value):
        self.last.append(value)

    def compute(self):
        return sum(self.last)


class Defaults(Metric):
    def reset(self):
        self.counts = defaultdict(int)

    def add(self, value):
        self.counts[value] += 1

    def compute(self):
        return self.counts[1.0] / max(sum(self.counts.values()), 1)


class Holding(Metric):
    def reset(self):
        self.inner = Metric()

    def add(self, value):
        self.inner.add(value)

    def compute(self):
        return self.inner.compute()


class Module(nn.Module, Metric):
    """A module whose counts are no buffers."""

    def __init__(self):
        nn.Module.__init__(self)
        self.reset()


class Buffers(nn.Module, Metric):
    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("counts", torch.zeros(2, dtype=torch.float64))

    def reset(self):
        self.counts = torch.zeros(2, dtype=torch.float64)

    def add(self, value):
        self.counts[int(value)] += 1

    def compute(self):
        return self.counts[1] / self.counts.sum()


class NotPersistent(Buffers):
    """As torchmetrics has it: states are saved only if they are asked for."""

    saved = False

    def persistent(self, mode):
        self.saved = mode

    def state_dict(self, *args, **kwargs):
        return super().state_dict(*args, **kwargs) if self.saved else {}

    def load_state_dict(self, state):
        if state:
            super().load_state_dict(state)


class Rare(Module):
    """Its number is the same with and without what it has counted so far."""

    def add(self, value):
        self.n += 1
        self.total += self.n > 90

    def compute(self):
        return self.total


class WithSet(WithState):
    def state_dict(self):
        return {"both": {self.total, self.n}}


class ResettingItself(WithState):
    def compute(self):
        result = super().compute()
        self.reset()
        return result


COME_BACK = [WithState, NotPersistent, ResettingItself]
DO_NOT = [Metric, Arrays, Nested, Sets, Deques, Defaults, Holding, Module, Buffers, Rare, WithSet]


@pytest.mark.parametrize("kind", COME_BACK + DO_NOT)
@pytest.mark.parametrize("in_validation", [False, True])
def test_metric_objects_resume_exactly_or_from_the_epoch_s_start(
    tmp_path, monkeypatch, capfd, kind, in_validation
):
    if kind is ResettingItself and in_validation:
        pytest.skip("its number is asked for again, and is gone")
    kind.__module__ = "tiny"
    monkeypatch.setattr(tiny, kind.__name__, kind, raising=False)
    metrics = ["accuracy", {"type": kind.__name__, "name": "own"}]
    whole = tiny.train(tiny.settings(tmp_path / "a", metrics=metrics))
    config = tiny.settings(tmp_path / "b", metrics=metrics)
    path = interrupted(config, after=5 if in_validation else 16, in_validation=in_validation)
    assert ("step" in path.name) == (kind in COME_BACK)
    if kind in DO_NOT:
        assert "own has no state_dict" in capfd.readouterr().out
    assert tiny.rows(tiny.train(config, resume=path)) == tiny.rows(whole)


def test_torchmetrics_come_back():
    torchmetrics = pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.randn(9, generator=generator), torch.randn(9, generator=generator)) for _ in range(4)
    ]
    lost = [torchmetrics.wrappers.Running(torchmetrics.MeanSquaredError(), 3)]
    for metric in (torchmetrics.R2Score(), torchmetrics.MeanSquaredError(), *lost):
        metric.__name__ = "own"
        unbroken, first, second = (MetricTracker(objects=[metric]) for _ in range(3))
        for batch in batches:
            unbroken.update_objects(*batch)
        for batch in batches[:2]:
            first.update_objects(*batch)
        assert bool(first.unsaved()) == any(metric is each for each in lost)
        if first.unsaved():
            continue
        second.load_state_dict(first.state_dict())
        for batch in batches[2:]:
            second.update_objects(*batch)
        assert second.result() == unbroken.result()


def test_a_counter_beside_the_states_of_torchmetrics_is_told_with_the_first_update(
    tmp_path, monkeypatch, capfd
):
    torchmetrics = pytest.importorskip("torchmetrics")

    class Aside(torchmetrics.Metric):
        """Counts hits by add_state, and calls by itself."""

        def __init__(self):
            super().__init__()
            self.calls = 0
            self.add_state("hits", default=torch.zeros(()), dist_reduce_fx="sum")

        def update(self, output, target):
            self.calls += 1
            self.hits += (output.argmax(1) == target).float().mean()

        def compute(self):
            return self.hits / max(self.calls, 1)

        def reset(self):
            super().reset()
            self.calls = 0

    Aside.__module__ = "tiny"
    monkeypatch.setattr(tiny, "Aside", Aside, raising=False)
    metrics = [{"type": "Aside", "name": "own"}]
    whole = tiny.train(tiny.settings(tmp_path / "a", metrics=metrics))
    assert capfd.readouterr().out.count("own has no state_dict of all that it counts") == 1
    config = tiny.settings(tmp_path / "b", metrics=metrics)
    path = interrupted(config, after=16)
    assert "step" not in path.name
    assert tiny.rows(tiny.train(config, resume=path)) == tiny.rows(whole)


class Hits:
    """A metric object, as torchmetrics has them."""

    __name__ = "hits"

    def __init__(self):
        self.reset()

    def reset(self):
        self.hits, self.count = torch.zeros(()), 0

    def update(self, output, target):
        self.hits += (output.argmax(1) == target).sum()
        self.count += len(target)

    def compute(self):
        return self.hits / self.count

    def state_dict(self):
        return vars(self)

    def load_state_dict(self, state):
        vars(self).update(state)


@pytest.mark.parametrize("in_validation", [False, True])
def test_metric_objects_resume_too(tmp_path, monkeypatch, in_validation):
    Hits.__module__ = "tiny"
    monkeypatch.setattr(tiny, "Hits", Hits, raising=False)
    metrics = ["accuracy", {"type": "Hits", "name": "hits"}]
    whole = tiny.train(tiny.settings(tmp_path / "a", metrics=metrics))
    header, *rows = tiny.rows(whole)
    for row in rows:
        cells = dict(zip(header, map(float, row)))
        assert cells["hits"] == pytest.approx(cells["accuracy"]) and cells[
            "val_hits"
        ] == pytest.approx(cells["val_accuracy"])
    config = tiny.settings(tmp_path / "b", metrics=metrics)
    path = interrupted(config, after=4 if in_validation else 16, in_validation=in_validation)
    assert tiny.rows(tiny.train(config, resume=path)) == tiny.rows(whole)
