"""A worker that is killed, wherever torch says so: in its signal handler, which interrupts whatever
the main process is at."""

import itertools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from pathlib import Path

import pytest

import forked
import ranks
import tiny
from machinery import distributed
from machinery.errors import ConfigError, DataError, StorageError
from machinery.files import read_json
from machinery.telling import end_command, in_plain_words
from trainer import Trainer

KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "
TOLD = "a worker is lost: DataLoader worker (pid"
ABSENT = Path("/nowhere/at/all")
HINT = "out of memory? try a smaller num_workers or batch_size"


class Kills(tiny.Trainer):
    """Its second step takes long, and a worker is killed then."""

    signum = signal.SIGKILL

    def _forward(self, batch):
        if self.step == 1:
            worker = next(each for each in multiprocessing.active_children() if each.daemon)
            os.kill(worker.pid, self.signum)
            given_up = time.monotonic() + 60
            while time.monotonic() < given_up:
                pass
        return super()._forward(batch)


class Faults(Kills):
    signum = signal.SIGSEGV


def train(config, trainer_class):
    tiny.build(config, run_id="run", trainer_class=trainer_class).train()


@pytest.mark.parametrize("trainer", [Kills, Faults])
def test_a_worker_that_is_killed_while_the_users_code_computes(tmp_path, trainer):
    config = tiny.settings(tmp_path, data_loader__args={"num_workers": 2})
    process = forked.start(train, config, trainer, output=tmp_path / "output.txt")
    assert forked.finish(process) == 3
    output = (tmp_path / "output.txt").read_text()
    assert TOLD in output and HINT in output
    assert "Traceback" not in output and "test_lost_workers.py" not in output
    status = read_json(tmp_path / "models/Tiny/run/status.json")
    assert status["exit_code"] == 3 and TOLD in status["message"]


def raised(place):
    """A trainer where torch's signal handler raises in a method."""

    def method(self, *args):
        raise RuntimeError(KILLED)

    return type("Raises", (Trainer,), {place: method})


PLACES = ("_forward", "_after_update", "_valid_epoch", "_report", "_save_epoch", "_log_window")


@pytest.mark.parametrize("place", PLACES)
def test_wherever_it_comes_it_is_the_data_s_and_says_how_to_go_on(tmp_path, place):
    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=raised(place))
    with pytest.raises(DataError, match=r"a worker is lost.*Killed") as caught:
        trainer.train()
    assert HINT in str(caught.value)
    assert "nothing had been saved yet" in str(caught.value) or "resume: " in str(caught.value)


def torch_says(signum, frame):
    """As torch's own handler does where a worker has ended by itself."""
    raise RuntimeError(KILLED)


class LosesWhileItSaves(tiny.Trainer):
    """An error ends it between two steps; that a worker has ended is told only as it saves."""

    def _after_update(self, batches):
        super()._after_update(batches)
        if self.step == 3:
            self._whole = True
            signal.signal(signal.SIGCHLD, torch_says)
            raise ValueError("a mistake")

    def _save_step(self):
        os.kill(os.getpid(), signal.SIGCHLD)
        super()._save_step()


def test_what_is_trained_is_saved_whenever_a_worker_ends(tmp_path):
    before = signal.getsignal(signal.SIGCHLD)
    try:
        trainer = tiny.build(tiny.settings(tmp_path), trainer_class=LosesWhileItSaves)
        with pytest.raises(ValueError, match="a mistake"):
            trainer.train()
        assert signal.getsignal(signal.SIGCHLD) is torch_says
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert tiny.newest(trainer.checkpoint_dir).name == "checkpoint-epoch1-step3.pth"
    assert tiny.status(trainer)["message"] == "a mistake"


def unconnected(worker):
    """What a batch raises whose worker has gone, as it is taken from the queue."""
    one, other = multiprocessing.Pipe()
    other.close()
    if worker == "gone before":
        multiprocessing.connection.Client(str(ABSENT))
    if worker == "gone":
        one.recv()
    one.close()
    open(ABSENT).close()  # a file of the data


class Unconnected:
    """A loader of three batches; the third never comes."""

    def __init__(self, worker):
        self.worker = worker
        self.loader = tiny.TinyLoader(validation_split=0.0)

    def __len__(self):
        return 3

    def __iter__(self):
        yield from itertools.islice(iter(self.loader), 2)
        unconnected(self.worker)


@pytest.mark.parametrize("worker", ["gone before", "gone", "alive"])
def test_a_connection_to_a_worker_that_is_gone_is_one_of_a_lost_worker(tmp_path, worker):
    config = tiny.settings(tmp_path, trainer__monitor="off")
    trainer = tiny.build(config, data_loader=Unconnected(worker), valid_data_loader=None)
    with pytest.raises(DataError, match="could not make batch 2 of pass 1: ") as caught:
        trainer.train()
    told = str(caught.value)
    assert ("a worker is lost: " in told and HINT in told) == (worker != "alive")
    assert "FileNotFoundError" in told or "EOFError" in told
    assert tiny.newest(trainer.checkpoint_dir).name == "checkpoint-epoch1-step2.pth"


def wrapped(kind, text):
    try:
        try:
            raise RuntimeError(text)
        except RuntimeError as error:
            raise kind("something else") from error
    except kind as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(KILLED),
        RuntimeError("DataLoader worker (pid(s) 8, 9) exited unexpectedly"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible"),
        wrapped(ConfigError, KILLED),
        wrapped(StorageError, KILLED),
        wrapped(KeyError, KILLED),
    ],
)
def test_a_command_that_has_no_run_tells_it_too(capfd, monkeypatch, error):
    monkeypatch.setattr(sys, "argv", ["test.py"])
    monkeypatch.setattr("machinery.distributed.abandon", lambda: None)
    with pytest.raises(SystemExit) as left:
        end_command(type(error), error, error.__traceback__)
    assert left.value.code == 3
    told = capfd.readouterr().err
    assert told.startswith(f"error: {TOLD}") and HINT in told and len(told.splitlines()) == 2


def test_what_is_no_sign_of_it_stays_what_it_is():
    for error in (ValueError("a DataLoader worker"), DataError("mine"), KeyboardInterrupt()):
        assert in_plain_words(error) is error
    stop = wrapped(ConfigError, "Timed out waiting 3000ms for send operation")
    assert in_plain_words(stop) is stop  # a process that is alone has no other to lose


def lose(how):
    """What gloo or a store says, before there is a run."""
    distributed.gathered(how)  # once they have met
    raise RuntimeError(how)


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("Timed out after 601 seconds waiting for clients. 1/2 clients joined.", "1/2 clients"),
        ("The client socket has timed out after 600000ms while trying to connect", "600000ms"),
        ("wait timeout after 600000ms, keys: /0//cpu//0/1", "wait timeout after 600000ms"),
        ("[gloo/transport/tcp/pair.cc:545] Read error [::1]:16031: Connection reset", "Read error"),
    ],
)
def test_a_process_that_is_lost_while_they_build_is_told_in_one_line(tmp_path, says, told):
    codes, outputs = ranks.finish(*ranks.start(tmp_path, 2, lose, says))
    assert codes == [1, 1]
    lines = [line for line in "".join(outputs).splitlines() if not line.startswith("[Gloo] Rank")]
    assert lines
    for line in lines:
        assert line.startswith("error: ") and "another process is lost" in line and told in line
