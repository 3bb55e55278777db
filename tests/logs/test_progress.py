"""How far a run is: the bar, and the line of each half minute."""

import logging

import logger.progress
import tiny
from logger.logger import ConsoleHandler
from logger.progress import Progress


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(logger.progress.time, "monotonic", lambda: self.now)


def test_a_long_epoch_says_how_far_it_is_every_half_minute(monkeypatch, caplog):
    clock = Clock(monkeypatch)
    caplog.set_level(logging.INFO, "trainer")
    progress = Progress("epoch 2/9", 100, 1100, 6400, hidden=None)
    for seconds, step in ((10, 200), (31, 310), (50, 500), (62, 620)):
        clock.now = 100 + seconds
        progress.show(step, f"loss {1 / seconds:.3g}", 64 * step)
    progress.close()
    assert [record.message for record in caplog.records] == [
        "epoch 2/9: step 310 of 1,100, loss 0.0323, 434 samples/s, 01:56 left",
        "epoch 2/9: step 620 of 1,100, loss 0.0161, 537 samples/s, 00:57 left",
    ]


def test_beside_a_bar_the_line_goes_to_the_files_alone(monkeypatch, capfd, tmp_path):
    clock = Clock(monkeypatch)
    shown, kept = ConsoleHandler(), logging.FileHandler(tmp_path / "info.log")
    logs = logging.getLogger("trainer")
    monkeypatch.setattr(logs, "level", logging.INFO)
    for handler in (shown, kept):
        logs.addHandler(handler)
    try:
        for hidden in (False, True):
            progress = Progress("epoch 1/2", 0, 10, 0, hidden=hidden)
            clock.now += 40
            progress.show(5, "loss 1", 40)
            progress.close()
    finally:
        for handler in (shown, kept):
            logs.removeHandler(handler)
            handler.close()
    assert capfd.readouterr().out.count("epoch 1/2: step 5 of 10") == 1
    assert (tmp_path / "info.log").read_text().count("epoch 1/2: step 5 of 10") == 2


def test_an_epoch_is_told_by_the_trainer(tmp_path, monkeypatch, capfd):
    clock = Clock(monkeypatch)

    class Slow(tiny.Trainer):
        def _update(self, batches):
            clock.now += 16
            super()._update(batches)

    config = tiny.settings(tmp_path, trainer__epochs=1, trainer__log_step=1, trainer__verbosity=2)
    tiny.train(config, trainer_class=Slow)
    lines = [line for line in capfd.readouterr().out.splitlines() if "samples/s, " in line]
    assert len(lines) == 5 and lines[0].startswith("epoch 1/1: step 2 of 11, loss 1.")
    assert lines[0].endswith("0 samples/s, 02:24 left")


def test_the_bar_has_a_loss_from_the_first_batch(tmp_path, monkeypatch):
    bars = []

    def bar(label, *args):
        bars.append(Progress(label, *args[:3], hidden=False))
        bars[-1].seen = []
        return bars[-1]

    class Seeing(tiny.Trainer):
        def _update(self, batches):
            bars[-1].seen.append(bars[-1].postfix)
            super()._update(batches)

    monkeypatch.setattr(logger.progress, "Progress", bar)
    config = tiny.settings(tmp_path, trainer__epochs=2, trainer__log_step=4)
    trainer = tiny.train(config, trainer_class=Seeing)
    first, _ = bars
    assert first.seen[0] is None and first.seen[1] == first.seen[3] != first.seen[4]
    assert all(text.startswith("loss ") for text in first.seen[1:] + bars[1].seen[1:])
    monkeypatch.undo()
    whole = tiny.train({**config, "name": "B"})
    assert tiny.rows(trainer) == tiny.rows(whole)
