"""Streams that say where they stand: each worker goes on there, and nothing is read again."""

import logging

import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

import streams
from machinery import distributed
from machinery.errors import CheckpointError, DataError
from machinery.order.epochs import training_batches
from streams import FilesLoader, samples_read

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def rows(batches):
    """What batches hold, as lists."""
    return [[x.tolist(), y.tolist()] for x, y in batches]


def taken(loader, epoch, first, count):
    """Some batches of a pass, of which the rest is left; what a checkpoint would hold then."""
    batches = loader.batches(epoch, first)
    rows([next(batches) for _ in range(count)])
    batches.close()
    return loader.places.state_dict()


def gone_on(loader, state, epoch, first):
    """The rest of a pass, and all of the next, as another process reads them."""
    loader.places.load_state_dict(state)
    return rows(loader.batches(epoch, first)), rows(loader.batches(epoch + 1))


OPTIONS = [
    (0, {}),
    (1, {"prefetch_factor": 5}),
    (3, {}),
    (3, {"prefetch_factor": 1, "drop_last": True}),
    (7, {"batch_size": 5}),
]


@pytest.mark.parametrize(("workers", "options"), OPTIONS)
def test_from_each_batch_on_it_is_the_unbroken_pass(tmp_path, workers, options):
    whole = FilesLoader(workers, **options)
    second, third = (rows(whole.batches(epoch)) for epoch in (2, 3))
    assert [y for _, y in second] != [y for _, y in third] and len(second) > 20 - workers
    log = tmp_path / "log"
    for first in range(1, len(second) + 1, 1 if workers < 2 else 4):
        state = taken(FilesLoader(workers, **options), 2, 0, first)
        loader = FilesLoader(workers, log, **options)
        loader.places.load_state_dict(state)
        assert rows(loader.batches(2, first)) == second[first:]
        left = samples_read(log)
        assert len(left) == len(set(left))  # no sample was read twice
        if not options.get("drop_last"):
            # Each worker has read its last batch again, and nothing before.
            more = len(left) - sum(len(y) for _, y in second[first:])
            assert 0 < more <= max(workers, 1) * options.get("batch_size", 4)
        assert rows(loader.batches(3)) == third
        samples_read(log)


def test_a_share_of_three_ends_long_before_the_others():
    """Which of the workers comes next is known then, too."""
    loader = FilesLoader(3)
    loader.dataset.lengths = (3, 40, 25)
    loader.dataset.set_epoch = lambda epoch: None
    whole = rows(loader.batches(1))
    for first in range(1, len(whole)):
        state = taken(loader, 1, 0, first)
        assert gone_on(loader, state, 1, first)[0] == whole[first:]


def test_what_was_fetched_for_an_update_may_be_taken_back():
    loader = FilesLoader(2)
    loader.places.kept = 3
    whole = rows(loader.batches(1))
    state = taken(loader, 1, 0, 8)
    for first in (5, 6, 7, 8):
        assert gone_on(FilesLoader(2), state, 1, first)[0] == whole[first:]
    fresh = FilesLoader(2)
    fresh.places.load_state_dict(state)
    assert fresh.places.at(1, 4) is None and fresh.places.at(2, 5) is None


@pytest.mark.parametrize("change", ["workers", "processes"])
def test_other_numbers_are_read_up_to_the_place(tmp_path, change, caplog, monkeypatch):
    state = taken(FilesLoader(1), 1, 0, 4)
    workers = 2 if change == "workers" else 1
    if change == "processes":
        state["of"]["processes"] = 3
    loader = FilesLoader(workers, tmp_path / "log")
    with caplog.at_level(logging.INFO):
        rest, following = gone_on(loader, state, 1, 4)
    unbroken = FilesLoader(workers)
    assert rest == rows(unbroken.batches(1))[4:] and following == rows(unbroken.batches(2))
    reads = {"workers": "workers 1 -> 2", "processes": "processes 3 -> 1"}[change]
    told = [each.getMessage() for each in caplog.records]
    assert told == [f"the loader 'train', Files: reads pass 1 up to batch 4 again: {reads}"]


@pytest.mark.parametrize(
    ("workers", "kind"),
    [(0, streams.Late), (2, streams.Late), (0, streams.DrawsItsOrder), (1, streams.Buffered)],
)
def test_a_stream_that_does_not_come_back_is_read_up_to_its_place(workers, kind, caplog):
    whole = FilesLoader(workers, kind=kind)
    first, second = (rows(whole.batches(epoch)) for epoch in (1, 2))
    state = taken(FilesLoader(workers, kind=kind), 1, 0, 9)
    assert not caplog.records
    assert gone_on(FilesLoader(workers, kind=kind), state, 1, 9) == (first[9:], second)
    (record,) = caplog.records
    assert "goes on with other samples, so it was read from the beginning" in record.getMessage()


def test_a_state_that_cannot_be_loaded_is_passed_over(caplog):
    class Unwilling(streams.Files):
        def load_state_dict(self, state):
            if state["read"]:
                raise IndexError("list index out of range")

    whole = rows(FilesLoader(0, kind=Unwilling).batches(1))
    state = taken(FilesLoader(0, kind=Unwilling), 1, 0, 5)
    loader = FilesLoader(0, kind=Unwilling)
    loader.places.load_state_dict(state)
    assert rows(loader.batches(1, 5)) == whole[5:]
    assert "goes on with other samples" in caplog.text


def test_samples_of_any_kind_come_back(caplog):
    class Odd(streams.Files):
        def sample(self, number):
            x, label = super().sample(number)
            return [streams.Sample(x), x * torch.nan, x.numpy(), x.to_sparse(), b"a", None, label]

    state = taken(FilesLoader(0, kind=Odd, collate_fn=both), 1, 0, 5)
    loader = FilesLoader(0, kind=Odd, collate_fn=both)
    assert gone_on(loader, state, 1, 5)[0] and not caplog.records


def both(samples):
    """A batch (data, labels) of samples of any kind."""
    return torch.stack([sample[1] for sample in samples]), torch.tensor([s[-1] for s in samples])


@pytest.mark.parametrize("kind", ["object", "picture", "number", "array of objects"])
def test_a_state_that_is_late_is_seen_in_samples_of_any_kind(kind):
    class Odd(streams.Late):
        def sample(self, number):
            x, _ = super().sample(number)
            if kind == "object":
                return streams.Sample([streams.Sample(x)])
            if kind == "picture":
                return Picture(x)
            if kind == "number":
                return x.numpy().sum()
            return np.array([streams.Sample(x)], dtype=object)

    whole = as_bytes(FilesLoader(0, kind=Odd, collate_fn=list).batches(1))
    state = taken_as_they_are(FilesLoader(0, kind=Odd, collate_fn=list), 1, 5)
    loader = FilesLoader(0, kind=Odd, collate_fn=list)
    loader.places.load_state_dict(state)
    assert as_bytes(loader.batches(1, 5)) == whole[5:]


class Picture:
    """Gives its content in one way alone, as pictures of Pillow do."""

    __slots__ = ("x",)

    def __init__(self, x):
        self.x = x

    def tobytes(self):
        return self.x.numpy().tobytes()


def as_bytes(batches):
    """What batches of odd samples hold."""
    found = []
    for batch in batches:
        found.append([inner(sample) for sample in batch])
    return found


def inner(sample):
    """The numbers in an odd sample."""
    while not isinstance(sample, torch.Tensor):
        if isinstance(sample, np.generic):
            return sample.tobytes()
        sample = sample[0] if isinstance(sample, list | np.ndarray) else sample.x
    return sample.numpy().tobytes()


def test_a_collate_function_may_change_the_samples(caplog):
    def changed(samples):
        return [samples.pop(0), *(sample[0].zero_() for sample in samples)]

    state = taken_as_they_are(FilesLoader(0, collate_fn=changed), 1, 5)
    loader = FilesLoader(0, collate_fn=changed)
    loader.places.load_state_dict(state)
    assert list(loader.batches(1, 5)) and not caplog.records


def taken_as_they_are(loader, epoch, count):
    """What a checkpoint would hold behind some batches of any kind."""
    batches = loader.batches(epoch)
    for _ in range(count):
        next(batches)
    batches.close()
    return loader.places.state_dict()


class DrawsOnAndOn(streams.Files):
    """Adds what a generator draws that no state has."""

    def __init__(self, log):
        super().__init__(log=log)
        self.generator = torch.Generator().manual_seed(1)

    def sample(self, number):
        x, label = super().sample(number)
        return x + torch.rand((), generator=self.generator), label


class LoadsNothing(streams.Files):
    """Goes on from where it is."""

    def load_state_dict(self, state):
        pass


@pytest.mark.parametrize("kind", [DrawsOnAndOn, LoadsNothing])
@pytest.mark.parametrize("workers", [0, 2])
def test_what_does_not_begin_anew_either_is_told(workers, kind, caplog):
    state = taken(FilesLoader(workers, kind=kind), 1, 0, 5)
    gone_on(FilesLoader(workers, kind=kind), state, 1, 5)
    (record,) = caplog.records
    assert "read from the beginning it gives other samples than before" in record.getMessage()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_stream_that_is_at_its_end_before_its_place_is_an_error(workers):
    state = taken(FilesLoader(workers, kind=LoadsNothing), 1, 0, 24)
    loader = FilesLoader(workers, kind=LoadsNothing)
    loader.places.load_state_dict(state)
    with pytest.raises(DataError, match=r"^LoadsNothing: it is at its end before the place"):
        list(loader.batches(1, 24))


def test_a_pass_without_a_batch_says_what_is_missing():
    loader = FilesLoader(0, kind=LoadsNothing, steps=24)
    assert len(list(training_batches(loader, 0, 24, 1))) == 24
    with pytest.raises(DataError, match=r"pass 2 gave 0 of .*: does its load_state_dict set all"):
        list(training_batches(loader, 24, 48, 1))


def test_two_iterations_at_a_time_are_not_relied_on(caplog):
    loader = FilesLoader(0)
    both = zip(loader.batches(1), loader.batches(2), strict=False)
    for _ in range(3):
        next(both)
    assert loader.places.state_dict()["courses"] == [None]
    assert "two iterations read it at a time" in caplog.text


def test_an_evaluation_reads_all_each_time_and_moves_no_place():
    loader = FilesLoader(0, drop_last=True, batch_size=5)
    assert [len(y) for _, y in loader.batches(1)] == [5] * (sum(streams.LENGTHS) // 5)
    state = taken(loader, 1, 0, 3)
    loader.places.load_state_dict(state)
    evaluated = [rows(loader.batches(0)) for _ in range(2)]
    assert evaluated[0] == evaluated[1]
    assert sum(len(y) for _, y in evaluated[0]) == sum(streams.LENGTHS)
    assert loader.places.state_dict() == state


def test_workers_draw_apart_and_processes_too(monkeypatch):
    class Draws(streams.Files):
        def sample(self, number):
            return torch.rand(()).item()

    seen = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed.world, "rank", rank)
        monkeypatch.setattr(distributed.world, "size", 2)
        seen += [x for batch in FilesLoader(2, kind=Draws).batches(1) for x in batch.tolist()]
    assert len(seen) == len(set(seen)) == sum(streams.LENGTHS)


def test_a_worker_finds_the_stream_where_torch_says_it_is():
    def init(worker):
        get_worker_info().dataset.lengths = (worker + 1,) * 4

    sizes = [len(y) for _, y in FilesLoader(2, worker_init_fn=init).batches(1)]
    assert sizes == [2, 4]  # two files of one sample, two of two


def test_states_are_plain_data():
    class Own(streams.Files):
        def state_dict(self):
            return {"read": self.read, "deep": [object()]}

    with pytest.raises(CheckpointError, match=r"the state_dict of a Own.deep\[0\] is a builtins"):
        next(FilesLoader(0, kind=Own).batches(1))


def test_a_state_may_hold_tensors_and_is_as_it_was_then():
    class Moving(streams.Files):
        def __init__(self, log):
            super().__init__(log=log)
            self.place = torch.zeros(2, dtype=torch.int64)

        def state_dict(self):
            return {"place": self.place}

        def load_state_dict(self, state):
            self.place = state["place"].clone()

        def __iter__(self):
            for number in self.numbers()[int(self.place[0]) :]:
                self.place += 1
                yield self.sample(number)

    for workers in (0, 2):
        loader = FilesLoader(workers, kind=Moving)
        whole = rows(loader.batches(1))
        state = taken(loader, 1, 0, 5)
        assert gone_on(loader, state, 1, 5)[0] == whole[5:]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_state_that_becomes_no_plain_data_is_told_in_one_line(workers):
    class Opens(streams.Files):
        def state_dict(self):
            return {**super().state_dict(), "file": object() if self.read else None}

    with pytest.raises(CheckpointError) as raised:
        list(FilesLoader(workers, kind=Opens).batches(1))
    assert str(raised.value).startswith("the state_dict of a Opens.file is a builtins.object: ")


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_stream_names_the_batch(workers):
    class Broken(streams.Files):
        def sample(self, number):
            if self.read == 9:
                raise OSError("truncated shard")
            return super().sample(number)

    with pytest.raises(
        DataError, match=r"(?s)could not make batch 2 of pass 1: .*OSError: truncated"
    ):
        list(FilesLoader(workers, kind=Broken).batches(1))
