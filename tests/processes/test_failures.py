"""Where one of several processes fails, all of them end, soon, and one of them says why."""

import hashlib
import os
import signal
import sys
import threading

import pytest
import torch

import ranks
import tiny
from exact import Exact, settings
from machinery import distributed
from machinery.checkpoints import shards
from machinery.errors import ConfigError, DataError
from machinery.files import read_json
from trainer import Trainer


def train_and_fail(config, how, rank, step):
    class Fails(Exact):
        def _update(self, batches):
            super()._update(batches)
            if rank == distributed.rank() and self.step == step:
                fail(how)

    trainer = tiny.build(config, run_id="run", trainer_class=Fails)
    trainer.train()


def fail(how):
    if how == "raise":
        raise ValueError("an idea of mine")
    if how == "data":
        raise DataError("a file is gone")
    if how == "exit":
        sys.exit(7)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "stall":
        threading.Event().wait()


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ["raise", "data", "exit", "kill"])
def test_a_process_that_fails_ends_all(tmp_path, how, rank):
    processes, place = ranks.start(tmp_path, 2, train_and_fail, settings(tmp_path), how, rank, 6)
    codes, outputs = ranks.finish(processes, place)
    assert all(codes)
    status = read_json(tmp_path / "models" / "Tiny" / "run" / "status.json")
    told = "".join(outputs)
    if how in ("raise", "data"):
        assert codes[rank] == {"raise": 1, "data": 3}[how] == status["exit_code"]
        assert status["state"] == "failed" and (
            "idea" in status["message"] or "gone" in status["message"]
        )
        assert told.count("error: process 1: " if rank else "error: ") == 1, told
        assert "another process" not in told
    elif how == "kill":
        assert codes[rank] == -signal.SIGKILL
        assert told.count("another process is lost") == 1, told
        assert (status["state"], status["exit_code"]) == (("failed", 1))
    info = (tmp_path / "log" / "Tiny" / "run" / "info.log").read_text()
    assert how in ("exit", "kill") or ("idea" in info or "gone" in info)


def test_one_that_does_not_answer_is_not_waited_for(tmp_path):
    config = settings(tmp_path, trainer__timeout=3)
    processes, _ = ranks.start(tmp_path, 2, train_and_fail, config, "stall", 1, 6)
    processes[0].join(30)
    assert processes[0].exitcode == 1
    processes[1].kill()
    status = read_json(tmp_path / "models" / "Tiny" / "run" / "status.json")
    assert (
        status["state"] == "failed"
        and "kept this one waiting too long (Timed out" in status["message"]
    )


def train_and_fail_as_it_writes(config, how, rank):
    """The thread of a process that writes while it trains on."""
    to_write = shards._to_write

    def fails(tensors):
        if rank == distributed.rank():
            fail(how)
        return to_write(tensors)

    shards._to_write = fails
    tiny.build(config, run_id="run", trainer_class=Exact).train()


LATER = {"trainer__async_save": True, "trainer__checkpoint": "sharded", "trainer__save_step": 2}


def test_one_that_does_not_go_on_writing_is_not_waited_for(tmp_path):
    """As long as one that does not go on training: torch's own groups wait half an hour."""
    config = settings(tmp_path, trainer__timeout=3, **LATER)
    processes, _ = ranks.start(tmp_path, 2, train_and_fail_as_it_writes, config, "stall", 1)
    processes[0].join(30)
    assert processes[0].exitcode == 1
    processes[1].kill()
    status = read_json(tmp_path / "models" / "Tiny" / "run" / "status.json")
    assert status["state"] == "failed" and "kept this one waiting too long" in status["message"]


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_cannot_write_on_ends_all(tmp_path, rank):
    """Its error is told, and nobody waits for its part."""
    config = settings(tmp_path, **LATER)
    processes, place = ranks.start(tmp_path, 2, train_and_fail_as_it_writes, config, "raise", rank)
    codes, outputs = ranks.finish(processes, place)
    assert codes == [1, 1] and "an idea of mine" in "".join(outputs)
    status = read_json(tmp_path / "models" / "Tiny" / "run" / "status.json")
    assert status["state"] == "failed" and "an idea of mine" in status["message"]
    assert not list((tmp_path / "models" / "Tiny" / "run").glob("*.tmp"))


def build_only(config):
    try:
        tiny.build(config)
    except ConfigError as error:
        return str(error)


@pytest.mark.parametrize(
    ("size", "changes", "told"),
    [
        (
            3,
            {"data_loader__args": {"batch_size": 2}},
            "batch_size: 2 samples are too few for 3 processes",
        ),
        (
            2,
            {"data_loader__args": {"n": 102}, "arch__args": {}},
            "a batch of 2 leaves one of 2 processes a single",
        ),
        (
            2,
            {"metrics": ["Counting"]},
            "on several processes Counting needs a method merge_state(other)",
        ),
    ],
)
def test_what_would_go_wrong_is_refused_before_there_is_a_folder(tmp_path, size, changes, told):
    tiny.Counting = Counting
    for answer in ranks.run(tmp_path, size, build_only, settings(tmp_path / "runs", **changes)):
        assert told in answer
    assert not (tmp_path / "runs").exists()


class Counting:
    __module__ = "tiny"

    def __init__(self):
        self.reset()

    def reset(self):
        self.seen = 0

    def update(self, output, target):
        self.seen += len(target)

    def compute(self):
        return self.seen


def save_fails(config):
    """A disk that is full for the main process is an error of all."""
    if distributed.is_main():
        from machinery.checkpoints import file as checkpoint

        def full(*_):
            raise OSError(28, "No space left on device")

        checkpoint.torch = type(
            "Full",
            (),
            {"save": staticmethod(full), "__getattr__": lambda _, name: getattr(torch, name)},
        )()
    try:
        tiny.train(config, trainer_class=Trainer)
    except BaseException as error:
        return type(error).__name__, getattr(error, "exit_code", None)


def test_a_full_disk_ends_all_with_its_own_code(tmp_path):
    assert ranks.run(tmp_path, 2, save_fails, settings(tmp_path)) == [("StorageError", 6)] * 2


class Odd(Exception):
    """As urllib's errors have it, a number that is no exit code."""

    code = 404


def test_a_number_that_an_error_has_is_no_exit_code(tmp_path):
    class Fails(Trainer):
        def _update(self, batches):
            raise Odd("a page is gone")

    with pytest.raises(Odd):
        tiny.build(tiny.settings(tmp_path), run_id="run", trainer_class=Fails).train()
    assert read_json(tmp_path / "models" / "Tiny" / "run" / "status.json")["exit_code"] == 1
    assert "Traceback" in (tmp_path / "log" / "Tiny" / "run" / "info.log").read_text()


@pytest.mark.parametrize(
    "variables, says",
    [
        (
            {"WORLD_SIZE": "4", "RANK": "1"},
            r"WORLD_SIZE is 4, but LOCAL_RANK is not set.*\n  torchrun ",
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "2"},
            r"srun has started 2 tasks of this.*\n  srun --ntasks-per-node=1",
        ),
        ({"WORLD_SIZE": "1", "RANK": "0", "SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, None),
    ],
)
def test_a_launch_that_does_not_say_who_is_who_is_refused(tmp_path, monkeypatch, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if says is None:
        tiny.build(tiny.settings(tmp_path))
        return
    with pytest.raises(ConfigError, match=says):
        tiny.build(tiny.settings(tmp_path))
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(distributed.world, "launched", True)
    tiny.build(tiny.settings(tmp_path))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what threads do")
def test_a_fork_waits_until_the_other_threads_rest(monkeypatch):
    """Python 3.11 may hang where it is forked while one enters it."""
    end = threading.Event()

    def work():
        while not end.is_set():
            hashlib.sha256(bytes(1_000_000)).digest()  # without the lock of Python

    thread = threading.Thread(target=work)
    thread.start()
    assert any(distributed._is_another_at_work() for _ in range(10_000))
    end.set()
    thread.join()
    assert not all(distributed._is_another_at_work() for _ in range(10_000))
    seen = iter([True, True, False, True])
    monkeypatch.setattr(distributed, "_is_another_at_work", lambda: next(seen))
    distributed.until_threads_rest()
    assert list(seen) == [True]
