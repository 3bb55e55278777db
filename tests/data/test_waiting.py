"""An epoch that waits for its data says so, once, with what may help."""

import pytest

import tiny
from base import BaseDataLoader
from machinery.order import waiting
from trainer import Trainer


class Clock:
    now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(waiting, "time", clock)
    monkeypatch.setattr(waiting, "_told", set())
    return clock


def train(path, clock, making, computing, epochs=2):
    """Train where a sample takes some seconds to make, and an update some."""

    class Slow(tiny.Points):
        def __getitem__(self, index):
            clock.now += making
            return super().__getitem__(index)

    class Computing(Trainer):
        def _update(self, batches):
            clock.now += computing
            super()._update(batches)

    config = tiny.settings(path, trainer__epochs=epochs, trainer__verbosity=1)
    loaders = [BaseDataLoader(Slow(30), 4, True, num_workers=0) for _ in range(2)]
    named = {"data_loader": loaders[0], "valid_data_loader": loaders[1]}
    return tiny.train(config, trainer_class=Computing, **named)


@pytest.mark.parametrize(
    "making, computing, share",
    [
        (1.0, 4.0, "48%"),  # 30 of 30 + 8 x 4
        (0.1, 3.0, "11%"),
        (0.05, 3.0, None),  # a sixteenth
        (0.3, 0.01, None),  # of 9 seconds
    ],
)
def test_the_share_is_told_once_if_it_is_worth_it(tmp_path, capfd, clock, making, computing, share):
    train(tmp_path, clock, making, computing)
    said = capfd.readouterr().out
    assert said.count("was waiting for data") == int(share is not None)
    if share is not None:
        assert f"{share} of an epoch's training was waiting for data (num_workers is 0)" in said
        assert "more data_loader.args.num_workers may help; tools/tune.py tries some" in said


def test_it_changes_nothing(tmp_path, clock):
    first = train(tmp_path / "a", clock, 1.0, 1.0)
    second = train(tmp_path / "b", clock, 0.0, 0.0)
    assert tiny.rows(first) == tiny.rows(second)
