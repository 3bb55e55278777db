"""SIGKILL at any instant: the run goes on with the same command, and ends with the bits of the
unbroken one."""

import json
import random
import sys

import pytest

import forked
import ranks
import tiny
from machinery import distributed
from machinery.checkpoints import file as checkpoint, run_folder

KINDS = [
    {},
    {"trainer__save_step": 3, "trainer__accumulate": 2, "trainer__keep_last": 2},
    {"data_loader__args": {"kind": "whole"}, "trainer__len_epoch": 7, "trainer__save_step": 2},
    {
        "lr_scheduler": {"type": "OneCycleLR", "args": {"max_lr": 0.05}, "interval": "step"},
        "trainer__tensorboard": True,
    },
    {"data_loader__args": {"num_workers": 2, "persistent_workers": True}, "trainer__save_step": 4},
]


def command(config, run_id, kill_at=0, report=None):
    """`train.py -c CONFIG --run_id RUN -r auto`, killed at an instant, or reporting how many
    instants there were."""
    killer = forked.KillAt(kill_at)
    sys.setprofile(killer)
    tiny.build(tiny.command_line("-c", config, "--run_id", run_id, "-r", "auto")).train()
    sys.setprofile(None)
    if report is not None:
        report.write_text(str(killer.count))


def outcome(folder):
    """What a run has led to: the last weights and states, the best epoch, the table."""
    state = checkpoint.load(run_folder.newest_whole(folder)[0])
    weights = {name: value.numpy().tobytes() for name, value in state["state_dict"].items()}
    moments = repr(state["optimizer"])
    table = (
        (folder.parent.parent.parent / "log" / "Tiny" / folder.name / "metrics.csv")
        .read_text()
        .splitlines()
    )
    rows = [line.split(",")[:-2] for line in table]
    status = json.loads((folder / "status.json").read_text())
    best = checkpoint.load(folder / "model_best.pth")["epoch"]
    return (
        weights,
        moments,
        state["monitor_best"],
        best,
        rows,
        status["state"],
        state["states"]["monitor"],
    )


def check_files(folder):
    """No torn file under a final name."""
    for path in folder.glob("*.pth") if folder.exists() else ():
        assert checkpoint.damage(path) is None, path
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


def run_with_kills(tmp_path, number, instants, expected, patience):
    """One run, killed until it has ended; the number of kills."""
    draw = random.Random(number)
    folder = tmp_path / "models" / "Tiny" / f"run{number}"
    for kills in range(1000):
        at = draw.randint(1, int(instants * draw.choice([0.05, 0.3, 1.0])))
        # A run must come to its end some time: the kills come later and later.
        process = forked.start(
            command, tmp_path / "config.json", folder.name, at + kills * instants // patience
        )
        code = forked.finish(process)
        check_files(folder)
        if code == 0:
            assert outcome(folder) == expected
            assert not list(folder.glob("*.tmp"))
            return kills
        assert code == -9
    raise AssertionError("no end")


def prepare(tmp_path, kind):
    """Write the config and run it unbroken; how many instants that has, and its outcome."""
    (tmp_path / "config.json").write_text(json.dumps(tiny.settings(tmp_path, **KINDS[kind])))
    report = tmp_path / "instants"
    assert (
        forked.finish(forked.start(command, tmp_path / "config.json", "unbroken", 0, report)) == 0
    )
    return int(report.read_text()), outcome(tmp_path / "models" / "Tiny" / "unbroken")


@pytest.mark.parametrize("kind", [1, 4])
def test_a_run_survives_kills(tmp_path, kind):
    instants, expected = prepare(tmp_path, kind)
    assert run_with_kills(tmp_path, kind, instants, expected, patience=4) > 0


@pytest.mark.soak
@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_many_runs_survive_many_kills(tmp_path, kind, record_property):
    instants, expected = prepare(tmp_path, kind)
    kills = [
        run_with_kills(tmp_path, number, instants, expected, patience=20) for number in range(12)
    ]
    record_property("runs", len(kills))
    record_property("kills", sum(kills))
    print(f"kind {kind}: {len(kills)} runs, {sum(kills)} kills, {instants} instants each")
    assert sum(kills) >= 40


TOGETHER = [
    {
        "data_loader__args": {"n": 105},
        "trainer__save_step": 3,
        "trainer__accumulate": 2,
        "trainer__keep_last": 2,
    },
    {"data_loader__args": {"n": 105, "num_workers": 1}, "trainer__save_step": 4},
]


def rank_command(config, run_id, victim, kill_at):
    """`command` as one of several processes, of which one is killed."""
    command(config, run_id, kill_at if victim == distributed.rank() else 0)


def run_together(tmp_path, number, instants, expected):
    """One run of two processes, killed until it has ended; the number of kills."""
    draw = random.Random(number)
    folder = tmp_path / "models" / "Tiny" / f"run{number}"
    for kills in range(1000):
        at = draw.randint(1, int(instants * draw.choice([0.1, 0.5, 1.0]))) + kills * instants // 8
        arguments = (rank_command, tmp_path / "config.json", folder.name, draw.randrange(2), at)
        codes, outputs = ranks.finish(*ranks.start(tmp_path, 2, *arguments))
        check_files(folder)
        if codes == [0, 0]:
            assert outcome(folder) == expected
            assert not list(folder.glob("*.tmp"))
            return kills
        assert codes.count(-9) == 1, outputs
    raise AssertionError("no end")


def prepare_together(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps(tiny.settings(tmp_path, **TOGETHER[kind])))
    counts = ranks.run(tmp_path, 2, counted_command, tmp_path / "config.json", "unbroken")
    return min(counts), outcome(tmp_path / "models" / "Tiny" / "unbroken")


def counted_command(config, run_id):
    killer = forked.KillAt(0)
    sys.setprofile(killer)
    tiny.build(tiny.command_line("-c", config, "--run_id", run_id)).train()
    sys.setprofile(None)
    return killer.count


def test_two_processes_survive_kills_of_either(tmp_path):
    instants, expected = prepare_together(tmp_path, 0)
    assert run_together(tmp_path, 1, instants, expected) > 0


@pytest.mark.soak
@pytest.mark.parametrize("kind", range(len(TOGETHER)))
def test_two_processes_survive_many_kills(tmp_path, kind):
    instants, expected = prepare_together(tmp_path, kind)
    kills = [run_together(tmp_path, number, instants, expected) for number in range(20)]
    print(
        f"kind {kind}: {len(kills)} runs of two processes, "
        f"{sum(kills)} kills, {instants} instants each"
    )
    assert sum(kills) >= 60
