"""Loaders that are not the template's: a resumed run sees what the unbroken one saw."""

import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader

import tiny
from base.base_data_loader import training_batches
from tiny import Noisy, interrupted


def test_a_batch_sampler_of_a_foreign_loader_hears_of_the_epoch():
    class Batches(list):
        def set_epoch(self, epoch):
            self[:] = [[epoch, epoch + 1]]

    loader = DataLoader(tiny.Points(20, noise=False), batch_sampler=Batches([[0, 1]]))
    first, second = training_batches(loader, 0, 2, 1)
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize("persistent", [False, True])
def test_a_foreign_loader_with_workers_resumes_exactly(tmp_path, persistent):
    def loader():
        return DataLoader(Noisy(), 8, shuffle=True, num_workers=2, persistent_workers=persistent)

    def kwargs():
        return {"data_loader": loader(), "valid_data_loader": None}

    class Foreign(tiny.Trainer):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, **kwargs()})

    config = tiny.settings(tmp_path / "a", trainer__monitor="off", trainer__len_epoch=10)
    unbroken = tiny.train(config, trainer_class=Foreign)
    config["trainer"]["save_dir"] = str(tmp_path / "b")

    class Stopping(Foreign):
        def _update(self, batches):
            super()._update(batches)
            if (self.epoch, self.step) == (2, 3):
                os.kill(os.getpid(), signal.SIGTERM)

    stopping = tiny.build(config, trainer_class=Stopping)
    with pytest.raises(BaseException, match="stopped by SIGTERM"):
        stopping.train()
    (path,) = stopping.checkpoint_dir.glob("*step*")
    assert tiny.digest(tiny.train(config, resume=path, trainer_class=Foreign).model) == tiny.digest(
        unbroken.model
    )


def test_the_sampler_of_a_foreign_loader_hears_of_the_epoch():
    class Heard(list):
        def set_epoch(self, epoch):
            self.append(epoch)

        def __iter__(self):
            return iter(range(16))

        def __len__(self):
            return 16

    sampler = Heard()
    list(training_batches(DataLoader(Noisy(), 8, sampler=sampler), 0, 6, 1))
    assert list.__getitem__(sampler, slice(None)) == [1, 2, 3]


def test_each_batch_of_a_foreign_loader_draws_numbers_of_its_own():
    class Draws(Noisy):
        def __getitem__(self, i):
            return torch.rand(2)

    numbers = torch.cat(list(training_batches(DataLoader(Draws(), 8), 0, 20, 1)))
    assert len(numbers.unique()) == 2 * 80 * 2


class WithState(DataLoader):
    """As torchdata's loaders are: it would go on from a place of its own."""

    def state_dict(self):
        return {"place": 5}

    def load_state_dict(self, state):
        raise AssertionError("the loader is read up to the place")


def test_a_foreign_loader_with_a_state_is_no_part(tmp_path):
    class Foreign(tiny.Trainer):
        def __init__(self, *args, **options):
            loader = WithState(Noisy(), 8, shuffle=True)
            super().__init__(
                *args,
                **{**options, "data_loader": loader, "valid_data_loader": WithState(Noisy(), 8)},
            )

    config = tiny.settings(tmp_path / "a")
    unbroken = tiny.train(config, trainer_class=Foreign)
    config["trainer"]["save_dir"] = str(tmp_path / "b")
    path = interrupted(config, after=14, cls=(Foreign,))
    assert tiny.digest(tiny.train(config, resume=path, trainer_class=Foreign).model) == tiny.digest(
        unbroken.model
    )
