"""Data that changes: what it says of itself at an epoch's start holds for that epoch."""

from typing import ClassVar

import pytest
import torch
from torch.utils.data import Subset

import tiny
from base import BaseDataLoader
from machinery.checkpoints import file as checkpoint
from machinery.errors import DataError
from tiny import interrupted
from trainer import Trainer

WORKERS = {
    "none": {},
    "two": {"num_workers": 2},
    "that live on": {"num_workers": 2, "persistent_workers": True},
}


class Growing(tiny.Points):
    """24 samples more in each epoch, and louder ones."""

    def __init__(self):
        super().__init__(83)
        self.epoch = 1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return min(24 * self.epoch, 83)

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x * self.epoch, y


class Steps:
    """A tracker that keeps where numbers were written."""

    def __init__(self):
        self.steps = []

    def log(self, numbers, step):
        self.steps.append((sorted(numbers)[0], step))

    def close(self):
        pass


class Curriculum(Trainer):
    """Tells the data the epoch, and keeps how many samples each was over."""

    options: ClassVar = {}

    def __init__(self, *args, **kwargs):
        options = {"num_workers": 0, "validation_split": 0.0, **self.options}
        kwargs["data_loader"] = BaseDataLoader(self.data(), 8, True, **options)
        super().__init__(*args, **kwargs)
        self.counts = []
        self.tracker = Steps()
        self.writers.add(self.tracker)

    def data(self):
        return Growing()

    def _train_epoch(self, epoch):
        self.data_loader.dataset.set_epoch(epoch)
        log = super()._train_epoch(epoch)
        self.counts.append(self.train_metrics.count("loss"))
        return log


def curriculum(**options):
    return type("Curriculum", (Curriculum,), {"options": options})


def settings(folder, **changes):
    return tiny.settings(folder, trainer__epochs=4, **changes)


@pytest.mark.parametrize("workers", WORKERS)
def test_each_epoch_is_over_the_data_as_it_is_then_also_on_a_resume(tmp_path, workers):
    kind = curriculum(**WORKERS[workers])
    unbroken = tiny.train(settings(tmp_path / "a"), trainer_class=kind)
    assert unbroken.counts == [24, 48, 72, 83]
    expected = tiny.digest(unbroken.model), tiny.rows(unbroken)
    config = settings(tmp_path / "b")
    # After 3, 9, 18 and 29 batches the epochs end.
    stops = (2, 3, 6, 9, 12)
    if kind.options:
        stops = (3, 12)
    for batches in stops:
        path = interrupted(config, after=batches, cls=(kind,))
        again = tiny.train(config, resume=path, trainer_class=kind)
        assert (tiny.digest(again.model), tiny.rows(again)) == expected, batches
        before = unbroken.tracker.steps[: -len(again.tracker.steps)]
        assert before + again.tracker.steps == unbroken.tracker.steps


def test_steps_of_the_writers_are_the_batches_done(tmp_path):
    trainer = tiny.train(settings(tmp_path, trainer__log_step=100), trainer_class=Curriculum)
    assert sorted({step for _, step in trainer.tracker.steps}) == [3, 9, 18, 29]


def test_steps_of_the_writers_go_on_where_a_resume_changes_the_length_of_epochs(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=2))
    changed = tiny.settings(tmp_path, trainer__epochs=3, data_loader__args__batch_size=32)
    again = tiny.build(changed, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    tracker = Steps()
    again.writers.add(tracker)
    again.train()
    assert {step for _, step in tracker.steps} == {2 * 11 + 3}


def test_a_checkpoint_from_before_says_where_it_stands_by_its_epochs(tmp_path):
    config = settings(tmp_path)
    path = interrupted(config, after=15)
    content = checkpoint.load(path)
    assert content["progress"]["before"] == 11
    del content["progress"]["before"], content["progress"]["in_epoch"]
    checkpoint.save(content, path)
    trainer = tiny.build(config, resume=path)
    trainer.restore()
    assert trainer.batches_done == 11 + content["progress"]["step"]


def test_an_epoch_that_has_another_length_when_it_is_gone_on_with_is_refused(tmp_path):
    class ByState(Curriculum):
        def _train_epoch(self, epoch):
            self.data_loader.dataset.epoch += 1  # not of the epoch: lost with the process
            return Trainer._train_epoch(self, epoch)

    config = settings(tmp_path)
    path = interrupted(config, after=14, cls=(ByState,))
    expected = "epoch 2 had 9 batches when it was interrupted, and has 6 now"
    with pytest.raises(DataError, match=expected):
        tiny.train(config, resume=path, trainer_class=ByState)


def test_data_that_changes_is_refused_beside_len_epoch(tmp_path):
    config = settings(tmp_path, trainer__len_epoch=4)
    with pytest.raises(DataError, match="3 -> 6 batches in a pass, where trainer"):
        tiny.train(config, trainer_class=Curriculum)


def test_data_that_is_split_keeps_its_length(tmp_path):
    expected = "data that is split cannot change its length, 24 -> 48 samples"
    with pytest.raises(DataError, match=expected):
        tiny.train(settings(tmp_path), trainer_class=curriculum(validation_split=4))


def test_an_epoch_may_have_another_loader(tmp_path):
    class Swapping(Curriculum):
        def _train_epoch(self, epoch):
            data = tiny.Points(16 * epoch)
            self.data_loader = BaseDataLoader(data, 8, True, 0.0, 0)
            log = Trainer._train_epoch(self, epoch)
            self.counts.append(self.train_metrics.count("loss"))
            return log

    unbroken = tiny.train(settings(tmp_path / "a"), trainer_class=Swapping)
    assert unbroken.counts == [16, 32, 48, 64]
    config = settings(tmp_path / "b")
    path = interrupted(config, after=9, cls=(Swapping,))
    again = tiny.train(config, resume=path, trainer_class=Swapping)
    assert tiny.digest(again.model) == tiny.digest(unbroken.model)


def test_a_length_that_a_trainer_sets_itself_holds(tmp_path):
    class Own(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.len_epoch = 4

    trainer = tiny.train(settings(tmp_path), trainer_class=Own)
    assert trainer.batches_done == 16


class EpochBatches:
    """A batch sampler with a batch more in each epoch."""

    def __init__(self):
        self.epoch = 1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.epoch

    def __iter__(self):
        return iter([[k, k + 1, k + 2] for k in range(self.epoch)])


def test_a_batch_sampler_is_asked_for_the_length_of_the_epoch(tmp_path):
    class Sampled(Trainer):
        def __init__(self, *args, **kwargs):
            data = tiny.Points(20)
            sampler = EpochBatches()
            kwargs["data_loader"] = BaseDataLoader(data, 8, False, 0.0, 0, batch_sampler=sampler)
            super().__init__(*args, **kwargs)

    trainer = tiny.train(settings(tmp_path), trainer_class=Sampled)
    assert trainer.batches_done == 1 + 2 + 3 + 4


def numbers(loader):
    return torch.cat([x for x, _ in loader.batches(1)])


def replace_an_attribute(data):
    data.y = data.y.flip(0)
    data.x = data.x + 1


def write_into_a_tensor(data):
    data.x[0] += 1


def write_into_an_array(data):
    data.noise = False
    data.extra["shift"][2] = 1.0


def change_a_value_deep_inside(data):
    data.extra["by"][0]["factor"] = 2.0


class Held(tiny.Points):
    """Data that holds values of all kinds."""

    def __init__(self):
        super().__init__(40, noise=False)
        self.extra = {"shift": torch.zeros(6).numpy(), "by": [{"factor": 1.0}]}

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return (x + torch.from_numpy(self.extra["shift"])) * self.extra["by"][0]["factor"], y


CHANGES = [
    replace_an_attribute,
    write_into_a_tensor,
    write_into_an_array,
    change_a_value_deep_inside,
]


@pytest.mark.parametrize("change", CHANGES)
def test_workers_that_live_on_see_what_has_changed(change):
    loader = BaseDataLoader(Held(), 8, False, 0.0, 1, persistent_workers=True)
    before = numbers(loader)
    workers = loader._passes.inner._iterator._workers
    assert torch.equal(numbers(loader), before)
    assert loader._passes.inner._iterator._workers is workers  # they have lived on
    change(loader.dataset)
    expected = Held()
    change(expected)
    seen = numbers(loader)
    assert torch.equal(seen, numbers(BaseDataLoader(expected, 8, False, 0.0, 0)))
    assert not torch.equal(seen, before)


@pytest.mark.parametrize("kind", [tiny.Points, tiny.WholePoints])
def test_a_subset_may_have_other_samples_in_another_epoch(kind):
    data = kind(40, noise=False)
    loader = BaseDataLoader(Subset(data, list(range(20))), 8, False, 0.0, 0)
    numbers(loader)
    loader.dataset.indices = list(range(10, 40))
    assert torch.equal(numbers(loader), data.x[10:])


def test_a_generator_that_is_made_for_an_epoch_is_seeded(tmp_path):
    class Fresh(tiny.Points):
        def __getitem__(self, i):
            return torch.rand(6, generator=self.generator), self.y[i]

    loader = BaseDataLoader(Fresh(40), 8, False, 0.0, 0)
    passes = []
    for epoch in (1, 2, 1):
        loader.dataset.generator = torch.Generator()
        passes.append(torch.cat([x for x, _ in loader.batches(epoch)]))
    assert torch.equal(passes[0], passes[2])
    assert not torch.equal(passes[0], passes[1])


def test_a_loop_of_ones_own_sees_the_data_of_each_epoch(tmp_path):
    loader = BaseDataLoader(Growing(), 8, True, 0.0, 0)
    lengths = []
    for epoch in (1, 2, 3):
        loader.dataset.set_epoch(epoch)
        lengths.append((len(loader), len(numbers(loader)), sum(len(x) for x, _ in loader)))
    assert lengths == [(3, 24, 24), (6, 48, 48), (9, 72, 72)]
