"""Data that changes from pass to pass, on several processes: they train what one trains."""

import os
import signal

import numpy as np
import pytest

import ranks
import tiny
from base import BaseDataLoader
from exact import Exact, furthest, settings, train
from machinery.errors import Stopped
from utils.util import inf_loop


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


class Semi(Exact):
    """Learns from a second loader, too, whose passes end where they will."""

    stops_at = None

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.second = BaseDataLoader(tiny.Points(37), 8, True, 0.0, 0)
        self.batches = inf_loop(self.second)

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        if self.model.training:
            other, wanted = next(self.batches)
            loss = loss + self.criterion(self.model(other.double()), wanted)
        return loss, output, target

    def _update(self, batches):
        super()._update(batches)
        if (self.epoch, self.step) == self.stops_at:
            os.kill(os.getpid(), signal.SIGTERM)


def train_semi(config, resume=None, stops_at=None):
    """The weights, or the checkpoint of a stop."""
    kind = type("Semi", (Semi,), {"stops_at": stops_at})
    trainer = tiny.build(config, resume=resume, trainer_class=kind)
    try:
        trainer.train()
    except Stopped:
        return trainer._checkpoints.newest
    weights = trainer.model.state_dict()
    return {name: value.clone() for name, value in weights.items()}


def test_a_loader_that_a_trainer_holds_goes_on_at_its_place_on_all_processes(tmp_path):
    config = settings(tmp_path, trainer__log_step=2)
    whole = ranks.run(tmp_path, 2, train_semi, config)
    path, _ = ranks.run(tmp_path, 2, train_semi, config, None, (2, 3))
    assert path.name == "checkpoint-epoch2-step4.pth"
    for weights, expected in zip(
        ranks.run(tmp_path, 2, train_semi, config, path), whole, strict=True
    ):
        assert furthest(weights, expected) < 1e-12
