"""A run's record is true: what continues it, what is written, and what is said of its end."""

import json
import logging
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tiny
from logger import results
from logger.logger import setup_logging
from machinery.checkpoints import environment, file as checkpoint
from machinery.errors import ConfigError, DataError, NonFiniteError, StorageError
from machinery.files import shown_command
from projects import ROOT, quick
from tiny import interrupted, write_config


def files(trainer):
    """All files of a run, with their bytes and times."""
    folders = (trainer.checkpoint_dir, trainer.config.log_dir)
    paths = [path for folder in folders for path in folder.rglob("*") if path.name != ".lock"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths if path.is_file()}


def status(folder):
    return json.loads((folder / "status.json").read_text())


@pytest.mark.parametrize(
    "change", [[], ["--set", "optimizer.args.lr=0.5"], ["--set", "trainer.epochs=1"]]
)
def test_what_trains_nothing_writes_nothing(tmp_path, change, capfd):
    trainer = tiny.train(
        tiny.settings(tmp_path, trainer__tensorboard=True, trainer__epochs=2, trainer__verbosity=1)
    )
    before = files(trainer)
    path = trainer.checkpoint_dir / (
        "checkpoint-epoch1.pth" if "trainer.epochs=1" in change else ""
    )
    tiny.train(tiny.command_line("-r", path, *change))
    assert files(trainer) == before
    assert "nothing to do" in capfd.readouterr().out


def test_environment_has_an_entry_for_each_process(tmp_path):
    config = tiny.settings(tmp_path)
    path = interrupted(config, after=16)
    trainer = tiny.train(config, resume=path)
    tiny.train(config, resume=trainer.checkpoint_dir / "checkpoint-epoch3.pth")  # trains nothing
    entries = json.loads((trainer.checkpoint_dir / "environment.json").read_text())
    assert len(entries) == 2 and all("torch" in entry for entry in entries)
    (trainer.checkpoint_dir / "environment.json").write_text("[")  # spoilt
    tiny.train(config, resume=trainer.checkpoint_dir / "checkpoint-epoch2.pth")
    assert len(json.loads((trainer.checkpoint_dir / "environment.json").read_text())) == 1


class Failing(tiny.Trainer):
    """Fails in the second epoch."""

    error: Exception = ValueError("a mistake")

    def _valid_epoch(self, epoch):
        if epoch == 2:
            raise self.error
        return super()._valid_epoch(epoch)


@pytest.mark.parametrize(
    "error", [ValueError("a mistake"), DataError("no data"), NonFiniteError("nan")]
)
def test_a_failure_is_told_in_info_log_and_status(tmp_path, error, capfd):
    trainer = tiny.build(
        tiny.settings(tmp_path), trainer_class=type("Failing", (Failing,), {"error": error})
    )
    with pytest.raises(type(error)):
        trainer.train()
    log, told = (trainer.config.log_dir / "info.log").read_text(), status(trainer.checkpoint_dir)
    assert str(error) in log and ("Traceback" in log) == isinstance(error, ValueError)
    assert str(error) not in capfd.readouterr().out  # the command shows it on stderr
    assert (
        told["state"] == "failed"
        and told["exit_code"] == getattr(error, "exit_code", 1)
        and told["epoch"] == 2
    )
    assert told["best"]["epoch"] == 1 and told["best"]["val_loss"] > 0 and told["seconds"] > 0
    if isinstance(error, ValueError):
        file, line = told["at"].rsplit(":", 1)
        assert (
            Path(file).name == "test_records.py"
            and "raise self.error" in Path(file).read_text().splitlines()[int(line) - 1]
        )


def test_a_stop_and_an_end_are_told(tmp_path):
    path = interrupted(tiny.settings(tmp_path), after=16)
    log = tmp_path / "log" / "Tiny" / path.parent.name / "info.log"
    assert (
        "stopped by SIGTERM in epoch 2, step 5" in log.read_text()
        and "Traceback" not in log.read_text()
    )
    assert status(path.parent)["state"] == "stopped" and status(path.parent)["step"] == 5
    trainer = tiny.train(tiny.settings(tmp_path), resume=path)
    told = status(trainer.checkpoint_dir)
    assert told["state"] == "finished" and told["best"]["epoch"] == trainer.monitor.best_epoch


def test_a_failed_resume_leaves_the_log_of_the_run_alone(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    before = files(trainer)
    with pytest.raises(ConfigError, match="seed cannot be changed under way"):
        tiny.train(tiny.command_line("-r", trainer.checkpoint_dir, "--set", "seed=7"))
    assert files(trainer) == before


def test_the_config_that_is_saved_is_that_of_the_start(tmp_path):
    parser = tiny.ConfigParser(tiny.settings(tmp_path, trainer__epochs=1))
    parser["optimizer"]["args"]["lr"] = 7.0  # by a program, after the check
    trainer = tiny.train(parser)
    saved = json.loads((trainer.checkpoint_dir / "config.json").read_text())
    assert saved["optimizer"]["args"]["lr"] == 0.01
    assert checkpoint.load(trainer.checkpoint_dir / "checkpoint-epoch1.pth")["config"] == saved


def test_a_removed_key_is_told_and_has_its_default(tmp_path, capfd):
    args = {"lr": 0.01, "weight_decay": 0.5, "betas": [0.5, 0.6]}
    path = write_config(tmp_path, trainer__epochs=1, optimizer__args=args)
    auto = ["-c", path, "--run_id", "one", "-r", "auto"]
    tiny.train(tiny.command_line(*auto))
    write_config(tmp_path, trainer__epochs=2, optimizer__args={"lr": 0.01})
    trainer = tiny.build(tiny.command_line(*auto))
    trainer.train()
    (group,) = trainer.optimizer.param_groups
    assert group["weight_decay"] == 0 and group["betas"] == (0.9, 0.999)
    told = capfd.readouterr().out
    assert "optimizer.args.weight_decay 0.5 -> (default)" in told
    write_config(
        tmp_path,
        trainer__epochs=3,
        optimizer__args={"lr": 0.01},
        lr_scheduler__args={"step_size": 2},
    )
    with pytest.raises(
        ConfigError, match=r"lr_scheduler.args.gamma of a running StepLR cannot be changed"
    ):
        tiny.build(tiny.command_line(*auto)).train()


def test_info_log_that_cannot_be_opened_ends_no_run(tmp_path, capfd):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1))
    (trainer.config.log_dir / "info.log").mkdir()
    trainer.train()
    assert "no log files, training goes on" in capfd.readouterr().out
    setup_logging(tmp_path)


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe"])
def test_what_stands_in_the_place_of_info_log_is_not_written_to(tmp_path, capfd, kind):
    trainer = tiny.build(tiny.settings(tmp_path / "runs", trainer__epochs=1))
    log = trainer.config.log_dir / "info.log"
    precious = tmp_path / "precious.txt"
    if kind == "pipe":
        os.mkfifo(log)
    else:
        log.symlink_to(precious)
    if kind == "link":
        precious.write_text("mine")
    trainer.train()
    assert "no log files, training goes on" in capfd.readouterr().out
    assert not precious.exists() or precious.read_text() == "mine"


@pytest.mark.parametrize("name", ["", "train"])
def test_a_folder_of_logs_that_is_a_link_is_refused(tmp_path, name):
    first = tiny.train(tiny.settings(tmp_path / "runs", trainer__epochs=1))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = first.config.log_dir / name
    if not name:
        shutil.rmtree(place)
    place.symlink_to(elsewhere)
    again = tiny.command_line("-r", first.checkpoint_dir, "--set", "trainer.epochs=2")
    with pytest.raises(StorageError, match="is a link, and is not written to"):
        tiny.build(again)
    assert not list(elsewhere.iterdir())


def test_commands_are_quoted_and_named_from_where_they_are_typed(tmp_path, monkeypatch):
    train, test, own = ROOT / "train.py", ROOT / "test.py", tmp_path / "my_train.py"
    monkeypatch.chdir(ROOT)
    assert (
        shown_command(train, "-r", ROOT / "saved/a b/x.pth")
        == "python train.py -r 'saved/a b/x.pth'"
    )
    monkeypatch.chdir(tmp_path)
    assert shown_command(test, "-r", tmp_path / "x.pth") == f"python {ROOT}/test.py -r x.pth"
    assert shown_command(test, "-r", tmp_path / "-x") == f"python {ROOT}/test.py -r ./-x"
    assert shown_command(own) == "python my_train.py"
    monkeypatch.chdir(ROOT)
    assert shown_command(own, "-r", tmp_path) == f"python {tmp_path}/my_train.py -r {tmp_path}"
    assert shown_command(test) == "python test.py"


@pytest.mark.parametrize("closed", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_a_daemon_without_streams_trains(tmp_path, closed):
    options = f"--set trainer.save_dir={tmp_path} --set trainer.epochs=1 --set trainer.len_epoch=2"
    line = f"{sys.executable} train.py -c config.json --run_id one {options} {closed}"
    result = subprocess.run(line, shell=True, cwd=ROOT, capture_output=True, text=True)
    folder = tmp_path / "models" / "Digits_LeNet" / "one"
    assert result.returncode == 0 and status(folder)["state"] == "finished"
    assert (folder / ".lock").read_text().startswith("pid ")


def test_the_classic_command_of_this_project_is_shown_at_the_end(tmp_path):
    """The lines that are printed are typed as they are, from another folder with a space in its
    name."""
    start = tmp_path / "a b"
    start.mkdir()
    options = [
        "--set",
        f"trainer.save_dir={start}",
        "--set",
        "trainer.epochs=1",
        "--set",
        "trainer.len_epoch=2",
    ]
    result = quick(ROOT, "train.py", "-c", ROOT / "config.json", *options, cwd=start)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("test: ")]
    typed = line.removeprefix("test:").strip().replace("python", sys.executable, 1)
    again = subprocess.run(typed, shell=True, cwd=start, capture_output=True, text=True)
    assert again.returncode == 0 and "accuracy" in again.stdout, again.stderr


DECISIVE = [
    "python",
    "torch",
    "numpy",
    "device",
    "threads",
    "processes",
    "cpu_capability",
    "git_commit",
    "git_dirty",
]
DECISIVE += ["data"]


@pytest.mark.parametrize("field", DECISIVE)
def test_another_environment_is_named_on_resume(tmp_path, messages, field):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    path = folder / "checkpoint-epoch1.pth"
    state = checkpoint.load(path)
    assert json.loads((folder / "environment.json").read_text())[-1] == state["environment"]
    old = state["environment"][field]
    state["environment"][field] = "other"
    checkpoint.save(state, path)
    tiny.build(tiny.settings(tmp_path), resume=path).restore()
    how = "" if field == "data" or field.startswith("git_") else " in the last bits"
    assert f"the continued run may differ{how}: {field} other -> {old}" in messages()


def test_other_changes_of_one_commit_are_named_on_resume():
    before = {"git_commit": "c", "git_dirty": True, "git_changes": "a"}
    now = {**before, "git_changes": "b"}
    assert environment.differences(before, now) == ["git_changes a -> b"]
    for_the_first_time = {**before, "git_dirty": False, "git_changes": None}
    assert environment.differences(for_the_first_time, now) == ["git_dirty False -> True"]
    assert environment.differences({"git_commit": "c", "git_dirty": True}, now) == []


def test_a_run_describes_itself(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    (told,) = json.loads((trainer.checkpoint_dir / "environment.json").read_text())
    assert {*DECISIVE, *environment.ASIDE, "packages", "git_changes"} == set(told)
    state = checkpoint.load(trainer.checkpoint_dir / "checkpoint-epoch1.pth")
    assert state["progress"]["samples"] == 83 and state["progress"]["seed"] == 123
    assert state["config"] == trainer.config.config


def test_a_run_that_starts_again_in_its_folder_starts_its_table_again(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(tiny.settings(tmp_path)))
    auto = ["-c", tmp_path / "config.json", "--run_id", "one", "-r", "auto"]
    folder = tiny.train(tiny.command_line(*auto)).checkpoint_dir
    for path in folder.glob("*.pth"):
        path.unlink()
    assert [row[0] for row in tiny.rows(tiny.train(tiny.command_line(*auto)))] == [
        "epoch",
        "1",
        "2",
        "3",
    ]


def test_a_run_that_ended_before_its_record_did_is_put_in_order(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=2))
    folder = trainer.checkpoint_dir
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps({**status, "state": "running"}))
    (folder / "x.pth.9.tmp").write_text("")
    tiny.train(tiny.command_line("-r", folder))
    assert json.loads((folder / "status.json").read_text())["state"] == "finished"
    assert not (folder / "x.pth.9.tmp").exists()


@pytest.mark.parametrize("bad", [3, None, {"checkpoint": "x.pth"}, "text"])
def test_a_spoilt_result_costs_no_other(tmp_path, caplog, bad):
    file = tmp_path / "test.json"
    good = {"checkpoint": "a.pth", "split": "test", "samples": 7}
    file.write_text(json.dumps({"results": [good, bad]}))
    spoilt = file.read_text()
    new = {"checkpoint": "b.pth", "split": "test", "samples": 8, "metrics": {}}
    results.report_result(file, new, logging.getLogger("test"))
    assert json.loads(file.read_text())["results"] == [good, new]
    assert (tmp_path / "test.json.old").read_text() == spoilt
    assert caplog.text.count("renamed test.json.old") == 1


@pytest.mark.parametrize("spoilt", ["[", "[]", '{"results": 3}', '{"other": []}', "\x00"])
def test_spoilt_results_are_kept_aside(tmp_path, caplog, spoilt):
    file = tmp_path / "test.json"
    file.write_text(spoilt)
    new = {"checkpoint": "b.pth", "split": "test", "samples": 8, "metrics": {}}
    results.report_result(file, new, logging.getLogger("test"))
    assert json.loads(file.read_text())["results"] == [new]
    assert (tmp_path / "test.json.old").read_text() == spoilt and "renamed" in caplog.text


def test_results_that_cannot_be_read_are_kept_aside(tmp_path, monkeypatch, caplog):
    file = tmp_path / "test.json"
    file.write_text('{"results": []}')

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(results, "read_json", refuse)
    new = {"checkpoint": "b.pth", "split": "test", "samples": 8, "metrics": {}}
    results.report_result(file, new, logging.getLogger("test"))
    assert json.loads(file.read_text())["results"] == [new]
    assert (tmp_path / "test.json.old").read_text() == '{"results": []}'
    assert "renamed" in caplog.text


def test_the_screen_has_four_digits_and_the_file_all(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    numbers = {
        "loss": 0.19520756721496582,
        "accuracy": 1.0,
        "tokens": 1234567.75,
        "tiny": 1.23456e-7,
    }
    numbers |= {"large": 1.25e20, "n": math.nan, "count": -98765, "round": 9999.96}
    entry = {"checkpoint": "a.pth", "split": "valid", "samples": 1234, "metrics": numbers}
    results.report_result(tmp_path / "test.json", entry, logging.getLogger("test"))
    assert [record.getMessage() for record in caplog.records] == [
        "a.pth, valid data, 1,234 samples",
        "loss      0.1952",
        "accuracy  1",
        "tokens    1,234,568",
        "tiny      1.235e-07",
        "large     1.25e+20",
        "n         nan",
        "count     -98,765",
        "round     10,000",
    ]
    kept = json.loads((tmp_path / "test.json").read_text())["results"][0]["metrics"]
    assert {**kept, "n": 0} == {**numbers, "n": 0} and math.isnan(kept["n"])
