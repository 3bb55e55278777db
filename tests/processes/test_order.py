"""Data that changes from pass to pass, on several processes: they train what one trains."""

import numpy as np
import pytest

import ranks
import tiny
from base import BaseDataLoader
from exact import Exact, furthest, settings, train


class UnevenBatches:
    """Batches of other sizes in each pass: one of them is of one sample, and another large."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __iter__(self):
        sizes = np.random.permutation([1, 17, *[5] * (self.count - 2)])
        order = np.random.permutation(60)
        return iter([part.tolist() for part in np.split(order, np.cumsum(sizes))[: self.count]])


def train_on_uneven(config, count):
    """Train on passes of `count` batches."""

    class Uneven(Exact):
        def __init__(self, *args, **options):
            points = tiny.Points(60, noise=False)
            sampler = UnevenBatches(count)
            options["data_loader"] = BaseDataLoader(points, 8, False, 0.0, 0, batch_sampler=sampler)
            super().__init__(*args, **options)

    return train(config, trainer_class=Uneven)


@pytest.mark.parametrize(("count", "accumulate"), [(4, 3), (2, 5)])
def test_an_update_over_the_ends_of_passes_knows_the_sizes_of_each(tmp_path, count, accumulate):
    config = settings(tmp_path, trainer__len_epoch=10, trainer__accumulate=accumulate)
    (alone,) = ranks.run(tmp_path, 1, train_on_uneven, config, count)
    for weights, logs, *_ in ranks.run(tmp_path, 2, train_on_uneven, config, count):
        assert furthest(weights, alone[0]) < 1e-12
        assert logs[-1] == pytest.approx(alone[1][-1], rel=1e-6)


class Growing(tiny.Points):
    """Uneven in each epoch: a batch of the last leaves a process without a sample."""

    epoch = 1

    def __len__(self):
        return 17 * self.epoch


def train_on_growing(config):
    """Train on data that is longer in each epoch."""

    class Curriculum(Exact):
        def __init__(self, *args, **options):
            data = Growing(60, noise=False)
            options["data_loader"] = BaseDataLoader(data, 8, True, 0.0, 0)
            super().__init__(*args, **options)

        def _train_epoch(self, epoch):
            self.data_loader.dataset.epoch = epoch
            return super()._train_epoch(epoch)

    return train(config, trainer_class=Curriculum)


def test_data_that_grows_is_the_same_for_any_number_of_processes(tmp_path):
    config = settings(tmp_path, trainer__accumulate=2, trainer__epochs=3)
    (alone,) = ranks.run(tmp_path, 1, train_on_growing, config)
    for weights, logs, *_ in ranks.run(tmp_path, 2, train_on_growing, config):
        assert furthest(weights, alone[0]) < 1e-12
        assert logs[-1] == pytest.approx(alone[1][-1], rel=1e-6)
