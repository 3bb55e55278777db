"""A run's record is true: what continues it, what is written, and what is said of its end."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tiny
from logger.logger import setup_logging
from machinery.checkpoints import file as checkpoint, run_folder
from machinery.checkpoints.run import Run
from machinery.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from machinery.files import shown_command
from projects import ROOT, command
from test_resume import interrupted


@pytest.fixture(autouse=True)
def all_messages():
    for name in ("checkpoint", "trainer", "config"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def files(trainer):
    """All files of a run, with their bytes and times."""
    folders = (trainer.checkpoint_dir, trainer.config.log_dir)
    paths = [path for folder in folders for path in folder.rglob("*") if path.name != ".lock"]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths if path.is_file()}


def status(folder):
    return json.loads((folder / "status.json").read_text())


def write(tmp_path, **changes):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny.settings(tmp_path, **{"trainer__verbosity": 1, **changes})))
    return path


def test_the_best_is_a_place_to_resume_from(tmp_path):
    class Best(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": [5.0, 3.0, 4.0, 4.0][epoch - 1]}

    settings = {"trainer__epochs": 4, "trainer__save_period": 9}
    whole = tiny.train(tiny.settings(tmp_path / "a", **settings), trainer_class=Best)
    killed = tiny.train(tiny.settings(tmp_path / "b", **settings), trainer_class=Best)
    (killed.checkpoint_dir / "checkpoint-epoch4.pth").unlink()
    assert [path.name for path in killed.checkpoint_dir.glob("*.pth")] == ["model_best.pth"]
    resumed = tiny.train(tiny.command_line("-r", killed.checkpoint_dir), trainer_class=Best)
    assert resumed.start_epoch == 3 and resumed.monitor.best_epoch == 2
    assert tiny.digest(resumed.model) == tiny.digest(whole.model)
    assert checkpoint.load(killed.checkpoint_dir / "model_best.pth")["epoch"] == 2


def test_an_epoch_s_own_file_goes_before_the_best_of_the_same_epoch(tmp_path):
    folder = tiny.train(tiny.settings(tmp_path, trainer__epochs=1)).checkpoint_dir
    assert run_folder.newest_whole(folder)[0].name == "checkpoint-epoch1.pth"
    (folder / "model_best.pth").write_bytes(b"nonsense")
    assert run_folder.newest_whole(folder)[0].name == "checkpoint-epoch1.pth"


@pytest.mark.parametrize("change", [[], ["--set", "optimizer.args.lr=0.5"], ["--set", "trainer.epochs=1"]])
def test_what_trains_nothing_writes_nothing(tmp_path, change, capfd):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__tensorboard=True, trainer__epochs=2, trainer__verbosity=1))
    before = files(trainer)
    path = trainer.checkpoint_dir / ("checkpoint-epoch1.pth" if "trainer.epochs=1" in change else "")
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


def test_auto_continues_the_same_config_only(tmp_path, capfd):
    path = write(tmp_path, trainer__epochs=3)
    trainer = tiny.train(tiny.command_line("-c", path, "-r", "auto"))
    (first,) = (tmp_path / "models" / "Tiny").iterdir()
    for name in ("checkpoint-epoch3.pth", "checkpoint-epoch2.pth", "model_best.pth"):
        (first / name).unlink(missing_ok=True)
    (first.parent / "stray").mkdir()
    capfd.readouterr()
    other = tiny.build(tiny.command_line("-c", path, "-r", "auto", "--set", "optimizer.args.lr=0.02"))
    assert other.checkpoint_dir != first and other.config.launch.task == "train"
    assert f"{first.name}: another config: optimizer.args.lr" in capfd.readouterr().out
    shutil.rmtree(other.checkpoint_dir)
    # Epochs and what is written aside, it is the same.
    aside = ["--set", "trainer.epochs=4", "--set", "trainer.verbosity=0", "--set", "trainer.save_period=2"]
    same = tiny.build(tiny.command_line("-c", path, "-r", "auto", *aside))
    assert same.checkpoint_dir == first and same.config.resume == first / "checkpoint-epoch1.pth"
    same.config.run.close()
    assert trainer.start_epoch == 1


@pytest.mark.parametrize("code, goes_on", [(2, False), (5, False), (1, True), (3, True), (143, True)])
def test_auto_does_not_repeat_what_must_fail_again(tmp_path, code, goes_on, capfd):
    path = write(tmp_path, trainer__epochs=2)
    tiny.train(tiny.command_line("-c", path, "-r", "auto"))
    (first,) = (tmp_path / "models" / "Tiny").iterdir()
    for name in ("checkpoint-epoch2.pth", "model_best.pth"):
        (first / name).unlink(missing_ok=True)
    (first / "status.json").write_text(json.dumps({"state": "failed", "exit_code": code}))
    again = tiny.build(tiny.command_line("-c", path, "-r", "auto"))
    assert (again.checkpoint_dir == first) == goes_on
    assert (f"{first.name}: ended with exit {code}" in capfd.readouterr().out) != goes_on
    again.config.run.close()


@pytest.mark.parametrize(
    "name, content", [("status.json", "[1]"), ("config.json", "{"), ("status.json", '{"exit_code": "x"}')]
)
def test_auto_passes_over_what_it_cannot_read(tmp_path, name, content, capfd):
    path = write(tmp_path, trainer__epochs=1)
    tiny.train(tiny.command_line("-c", path, "-r", "auto"))
    (first,) = (tmp_path / "models" / "Tiny").iterdir()
    (first / name).write_text(content)
    again = tiny.build(tiny.command_line("-c", path, "-r", "auto"))
    assert again.checkpoint_dir != first and f"{first.name}: cannot be read" in capfd.readouterr().out


class Failing(tiny.Trainer):
    """Fails in the second epoch."""

    error: Exception = ValueError("a mistake")

    def _valid_epoch(self, epoch):
        if epoch == 2:
            raise self.error
        return super()._valid_epoch(epoch)


@pytest.mark.parametrize("error", [ValueError("a mistake"), DataError("no data"), NonFiniteError("nan")])
def test_a_failure_is_told_in_info_log_and_status(tmp_path, error, capfd):
    trainer = tiny.build(tiny.settings(tmp_path), trainer_class=type("Failing", (Failing,), {"error": error}))
    with pytest.raises(type(error)):
        trainer.train()
    log, told = (trainer.config.log_dir / "info.log").read_text(), status(trainer.checkpoint_dir)
    assert str(error) in log and ("Traceback" in log) == isinstance(error, ValueError)
    assert str(error) not in capfd.readouterr().out  # the command shows it on stderr
    assert told["state"] == "failed" and told["exit_code"] == getattr(error, "exit_code", 1) and told["epoch"] == 2
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
    assert "stopped by SIGTERM in epoch 2, step 5" in log.read_text() and "Traceback" not in log.read_text()
    assert status(path.parent)["state"] == "stopped" and status(path.parent)["step"] == 5
    trainer = tiny.train(tiny.settings(tmp_path), resume=path)
    told = status(trainer.checkpoint_dir)
    assert told["state"] == "finished" and told["best"]["epoch"] == trainer.monitor.best_epoch


def test_a_failed_resume_leaves_the_log_of_the_run_alone(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    before = files(trainer)
    with pytest.raises(CheckpointError, match="cannot be continued with seed"):
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
    path = write(tmp_path, trainer__epochs=1, optimizer__args=args)
    auto = ["-c", path, "--run_id", "one", "-r", "auto"]
    tiny.train(tiny.command_line(*auto))
    write(tmp_path, trainer__epochs=2, optimizer__args={"lr": 0.01})
    trainer = tiny.build(tiny.command_line(*auto))
    trainer.train()
    (group,) = trainer.optimizer.param_groups
    assert group["weight_decay"] == 0 and group["betas"] == (0.9, 0.999)
    told = capfd.readouterr().out
    assert "optimizer.args.weight_decay 0.5 -> (default)" in told
    write(tmp_path, trainer__epochs=3, optimizer__args={"lr": 0.01}, lr_scheduler__args={"step_size": 2})
    with pytest.raises(ConfigError, match=r"lr_scheduler.args.gamma of a running StepLR cannot be changed"):
        tiny.build(tiny.command_line(*auto)).train()


def test_a_process_owns_a_run_once(tmp_path):
    run = Run(run_folder.create(tmp_path / "models" / "X", "one"))
    link = tmp_path / "link"
    link.symlink_to(run.folder)
    for folder in (run.folder, link):
        with pytest.raises(ConfigError, match="in use by this process"):
            Run(folder)
    code = "import sys, pathlib; from machinery.checkpoints.run import Run; Run(pathlib.Path(sys.argv[1]))"
    other = subprocess.run([sys.executable, "-c", code, run.folder], cwd=ROOT, capture_output=True, text=True)
    assert f"is in use by pid {os.getpid()}" in other.stderr  # also after the attempts above
    run.close()
    Run(run.folder).close()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    import fcntl

    def without(*args):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "lockf", without)
    Run(run_folder.create(tmp_path / "models" / "X", "one")).close()
    assert "no file locks here" in caplog.text


def test_linked_folders_keep_model_and_log_together(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "disk")
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    parser = tiny.command_line("-r", trainer.checkpoint_dir, "--set", "trainer.epochs=2")
    resumed = tiny.train(parser)
    assert resumed.config.log_dir == trainer.config.log_dir and len(tiny.rows(resumed)) == 3
    link = tmp_path / "latest"
    link.symlink_to(trainer.checkpoint_dir)
    assert tiny.command_line("-r", link).resume.name == "checkpoint-epoch2.pth"


def test_a_copied_run_says_why_it_cannot_go_on(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    inbox = shutil.copytree(trainer.checkpoint_dir, tmp_path / "inbox" / "from_bob" / "run1")
    with pytest.raises(Exception, match=r"not in a run folder \(models/NAME/RUN.*move it to one"):
        tiny.command_line("-r", inbox)


def test_temporary_files_are_swept_wherever_they_are(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    left = [trainer.checkpoint_dir / "x.pth.7.tmp", trainer.config.log_dir / "metrics.csv.7.tmp"]
    for path in left:
        path.write_text("")
    tiny.train(tiny.command_line("-r", trainer.checkpoint_dir, "--set", "trainer.epochs=2"))
    assert not any(path.exists() for path in left)


def test_info_log_that_cannot_be_opened_ends_no_run(tmp_path, capfd):
    trainer = tiny.build(tiny.settings(tmp_path, trainer__epochs=1))
    (trainer.config.log_dir / "info.log").mkdir()
    trainer.train()
    assert "no log files, training goes on" in capfd.readouterr().out
    setup_logging(tmp_path)


def test_commands_are_quoted_and_named_from_where_they_are_typed(tmp_path, monkeypatch):
    train, test, own = ROOT / "train.py", ROOT / "test.py", tmp_path / "my_train.py"
    monkeypatch.chdir(ROOT)
    assert shown_command(train, "-r", ROOT / "saved/a b/x.pth") == "python train.py -r 'saved/a b/x.pth'"
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


def test_names_that_a_component_may_have(tmp_path, monkeypatch):
    import functools
    import types

    module = types.ModuleType("model.names_of_the_test")
    module.MSELoss, module.instance = torch.nn.MSELoss, torch.nn.L1Loss()
    module.half = functools.partial(torch.nn.functional.huber_loss, delta=0.5)
    module.sorted, module.os = sorted, os

    def kinds(section, name):
        parser = tiny.ConfigParser(tiny.settings(tmp_path, **{section: name}))
        return parser.init_ftn(section, module) if section == "loss" else parser.init_ftns(section, module)

    x, y = torch.tensor([1.0, 4.0]), torch.zeros(2)
    assert kinds("loss", "MSELoss")(x, y) == 8.5 and kinds("loss", "instance")(x, y) == 2.5
    assert kinds("loss", "half")(x, y) == pytest.approx(1.125)
    reduced = kinds("loss", {"type": "MSELoss", "args": {"reduction": "sum"}})
    assert reduced(x, y) == 17 and reduced.__name__ == "MSELoss"
    first, second = kinds("metrics", ["instance", {"type": "instance", "name": "again"}])
    assert (first.__name__, second.__name__) == ("instance", "again")
    for name in ("os", "sorted", "os.system", "nothing", "__class__"):
        with pytest.raises(ConfigError, match="there is no module os in" if "." in name else "has no loss"):
            kinds("loss", name)


def test_mistakes_with_classes_of_losses_are_told(tmp_path):
    import types

    module = types.ModuleType("model.names_of_the_test")

    class Weighted(torch.nn.Module):
        def __init__(self, weight, *, scale=1.0):
            super().__init__()
            if weight < 0:
                raise ValueError("weight below 0")

    module.Weighted = Weighted
    for args, message in (
        ({}, "Weighted needs 'weight'"),
        ({"weight": -1}, "ValueError: weight below 0"),
        ({"weight": 1, "scal": 2}, "did you mean 'scale'"),
    ):
        with pytest.raises(ConfigError, match=message):
            tiny.ConfigParser(tiny.settings(tmp_path, loss={"type": "Weighted", "args": args})).init_ftn("loss", module)


def test_a_function_that_makes_something_else_is_refused(tmp_path):
    import types

    module = types.ModuleType("data_loader.of_the_test")
    exec("def read_digits(n):\n    return [n]", vars(module))
    config = tiny.settings(tmp_path, data_loader={"type": "read_digits", "args": {"n": 3}})
    with pytest.raises(ConfigError, match=r"data_loader \(read_digits\): made a list, not a DataLoader"):
        tiny.ConfigParser(config).init_obj("data_loader", module)


def test_fine_tuning_from_a_run_folder_takes_its_best(tmp_path, capfd):
    class Best(tiny.Trainer):
        def _valid_epoch(self, epoch):
            return {"loss": [5.0, 3.0, 4.0][epoch - 1]}

    folder = tiny.train(tiny.settings(tmp_path), trainer_class=Best).checkpoint_dir
    parser = tiny.command_line("-c", write(tmp_path), "-r", folder)
    assert parser.resume == folder / "model_best.pth"
    tiny.train(parser)
    assert f"weights from {folder}/model_best.pth" in capfd.readouterr().out


def test_the_classic_command_of_this_project_is_shown_at_the_end(tmp_path):
    """The lines that are printed are typed as they are, from another folder with a space in its name."""
    start = tmp_path / "a b"
    start.mkdir()
    options = ["--set", f"trainer.save_dir={start}", "--set", "trainer.epochs=1", "--set", "trainer.len_epoch=2"]
    result = command(ROOT, "train.py", "-c", ROOT / "config.json", *options, cwd=start)
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("test: ")]
    typed = line.removeprefix("test:").strip().replace("python", sys.executable, 1)
    again = subprocess.run(typed, shell=True, cwd=start, capture_output=True, text=True)
    assert again.returncode == 0 and "accuracy" in again.stdout, again.stderr
