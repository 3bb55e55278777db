"""Polite stops: a signal to the process or to its group, wherever the run is, saves at most one
step later."""

import itertools
import os
import signal
from pathlib import Path

import pytest
import torch

import forked
import tiny
from base import BaseDataLoader
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.errors import Stopped
from machinery.stopping import StopRequest, shielded

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 143, signal.SIGHUP: 129}
PLACES = ["training", "validation", "saving"]
GRID = list(itertools.product(CODES, [False, True], [0, 2], PLACES))


class Waiting(tiny.Trainer):
    """Says that it has come to a place, and waits there for the signal."""

    pipe, place, at = -1, "", 0

    def reach(self):
        self.at -= 1
        if self.at == 0:
            os.write(self.pipe, b"x")
            while self.stop.signum is None:
                os.sched_yield()

    def _forward(self, batch):
        if self.place == ("training" if self.model.training else "validation"):
            self.reach()
        return super()._forward(batch)


class Stuck(tiny.Points):
    """Data whose later samples never come, once the pipe of the trainer has been written to."""

    def __getitem__(self, i):
        if self.fetched > 15:
            while True:
                signal.pause()
        self.fetched += 1
        return super().__getitem__(i)

    fetched = 0


def train(config, place, at, pipe, stuck=False):
    cls = type("Waiting", (Waiting,), {"pipe": pipe, "place": place, "at": at})
    trainer = tiny.build(config, trainer_class=cls, run_id="run")
    if stuck:
        trainer.data_loader._passes.fetcher.dataset = Stuck(103)
    if place == "saving":
        finish = checkpoint._HashingFile.finish

        def waiting_finish(file):
            trainer.reach()
            finish(file)

        checkpoint._HashingFile.finish = waiting_finish
    trainer.train()


def stopped(tmp_path, signum, group, workers, place, at, **kwargs):
    """Train until the signal at a place; the run folder."""
    config = tiny.settings(tmp_path, data_loader__args={"num_workers": workers})
    reader, writer = os.pipe()
    process = forked.start(
        train, config, place, at, writer, *kwargs.values(), output=tmp_path / "output"
    )
    os.close(writer)
    assert os.read(reader, 1) == b"x", (tmp_path / "output").read_text()
    os.close(reader)
    (os.killpg if group else os.kill)(process.pid, signum)
    assert forked.finish(process) == CODES[signum], (tmp_path / "output").read_text()
    return tmp_path / "models" / "Tiny" / "run"


def newest(folder):
    return run_folder.checkpoints(folder)[-1]


_unbroken = {}


def unbroken(tmp_path):
    if not _unbroken:
        trainer = tiny.train(tiny.settings(tmp_path / "unbroken"))
        _unbroken["run"] = tiny.digest(trainer.model), tiny.rows(trainer)
    return _unbroken["run"]


def check(tmp_path, signum, group, workers, place, at):
    folder = stopped(tmp_path, signum, group, workers, place, at)
    saved = newest(folder)
    # 11 batches of training an epoch, 3 of validation, a file an epoch and one of the best.
    expected = {
        "training": ((at - 1) // 11 + 1, (at - 1) % 11 + 1),
        "validation": ((at - 1) // 3 + 1, 11),
        "saving": (at, None),
    }[place]
    assert (saved.epoch, saved.step) == expected
    assert not list(folder.glob("*.tmp"))
    output = (tmp_path / "output").read_text()
    assert f"resume: python train.py -r {saved.path}" in output and "Traceback" not in output
    trainer = tiny.train(tiny.settings(tmp_path), resume=saved.path)
    assert (tiny.digest(trainer.model), tiny.rows(trainer)) == unbroken(tmp_path)


@pytest.mark.parametrize(
    "signum, group, workers, place, at",
    [
        (signal.SIGTERM, True, 2, "training", 16),
        (signal.SIGINT, True, 2, "validation", 2),
        (signal.SIGTERM, False, 0, "saving", 2),
        (signal.SIGINT, False, 0, "training", 11),
        (signal.SIGUSR1, True, 2, "saving", 1),
    ],
)
def test_a_signal_saves_and_leaves(tmp_path, signum, group, workers, place, at):
    check(tmp_path, signum, group, workers, place, at)


@pytest.mark.soak
@pytest.mark.parametrize("number", range(54))
def test_every_signal_everywhere(tmp_path, number):
    signum, group, workers, place = GRID[number % len(GRID)]
    at = {"training": 3 + 7 * number % 25, "validation": 1 + number % 7, "saving": 1 + number % 2}[
        place
    ]
    check(tmp_path, signum, group, workers, place, at)


def test_workers_with_work_in_hand_do_not_hang_the_exit(tmp_path):
    folder = stopped(tmp_path, signal.SIGTERM, True, 2, "training", 2, stuck=True)
    assert newest(folder).step == 2


def train_and_interrupt_twice(config, pipe):
    trainer = tiny.build(config, run_id="run")
    save_step = trainer._save_step

    def slow_save():
        os.write(pipe, b"x")
        while True:
            os.sched_yield()

    def after_update(batches):
        trainer.step += batches
        if trainer.step == 2:
            save_step()
        elif trainer.step == 4:
            os.write(pipe, b"x")
            while trainer.stop.signum is None:
                os.sched_yield()
            trainer._save_step = slow_save
            trainer._leave()

    trainer._after_update = after_update
    trainer.train()


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    reader, writer = os.pipe()
    process = forked.start(
        train_and_interrupt_twice, tiny.settings(tmp_path), writer, output=tmp_path / "output"
    )
    os.close(writer)  # so that a process which has ended is seen
    for _ in range(2):
        assert os.read(reader, 1) == b"x", (
            forked.finish(process),
            (tmp_path / "output").read_text(),
        )
        os.killpg(process.pid, signal.SIGINT)
    assert forked.finish(process) == 130
    folder = tmp_path / "models" / "Tiny" / "run"
    assert newest(folder).step == 2 and checkpoint.damage(newest(folder).path) is None
    assert '"state": "stopped"' in (folder / "status.json").read_text()
    os.close(reader)


class OwnLoop(tiny.Trainer):
    """A loop as classic projects have it, which does not ask whether to stop."""

    def _train_epoch(self, epoch):
        for k, (data, target) in enumerate(self.data_loader):
            if (epoch, k) == (2, 5):
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("the signal did not end the epoch")
            self.optimizer.zero_grad()
            loss = self.criterion(self.model(data), target)
            loss.backward()
            self.optimizer.step()
        return {"loss": loss.item(), "val_loss": 0.0}


def train_own_loop(config):
    tiny.build(config, run_id="run", trainer_class=OwnLoop).train()


def test_in_a_loop_of_ones_own_a_stop_drops_the_epoch_in_flight(tmp_path):
    process = forked.start(train_own_loop, tiny.settings(tmp_path), output=tmp_path / "output")
    assert forked.finish(process) == 143
    saved = newest(tmp_path / "models" / "Tiny" / "run")
    assert (saved.epoch, saved.step) == (1, None)
    output = (tmp_path / "output").read_text()
    assert "stopped by SIGTERM" in output and f"resume: python train.py -r {saved.path}" in output


def train_and_lose_a_worker(config):
    trainer = tiny.build(config, run_id="run")
    update, count = trainer._update, itertools.count()

    def killing_update(batches):
        if next(count) == 14:
            import multiprocessing

            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()
        update(batches)

    trainer._update = killing_update
    trainer.train()


def test_a_lost_worker_is_told_with_the_last_checkpoint(tmp_path):
    config = tiny.settings(tmp_path, data_loader__args={"num_workers": 2})
    process = forked.start(train_and_lose_a_worker, config, output=tmp_path / "output")
    assert forked.finish(process) == 3
    output = (tmp_path / "output").read_text()
    assert "a worker is lost" in output and "Traceback" not in output, output
    saved = newest(tmp_path / "models/Tiny/run")
    # Workers make batches ahead: the next one may have been there.
    assert saved.epoch == 2 and saved.step in (4, 5)
    assert f"resume: python train.py -r {saved.path}" in output


class Masks(tiny.Points):
    """Notes which signals the threads of a worker have blocked."""

    file = None

    def __getitem__(self, i):
        statuses = [path.read_text() for path in Path("/proc/self/task").glob("*/status")]
        self.file.write_text(
            "\n".join(line for text in statuses for line in text.splitlines() if "SigBlk" in line)
        )
        return super().__getitem__(i)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux shows it")
def test_all_threads_of_a_worker_are_shielded(tmp_path):
    data = Masks(4)
    data.file = tmp_path / "masks"
    before = torch.get_num_threads()
    torch.set_num_threads(4)  # whose pool torch makes again in a worker
    try:
        list(BaseDataLoader(data, 4, False, 0.0, 1))
    finally:
        torch.set_num_threads(before)
    masks = [int(line.split()[1], 16) for line in data.file.read_text().splitlines()]
    # The thread that waits for a signal shows it as not blocked.
    assert len(masks) >= 2 and sum(not mask >> (signal.SIGTERM - 1) & 1 for mask in masks) <= 1, (
        masks
    )
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("ignored", [False, True])
def test_a_closed_terminal_is_a_polite_stop_unless_it_is_ignored(tmp_path, ignored):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:

        class HungUp(tiny.Trainer):
            def _update(self, batches):
                super()._update(batches)
                if (self.epoch, self.step) == (2, 3):
                    os.kill(os.getpid(), signal.SIGHUP)

        trainer = tiny.build(tiny.settings(tmp_path), trainer_class=HungUp)
        if ignored:
            trainer.train()
        else:
            with pytest.raises(BaseException, match="stopped by SIGHUP") as caught:
                trainer.train()
            assert caught.value.exit_code == 129
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_waits_until_workers_are_started():
    """Python and torch would tell an exception there with a traceback, and go on."""
    started = []

    def batches():
        with shielded():
            os.kill(os.getpid(), signal.SIGINT)
            started.append(True)
        yield "a batch"

    with StopRequest() as request:
        assert list(request.until(batches())) == []
        assert request.noted == signal.SIGINT
    assert started == [True]

    with StopRequest() as request, pytest.raises(Stopped), request.unpolled():
        list(batches())
    assert started == [True, True]
