"""Metrics of torchmetrics' that keep lists, or merge moments, where a process has little or no
data."""

import pytest
import torch

import exact
import ranks
import tiny
from machinery import distributed
from machinery.update.metrics import MetricTracker

torchmetrics = pytest.importorskip("torchmetrics")


class AUROC(torchmetrics.classification.MulticlassAUROC):
    """Lists of floats and of integers."""

    def __init__(self):
        super().__init__(num_classes=3)

    def update(self, output, target):
        super().update(output.softmax(1), target)


class Reciprocal(torchmetrics.retrieval.RetrievalMRR):
    """Lists that are not joined, one of integers."""

    def update(self, output, target):
        super().update(output[:, 0], target == 0, indexes=target * 0)


class Pearson(torchmetrics.PearsonCorrCoef):
    """Moments, which are merged."""

    def update(self, output, target):
        super().update(output[:, 0], target.to(output.dtype))


class Spread(torchmetrics.MeanMetric):
    """Sums, of values and of weights."""

    def update(self, output, target):
        super().update(output.amax(1))


KINDS = [AUROC, Reciprocal, Pearson, Spread]


def batches():
    """Batches of four, three and five samples."""
    generator = torch.Generator().manual_seed(4)
    sizes = (4, 3, 5)
    return [
        (torch.randn(n, 3, generator=generator), torch.arange(n, dtype=torch.int64) % 3)
        for n in sizes
    ]


def counted(shares):
    """The results of all metrics, where each process has a share of the batches, twice."""
    objects = []
    for kind in KINDS:
        metric = kind()
        metric.__name__ = kind.__name__
        objects.append(metric)
    tracker = MetricTracker(objects=objects)
    results = []
    for turn in (0, 1):  # each has another share then; asking changes nothing
        for number in shares[distributed.rank() - turn]:
            tracker.update_objects(*batches()[number])
        results += [tracker.result(), tracker.result()]
        tracker.reset()
    return results


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shares", [([0, 1, 2], []), ([0, 1], [2]), ([], [0, 2], [1])])
def test_a_process_without_data_takes_no_part(tmp_path, shares):
    alone = ranks.run(tmp_path, 1, counted, [[0, 1, 2]])[0]
    assert alone[0]["AUROC"] not in (0.0, 1.0)
    for results in ranks.run(tmp_path, len(shares), counted, shares):
        for one, other in zip(alone, results, strict=True):
            assert other == pytest.approx(one, rel=1e-5)


def trained(folder):
    tiny.AUROC, tiny.Reciprocal = AUROC, Reciprocal
    AUROC.__module__ = Reciprocal.__module__ = "tiny"
    few = {"n": 20, "batch_size": 8, "validation_split": 0.1}
    metrics = ["accuracy", "AUROC", "Reciprocal"]
    changes = {"data_loader__args": few, "metrics": metrics, "trainer__epochs": 1}
    return exact.train(exact.settings(folder, **changes))[1]


@pytest.mark.filterwarnings("ignore")
def test_fewer_samples_of_validation_than_processes(tmp_path):
    alone = ranks.run(tmp_path, 1, trained, tmp_path)[0]
    for logs in ranks.run(tmp_path, 3, trained, tmp_path):
        assert logs[0] == pytest.approx(alone[0], rel=1e-6)


class Aside(torchmetrics.Metric):
    """What it has counted is in no state, and other than at first in one process alone."""

    __module__ = "tiny"

    def __init__(self):
        super().__init__()
        self.hits = 0
        self.add_state("n", torch.zeros(()), dist_reduce_fx="sum")

    def update(self, output, target):
        self.n += len(target)
        if not distributed.is_main():
            self.hits += 1

    def compute(self):
        return self.n


def saved_inside(config):
    tiny.Aside = Aside
    trainer = tiny.build(config)
    saved = []
    trainer._save = lambda step, *rest: saved.append(step)
    trainer.train()
    return [step for step in saved if step is not None]


def test_all_processes_leave_out_a_checkpoint_that_one_cannot_write(tmp_path):
    config = exact.settings(tmp_path, metrics=["Aside"], trainer__save_step=2, trainer__epochs=1)
    assert ranks.run(tmp_path, 2, saved_inside, config) == [[], []]
