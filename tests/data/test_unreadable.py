"""Samples that cannot be read are left out of their batches: as if these were made without them,
on any number of processes, after any resume."""

import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import exact
import ranks
import tiny
from base import BaseDataLoader, one_pass
from machinery.errors import ConfigError, DataError, Stopped
from machinery.order.unreadable import EMPTY
from trainer import Trainer

#: Three are trained on; the last is held out by a split of a fifth.
LOST = (7, 50, 51, 66)
MANY = (7, 50, 51, 120, 122)


class Photos(tiny.Points):
    """Points of which some cannot be read: one is None, the others raise."""

    lost = LOST
    error = OSError("image file is truncated\n  and more")

    def __init__(self, n=531):
        super().__init__(n, noise=False)

    def __getitem__(self, i):
        if i in self.lost:
            if i % 2:
                return None
            raise self.error
        return super().__getitem__(i)


class PhotosLoader(BaseDataLoader):
    def __init__(self, n=531, lost=None, **options):
        data = Photos(n)
        if lost is not None:
            data.lost = tuple(lost)
        super().__init__(data, **options)


tiny.PhotosLoader = PhotosLoader


def loader_of(**options):
    return PhotosLoader(**{"batch_size": 8, "skip_unreadable": True, **options})


def rows(batches):
    return torch.cat([x for x, _ in batches])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("shuffle", [True, False])
def test_what_is_left_are_the_samples_without_them(shuffle, workers):
    whole = tiny.Points(531, noise=False)
    loader = loader_of(shuffle=shuffle, num_workers=workers)
    (order,) = [torch.cat([torch.from_numpy(b.indices) for b in _places(loader)])]
    expected = torch.stack([whole.x[i] for i in order.tolist() if i not in LOST])
    assert torch.equal(rows(loader.batches(1)), expected)


def _places(loader):
    loader._passes.order.take(1, 0, len(loader))
    return list(loader._passes.order)


@pytest.mark.parametrize("workers", [0, 2])
def test_they_are_told_once_a_pass(workers, caplog):
    loader = loader_of(num_workers=workers)
    for _ in range(2):
        list(loader)
    first, second = [record.message for record in caplog.records]
    assert "4 of 531 samples of the loader 'train' in pass 1 cannot be read, and left out:" in first
    assert "pass 2" in second and second.count("\n") == 4 and second.endswith("\n  …")
    assert re.search(r"sample (50|66): OSError: image file is truncated\n", first + second)
    assert re.search("sample (7|51): None", first + second) and "and more" not in first


def test_a_held_out_sample_has_the_number_that_it_has_in_the_dataset(caplog):
    list(loader_of(validation_split=0.2).split_validation())
    (message,) = [record.message for record in caplog.records]
    assert message.endswith("left out:\n  sample 66: OSError: image file is truncated")


def test_more_than_one_in_a_hundred_end_the_run():
    lost = [3, 10, 17, 20, 33, 34]
    loader = loader_of(lost=lost)
    what = "6 of 531 samples of the loader 'train' in pass 1 cannot be read, more than 1 %:"
    with pytest.raises(DataError, match=re.escape(what)) as caught:
        list(loader)
    assert caught.value.exit_code == 3
    list(loader_of(lost=lost[:5]))


MISTAKES = [KeyError, TypeError, AttributeError, NotImplementedError]
MISTAKES += [RecursionError, torch.OutOfMemoryError, torch.AcceleratorError]


@pytest.mark.parametrize("error", MISTAKES)
def test_a_mistake_of_a_program_is_no_unreadable_sample(error, monkeypatch):
    monkeypatch.setattr(Photos, "error", error("x"))
    with pytest.raises(DataError, match=rf"{error.__name__}.*\n  in sample (50|66)"):
        list(loader_of())


def test_nor_is_one_in_whole_batch_data(monkeypatch):
    """Also where it comes only as the samples are read one by one."""

    class Whole(Photos):
        def __getitems__(self, indices):
            raise OSError("bad")

    for error in MISTAKES:
        monkeypatch.setattr(Photos, "error", error("x"))
        with pytest.raises(DataError, match=rf"{error.__name__}.*\n  in sample 50"):
            list(BaseDataLoader(Whole(), 8, False, skip_unreadable=True))


def test_nothing_is_left_out_where_nobody_asks():
    with pytest.raises(DataError, match="could not make batch"):
        list(loader_of(skip_unreadable=False))


def test_iterable_data_are_refused():
    with pytest.raises(ConfigError, match="are not for iterable data"):
        BaseDataLoader(tiny.Stream(40), 8, skip_unreadable=True)


def test_a_list_of_a_whole_batch_may_have_none():
    class Whole(Photos):
        def __getitems__(self, indices):
            return [None if i in (3, 5) else (self.x[i], self.y[i]) for i in indices.tolist()]

    loader = BaseDataLoader(Whole(), 8, False, skip_unreadable=True)
    first, *_ = loader
    assert torch.equal(first[0], loader.dataset.x[[0, 1, 2, 4, 6, 7]])


@pytest.mark.parametrize("split", [0.0, 0.2])
def test_a_whole_batch_that_cannot_be_read_is_read_one_by_one(split, caplog):
    class Whole(Photos):
        """As Hugging Face's: a list of samples, or an error for all of them."""

        lost = (50, 66)

        def __getitems__(self, indices):
            if set(indices.tolist()) & {50, 66}:
                raise self.error
            return [(self.x[i], self.y[i]) for i in indices.tolist()]

    loader = BaseDataLoader(Whole(), 8, False, split, skip_unreadable=True)
    read = list(loader) + (list(loader.split_validation()) if split else [])
    assert sum(len(y) for _, y in read) == 529
    told = "\n".join(record.message for record in caplog.records)
    assert "sample 50: OSError: image file is truncated" in told and "sample 66: OSError" in told


class Augmented(tiny.WholePoints):
    """Whole-batch data of which one cannot be read, and which draws a row for each."""

    lost = 52
    draws_from = ()

    def __getitems__(self, indices):
        if self.lost in indices.tolist():
            raise OSError("bad")
        return super().__getitems__(indices)

    def __getitem__(self, i):
        x, y = self.__getitems__(torch.tensor([i]))
        return x[0], y[0]


class Jittered(Augmented):
    """Such data whose single samples draw from torch's generator."""

    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return x + torch.randn(6), y


class AugmentedLoader(BaseDataLoader):
    def __init__(self, kind=Augmented, n=103, **options):
        super().__init__(kind(n), **{"skip_unreadable": True, "shuffle": False, **options})


tiny.AugmentedLoader = AugmentedLoader


@pytest.mark.parametrize("size", [8, 5])
def test_whole_batch_data_augment_the_others_as_if_all_could_be_read(size, monkeypatch):
    left = [i for i in range(103) if i != Augmented.lost]
    without = rows(AugmentedLoader(batch_size=size).batches(2))
    monkeypatch.setattr(Augmented, "lost", None)
    assert torch.equal(without, rows(AugmentedLoader(batch_size=size).batches(2))[left])


def test_single_samples_of_whole_batch_data_draw_by_their_place(monkeypatch):
    """A bad batch, as it is cut: what each sample draws is its own."""

    def bad(size):
        every = list(AugmentedLoader(Jittered, batch_size=size).batches(2))
        return every[Augmented.lost // size][0]

    eight, four = bad(8), bad(4)  # samples 48 to 55, and 52 to 55
    assert torch.equal(eight[-3:], four)


def test_whole_batch_data_train_on_processes_as_on_one(tmp_path):
    def train(folder):
        changes = {"data_loader": {"type": "AugmentedLoader", "args": {"batch_size": 8}}}
        return exact.train(exact.settings(folder, trainer__monitor="off", **changes))[0]

    one = train(tmp_path / "one")
    for weights in ranks.run(tmp_path, 2, train, tmp_path / "two"):
        assert exact.furthest(weights, one) < 1e-12


def test_an_empty_batch_is_none():
    loader = loader_of(batch_size=1, shuffle=False)
    seen = list(loader)
    assert len(loader) == 531 and len(seen) == 527
    assert len(list(one_pass(loader, 1))) == 527
    # And a pass goes on behind it.
    left = [i for i in range(8, 531) if i not in LOST]
    assert torch.equal(rows(seen[-len(left) :]), loader.dataset.x[left])
    behind = [batch for batch in loader.batches(3, 8) if batch is not EMPTY]
    assert torch.equal(rows(behind), loader.dataset.x[left])


def settings(folder, **args):
    changes = {key: args.pop(key) for key in list(args) if "__" in key}
    args = {"batch_size": 4, "validation_split": 0.2, "skip_unreadable": True, **args}
    loader = {"type": "PhotosLoader", "args": args}
    config = exact.settings(folder, data_loader=loader, metrics=["accuracy"], trainer__epochs=2)
    config["trainer"]["accumulate"] = 3
    for key, value in changes.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


class WithoutThem(torch.utils.data.Sampler):
    """The batches of a loader by hand, without what cannot be read."""

    def __init__(self, loader):
        self.loader = loader
        self.epoch = 1

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(list(iter(self)))

    def __iter__(self):
        order = self.loader._passes.order
        order.take(self.epoch, 0, len(self.loader))
        for place in order:
            left = [i for i in place.indices.tolist() if i not in LOST]
            if left:
                yield left


@pytest.mark.parametrize("size", [4, 1])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_it_trains_as_on_batches_without_them(tmp_path, size, accumulate):
    """Groups of `accumulate` batches are those of the order; with 1, an empty one is no group."""
    changes = {"trainer__accumulate": accumulate, "batch_size": size}
    trainer = tiny.build(settings(tmp_path / "a", **changes), trainer_class=exact.Exact)
    groups = []
    trainer._update, update = None, trainer._update
    trainer._update = lambda batches: (groups.append(len(batches)), update(batches))[1]
    trainer.train()
    assert trainer.train_metrics.samples == 425 - sum(i in _training(trainer) for i in LOST)
    lost = sum(i not in _training(trainer) for i in LOST)
    assert trainer.valid_metrics.samples == 106 - lost
    if size == accumulate == 1:
        by_hand = tiny.build(settings(tmp_path / "b", **changes), trainer_class=exact.Exact)
        loader = by_hand.data_loader
        data = tiny.Points(531, noise=False)
        by_hand.data_loader = DataLoader(data, batch_sampler=WithoutThem(loader))
        by_hand.len_epoch = by_hand._length._last = len(by_hand.data_loader)
        by_hand.train()
        assert tiny.digest(by_hand.model) == tiny.digest(trainer.model)
    if size == 1 and accumulate == 3:
        assert len(groups) == 2 * 142 and sum(groups) == 2 * trainer.train_metrics.samples


def _training(trainer):
    return {*range(531)} - {*np.asarray(trainer.data_loader.valid_sampler.indices).tolist()}


@pytest.mark.parametrize(
    "size, accumulate, processes", [(4, 3, 2), (5, 1, 3), (2, 1, 2), (3, 2, 2)]
)
def test_processes_train_as_one(tmp_path, size, accumulate, processes):
    # With momentum, an update of nothing would move the weights.
    changes = {"trainer__accumulate": accumulate, "batch_size": size}
    changes["optimizer__args"] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
    if size < 4:  # a whole batch of the first pass, and parts of others in the second
        place = _places(tiny.build(settings(tmp_path / "x", **changes)).data_loader)[6]
        changes["lost"] = place.indices.tolist()

    def train(folder):
        return exact.train(settings(folder, **changes))[:3]

    one = train(tmp_path / "one")
    for weights, logs, samples in ranks.run(tmp_path, processes, train, tmp_path / "more"):
        assert exact.furthest(weights, one[0]) < 1e-12 and samples == one[2]
        for mine, other in zip(logs, one[1], strict=True):
            assert mine == pytest.approx(other, abs=1e-12)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_stand_in_lacks_is_another_process_s(tmp_path, workers):
    """The last batch is one sample, which cannot be read: of 101 one may be left out, not two."""
    args = {"n": 101, "lost": [100], "shuffle": False, "validation_split": 0.0}
    config = {**args, "num_workers": workers, "trainer__monitor": "off"}

    def train(folder):
        return exact.train(settings(folder, **config))[0]

    one = train(tmp_path / "one")
    for weights in ranks.run(tmp_path, 3, train, tmp_path / "more"):
        assert exact.furthest(weights, one) < 1e-12


def test_on_several_processes_they_are_told_once_and_too_many_end_all(tmp_path):
    def told(folder, lost=None):
        try:
            exact.train(settings(folder, lost=lost, trainer__verbosity=1))
        except DataError as error:
            return str(error)
        return ""

    processes, place = ranks.start(tmp_path, 2, told, tmp_path / "some")
    codes, outputs = ranks.finish(processes, place)
    assert codes == [0, 0]
    assert sum(output.count("in pass 1 cannot be read, and left out") for output in outputs) == 1
    # Of 425 samples to train on 1 % are 4: each of the processes has fewer.
    for text in ranks.run(tmp_path, 2, told, tmp_path / "many", MANY):
        assert "5 of 425 samples" in text and "more than 1 %" in text


def test_a_bare_loop_on_several_processes_weighs_what_is_left(tmp_path):
    class Bare(Trainer):
        def _train_epoch(self, epoch):
            self.model.train()
            for x, y in self.data_loader:
                self.optimizer.zero_grad()
                self.criterion(self.model(x.double()), y).backward()
                self.optimizer.step()
            return {}

        def __init__(self, model, *args, **kwargs):
            super().__init__(model.double(), *args, **kwargs)

    def train(folder):
        config = settings(folder, batch_size=8, validation_split=0.0, trainer__monitor="off")
        return exact.train(config, trainer_class=Bare)[0]

    one = train(tmp_path / "one")
    for weights in ranks.run(tmp_path, 2, train, tmp_path / "two"):
        assert exact.furthest(weights, one) < 1e-12


#: Of 425 samples to train on 1 % are 4; here are 6, in the order in which they are read.
SPREAD = (3, 60, 160, 260, 360, 420)


def in_order(folder, lost, **changes):
    args = {"lost": list(lost), "shuffle": False, "validation_split": 0.0, "n": 425}
    return settings(folder, trainer__monitor="off", **{**args, **changes})


def stopped_at(config, step, resume=None):
    """A run that is stopped in a step; its newest checkpoint."""
    stops = type("Stops", (tiny.Interrupted, exact.Exact), {"after": step})
    trainer = tiny.build(config, resume=resume, trainer_class=stops)
    with pytest.raises(Stopped):
        trainer.train()
    return tiny.newest(trainer.checkpoint_dir)


def message(config, resume=None):
    with pytest.raises(DataError) as caught:
        exact.train(config, resume=resume)
    return str(caught.value).partition("\n  resume")[0]


@pytest.mark.parametrize("steps", [(2,), (8, 25)])
def test_no_resume_forgets_what_was_left_out(tmp_path, steps):
    unbroken = message(in_order(tmp_path / "a", SPREAD))
    assert "5 of 425 samples" in unbroken
    config, path = in_order(tmp_path / "b", SPREAD), None
    for step in steps:
        path = stopped_at(config, step, path)
    assert message(config, path) == unbroken
    # What is printed to resume by ends at the same place.
    assert message(config, tiny.newest(path.parent)) == unbroken


def test_what_has_been_mended_does_not_count(tmp_path):
    config = in_order(tmp_path, SPREAD)
    with pytest.raises(DataError, match="5 of 425"):
        exact.train(config)
    (run,) = (tmp_path / "models/Tiny").iterdir()
    config["data_loader"]["args"]["lost"] = list(SPREAD[:4])
    exact.train(config, resume=tiny.newest(run))


@pytest.mark.parametrize("before", [False, True])
def test_it_may_be_set_or_taken_back_inside_an_epoch(tmp_path, before):
    """As where a file that cannot be read has ended the run; as with earlier checkpoints."""
    config = in_order(tmp_path / "a", (), skip_unreadable=before)
    path = stopped_at(config, 7)
    config["data_loader"]["args"]["skip_unreadable"] = not before
    unbroken = exact.train(in_order(tmp_path / "b", ()))[0]
    assert exact.furthest(exact.train(config, resume=path)[0], unbroken) == 0


@pytest.mark.parametrize("length", [20, 150])
def test_each_pass_is_looked_at_however_long_an_epoch_is(tmp_path, length):
    """Epochs of less than a pass, or more: what is told is told once, of one process and two."""
    config = {"batch_size": 5, "trainer__len_epoch": length, "trainer__verbosity": 1}
    config["trainer__epochs"] = 300 // length

    def told(folder):
        # One is read in each epoch, and one process has them all.
        exact.train(in_order(folder, (0, 110, 210, 400), **config))

    def ended(folder):
        return message(in_order(folder, (340, 345, 351, 356, 361), **config))

    for size in (1, 2):
        processes, place = ranks.start(tmp_path, size, told, tmp_path / f"told-{size}")
        codes, outputs = ranks.finish(processes, place)
        text = "".join(outputs)
        assert not any(codes), text
        for number in (1, 2, 3):
            assert f"4 of 425 samples of the loader 'train' in pass {number} " in text
        assert text.count("and left out") == {20: 15, 150: 5}[length]
        for end in ranks.run(tmp_path, size, ended, tmp_path / f"ended-{size}"):
            assert "5 of 425 samples of the loader 'train' in pass 1 cannot be read, more" in end


def test_processes_resume_with_what_all_have_left_out(tmp_path):
    config = in_order(tmp_path / "a", (0, 1, 2, 3, 421))  # the last is not the main one's

    def stop():
        return stopped_at(config, 25)

    path, _ = ranks.run(tmp_path, 2, stop)
    (left_out,) = torch.load(path)["states"]["data_loader.unreadable"]["passes"].values()
    assert sorted(i for i, _ in left_out["left_out"][0]) == [0, 1, 2, 3]
    for size in (3, 1):
        for end in ranks.run(tmp_path, size, message, config, path):
            assert "5 of 425 samples" in end


def test_a_sample_that_is_drawn_again_counts_once(tmp_path, caplog):
    """Drawn by weight, one makes up more than one in a hundred, and is one all the same."""
    loader = loader_of(n=200, lost=[5], weights=[30.0 if i == 5 else 1.0 for i in range(200)])
    assert sum(len(y) for _, y in loader) < 190
    (record,) = caplog.records
    assert "1 of 200 samples of the loader 'train' in pass 1" in record.message


@pytest.mark.parametrize("size", [4, 1])
def test_a_stop_inside_an_epoch_changes_nothing(tmp_path, size):
    changes = {"batch_size": size, "trainer__accumulate": 2}
    unbroken = tiny.build(settings(tmp_path / "a", **changes), trainer_class=exact.Exact)
    unbroken.train()
    config = settings(tmp_path / "b", **changes)
    stops = {"after": len(unbroken.data_loader) + 60 // size}
    stopped = tiny.build(
        config, trainer_class=type("Stops", (tiny.Interrupted, exact.Exact), stops)
    )
    with pytest.raises(Stopped):
        stopped.train()
    path = tiny.newest(stopped.checkpoint_dir)
    assert "-step" in path.name
    resumed = tiny.build(config, resume=path, trainer_class=exact.Exact)
    resumed.train()
    assert tiny.digest(resumed.model) == tiny.digest(unbroken.model)
    assert tiny.rows(resumed) == tiny.rows(unbroken)


def test_a_first_batch_of_nothing_hurts_nobody(tmp_path):
    first = _first_of(tmp_path)
    trainer = tiny.train(settings(tmp_path / "b", lost=[first], batch_size=1))
    assert trainer.epoch == 2


def _first_of(tmp_path):
    trainer = tiny.build(settings(tmp_path / "a", batch_size=1))
    return int(_places(trainer.data_loader)[0].indices[0])
