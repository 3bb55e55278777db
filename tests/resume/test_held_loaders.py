"""Loaders that a trainer holds and goes through by itself: a resumed run goes on at their place."""

import pytest
import torch

import own_loop
import tiny
from base import BaseDataLoader
from machinery.checkpoints import file as checkpoint
from tiny import interrupted
from trainer import Trainer
from utils.util import inf_loop


class Held(Trainer):
    """Learns from a second loader, too, whose passes have 5 batches and end where they will."""

    workers = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.second = BaseDataLoader(tiny.Points(37), 8, True, 0.0, self.workers)
        self.begin()

    def begin(self):
        """What the constructor does."""

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        if self.model.training:
            other, wanted = self.more()
            loss = loss + self.criterion(self.model(other), wanted)
        return loss, output, target


class Restarts(Held):
    """Begins again where an iterator is at its end."""

    def begin(self):
        self.batches = iter(self.second)

    def more(self):
        try:
            return next(self.batches)
        except StopIteration:
            self.batches = iter(self.second)
            return next(self.batches)


class GoesRound(Held):
    """A generator without an end."""

    def begin(self):
        self.batches = inf_loop(self.second)

    def more(self):
        return next(self.batches)


class Later(Restarts):
    """Begins with the first batch."""

    def begin(self):
        self.batches = None

    def more(self):
        if self.batches is None:
            self.batches = iter(self.second)
        return super().more()


class EachEpoch(Restarts):
    """Begins anew in each epoch, and leaves a pass unfinished at its end."""

    def _train_epoch(self, epoch):
        self.batches = iter(self.second)
        return super()._train_epoch(epoch)


class InALoop(Held):
    """Whole passes and a part of one after the batches of an epoch, and those of two at once."""

    def more(self):
        return torch.zeros(2, 6), torch.tensor([0, 1])

    def _train_epoch(self, epoch):
        log = super()._train_epoch(epoch)
        for both in zip(self.second, self.second, strict=True):
            for batch in both:
                self.learn(*batch)
        self.learn(*next(iter(self.second)))
        return log

    def learn(self, x, y):
        self.criterion(self.model(x), y).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


class InADict(Restarts):
    """The loader is one of several."""

    def begin(self):
        self.loaders = {"weak": [vars(self).pop("second")]}
        self.batches = iter(self.loaders["weak"][0])

    def __getattr__(self, name):
        if name == "second":
            return self.loaders["weak"][0]
        raise AttributeError(name)


WAYS = [Restarts, GoesRound, Later, EachEpoch, InALoop, InADict]


def outcome(trainer):
    return tiny.digest(trainer.model), tiny.rows(trainer)


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_goes_on_at_the_place_of_a_loader_that_it_holds(tmp_path, way):
    config = tiny.settings(tmp_path / "a")
    unbroken = tiny.train(config, trainer_class=way)
    expected = outcome(unbroken)
    for epoch in (1, 2):
        path = unbroken.checkpoint_dir / f"checkpoint-epoch{epoch}.pth"
        assert outcome(tiny.train(config, resume=path, trainer_class=way)) == expected
    config = tiny.settings(tmp_path / "b")
    path = None
    for after in (3, 9, 11):
        path = interrupted(config, after=after, cls=(way,), resume=path)
    assert outcome(tiny.train(config, resume=path, trainer_class=way)) == expected


def test_what_workers_have_fetched_ahead_is_not_done(tmp_path):
    way = type("Ahead", (Restarts,), {"workers": 2})
    expected = outcome(tiny.train(tiny.settings(tmp_path / "a"), trainer_class=Restarts))
    config = tiny.settings(tmp_path / "b")
    path = interrupted(config, after=14, cls=(way,))
    assert outcome(tiny.train(config, resume=path, trainer_class=way)) == expected


def test_the_trainers_own_loaders_are_no_parts(tmp_path):
    class Aliased(Trainer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.loaders = [self.data_loader, self.valid_data_loader]

    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=Aliased)
    parts = trainer._held().parts
    assert "optimizer" in parts
    assert not [part for part in parts.values() if isinstance(part, BaseDataLoader)]


def test_a_checkpoint_without_the_place_of_a_loader_is_gone_on_with(tmp_path, messages):
    config = tiny.settings(tmp_path, trainer__verbosity=1)
    path = interrupted(config, after=14, cls=(Restarts,))
    content = checkpoint.load(path)
    for section in ("states", "classes", "structures"):
        del content[section]["second"]
    checkpoint.save(content, path)
    assert tiny.train(config, resume=path, trainer_class=Restarts).epoch == 3
    assert "has no place of second: it begins a new pass" in messages()


def test_other_data_begins_a_new_pass(tmp_path, messages):
    config = tiny.settings(tmp_path, trainer__verbosity=1)
    path = interrupted(config, after=14, cls=(Restarts,))

    class Other(Restarts):
        def begin(self):
            self.second = BaseDataLoader(tiny.Points(37), 5, True, 0.0, 0)
            super().begin()

    tiny.train(config, resume=path, trainer_class=Other)
    assert "has other data, or another batch_size: it begins a new pass" in messages()


def orders(*loaders):
    return [loader._passes.order.of_pass(1).tolist() for loader in loaders]


def test_two_loaders_of_one_name_draw_each_its_own(tmp_path, messages):
    class Two(Restarts):
        def begin(self):
            n = self.data_loader._passes.n_samples
            self.second = BaseDataLoader(tiny.Points(n), 8, True, 0.0, 0)
            self.third = [BaseDataLoader(tiny.Points(n), 8, True, 0.0, 0, name="mine")]
            super().begin()

    config = tiny.settings(tmp_path / "a", data_loader__args__validation_split=0)
    config["trainer"].update(verbosity=2, monitor="off")
    trainer = tiny.train(config, trainer_class=Two)
    first, second, third = orders(trainer.data_loader, trainer.second, *trainer.third)
    assert sorted(first) == sorted(second) == sorted(third)
    assert first != second != third != first
    assert [trainer.data_loader.name, trainer.second.name] == ["train", "second"]
    assert trainer.third[0].name == "mine"
    told = "the loader 'second' draws by this name, since another is called 'train', too"
    assert messages().count(told) == 1
    expected = tiny.digest(trainer.model)
    config["trainer"]["save_dir"] = str(tmp_path / "b")
    path = interrupted(config, after=20, cls=(Two,))
    assert tiny.digest(tiny.train(config, resume=path, trainer_class=Two).model) == expected


def test_a_loop_of_ones_own_takes_a_pass_of_the_trainers_loader_in_each_epoch(tmp_path):
    taken = []

    class Loop(own_loop.OwnLoop):
        def _train_epoch(self, epoch):
            taken.append(self.data_loader.epoch)
            next(iter(self.data_loader))
            return super()._train_epoch(epoch)

    own_loop.build(tiny.settings(tmp_path, trainer__monitor="off"), cls=Loop).train()
    assert taken == [1, 2, 3]


def test_a_step_draws_other_numbers_for_each_loader(tmp_path):
    drawn = []

    class Draws(Restarts):
        def begin(self):
            n = self.data_loader._passes.n_samples
            self.second = BaseDataLoader(tiny.Points(n), 8, True, 0.0, 0)
            super().begin()

        def more(self):
            drawn.append(float(torch.rand(())))
            batch = super().more()
            drawn.append(float(torch.rand(())))
            return batch

        def _forward(self, batch):
            drawn.append(float(torch.rand(())))
            return super()._forward(batch)

    settings = tiny.settings(tmp_path, arch__args__dropout=0.0, trainer__epochs=1)
    trainer = tiny.train(settings, trainer_class=Draws)
    assert len(drawn) > 3 * trainer.len_epoch
    assert len(set(drawn[: 3 * trainer.len_epoch])) == 3 * trainer.len_epoch
