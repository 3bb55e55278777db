"""Trackers of the user's own get what is trained, and cannot end a run."""

import sys

import tiny
from tiny import interrupted


class Tracker:
    def __init__(self, fail_at=None):
        self.rows, self.closed, self.fail_at = [], 0, fail_at

    def log(self, numbers, step):
        if len(self.rows) == self.fail_at:
            raise ConnectionError("no network")
        self.rows.append((step, dict(numbers)))

    def close(self):
        self.closed += 1

    def rows_with(self, name):
        """By step, what has been logged together with a number."""
        return {step: row for step, row in self.rows if name in row}


def test_a_tracker_gets_windows_and_epochs(tmp_path):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__clip_grad_norm=1.0))
    tracker = Tracker()
    trainer.writers.add(tracker)
    trainer.train()
    assert tracker.closed == 1
    epochs = tracker.rows_with("epoch")
    windows = tracker.rows_with("loss/train")
    validations = tracker.rows_with("loss/valid")
    assert list(epochs) == [11, 22, 33]
    assert list(windows) == [4, 8, 11, 15, 19, 22, 26, 30, 33]
    for row in windows.values():
        assert "grad_norm/train" in row
    for step, row in epochs.items():
        assert row["val_loss"] == validations[step]["loss/valid"]
    header, *rows = tiny.rows(trainer)
    losses = [float(row[header.index("loss")]) for row in rows]
    assert losses == [row["loss"] for row in epochs.values()]


def test_the_norm_of_the_gradients_is_logged_also_where_they_are_not_clipped(tmp_path):
    """It is that of before clipping, and changes nothing."""
    norms, digests = [], []
    for name, changes in (
        ("logged", {"trainer__log_grad_norm": True, "trainer__accumulate": 2}),
        ("clipped", {"trainer__clip_grad_norm": 1e9, "trainer__accumulate": 2}),
        ("neither", {"trainer__accumulate": 2}),
    ):
        trainer = tiny.build(tiny.settings(tmp_path / name, **changes))
        tracker = Tracker()
        trainer.writers.add(tracker)
        trainer.train()
        rows = tracker.rows_with("loss/train").values()
        norms.append([row.get("grad_norm/train") for row in rows])
        digests.append(tiny.digest(trainer.model))
    assert norms[0] == norms[1] and all(norm > 0 for norm in norms[0])
    assert set(norms[2]) == {None} and len(set(digests)) == 1


def test_a_tracker_that_fails_is_left_out(tmp_path, capfd):
    plain = tiny.train(tiny.settings(tmp_path / "plain"))
    trainer = tiny.build(tiny.settings(tmp_path))
    failing = Tracker(fail_at=2)
    trainer.writers.add(failing)
    trainer.train()
    assert failing.closed == 1
    text = "".join(capfd.readouterr())
    assert (
        text.count("Tracker is off from here on, training goes on: ConnectionError: no network")
        == 1
    )
    assert tiny.digest(trainer.model) == tiny.digest(plain.model) and len(tiny.rows(trainer)) == 4


def test_a_tracker_that_leaves_is_left_out(tmp_path, capfd):
    class Leaving(Tracker):
        def log(self, numbers, step):
            sys.exit()

    trainer = tiny.build(tiny.settings(tmp_path))
    trainer.writers.add(Leaving())
    trainer.train()
    assert "Leaving is off from here on, training goes on: SystemExit" in "".join(
        capfd.readouterr()
    )
    assert len(tiny.rows(trainer)) == 4


def test_a_tracker_is_closed_at_a_stop(tmp_path):
    trackers = []

    def build(config, trainer_class, **kwargs):
        trainer = tiny_build(config, trainer_class=trainer_class, **kwargs)
        trackers.append(Tracker())
        trainer.writers.add(trackers[-1])
        return trainer

    tiny_build, tiny.build = tiny.build, build
    try:
        interrupted(tiny.settings(tmp_path), after=13)
    finally:
        tiny.build = tiny_build
    assert [tracker.closed for tracker in trackers] == [1]
