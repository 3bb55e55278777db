"""The commands as a user types them, in a copy of the template: exit codes, files, messages."""

import csv
import json
import re
import shlex
import shutil

import pytest
import torchvision.datasets  # noqa: F401

from machinery.checkpoints import file as checkpoint
from projects import ROOT, command, quick
from typed import SHORT, models


def logs(folder, run="one"):
    return folder / "saved" / "log" / "Digits_LeNet" / run


def test_training_leaves_its_files_and_says_what_to_do_next(trained):
    folder, result = trained
    assert result.stderr == ""
    names = {path.name for path in models(folder).iterdir()}
    assert {
        "config.json",
        "status.json",
        "environment.json",
        "model_best.pth",
        "checkpoint-epoch2.pth",
    } <= names
    assert not any(name.endswith(".tmp") for name in names)
    assert {path.name.split(".")[0] for path in logs(folder).iterdir()} == {
        "info",
        "metrics",
        "train",
        "valid",
    }
    assert re.search(r"run folder: .*saved/models/Digits_LeNet/one\n", result.stdout)
    assert re.search(r"best val_loss \d\.\d+ in epoch \d: saved/.*/model_best.pth\n", result.stdout)
    assert "python test.py -r saved/models/Digits_LeNet/one/model_best.pth" in result.stdout
    # What was said before there was a folder is in info.log too.
    info = (logs(folder) / "info.log").read_text()
    assert "MnistModel  [" in info and "run folder" in info
    status = json.loads((models(folder) / "status.json").read_text())
    assert (status["state"], status["epoch"], status["exit_code"]) == ("finished", 2, 0)


def test_the_commands_printed_at_the_end_work(trained):
    folder, result = trained
    (test,) = re.findall(r"python (test.py -r .*)", result.stdout)
    evaluated = command(folder, *test.split(), python=["-W", "error"])
    assert evaluated.returncode == 0 and evaluated.stderr == ""
    (written,) = json.loads((models(folder) / "test.json").read_text())["results"]
    assert (
        written["checkpoint"] == "model_best.pth"
        and written["split"] == "test"
        and written["samples"] == 1000
    )
    assert f"accuracy   {written['metrics']['accuracy']!r}" in evaluated.stdout


def test_validation_gives_the_logs_numbers_to_the_last_digit(trained):
    folder, _ = trained
    command = ["test.py", "-r", models(folder) / "checkpoint-epoch2.pth", "--split", "valid"]
    result = quick(folder, *command)
    results = json.loads((models(folder) / "test.json").read_text())["results"]
    ours = [(one["checkpoint"], one["split"]) for one in results]
    numbers = results[ours.index(("checkpoint-epoch2.pth", "valid"))]["metrics"]
    with open(logs(folder) / "metrics.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    for name in ("loss", "accuracy", "top_k_acc"):
        assert repr(numbers[name]) == row[f"val_{name}"]
        assert re.search(rf"{name} +{numbers[name]:.4g}\n", result.stdout)
    assert quick(folder, *command).returncode == 0
    again = json.loads((models(folder) / "test.json").read_text())["results"]
    assert len(again) == len(results)  # one of each


def test_a_checkpoint_is_evaluated_anywhere(trained, tmp_path):
    folder, _ = trained
    alone = tmp_path / "elsewhere" / "weights.pth"
    alone.parent.mkdir()
    shutil.copy(models(folder) / "model_best.pth", alone)
    before = sorted((folder / "saved").rglob("*"))
    result = quick(folder, "test.py", "-r", "weights.pth", cwd=alone.parent)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in alone.parent.iterdir()) == ["test.json", "weights.pth"]
    assert sorted((folder / "saved").rglob("*")) == before


def test_resuming_from_another_folder_goes_on_in_the_same_run(trained, tmp_path):
    folder, _ = trained
    shutil.copytree(models(folder), models(folder, "copy"))
    shutil.copytree(logs(folder), logs(folder, "copy"))
    result = quick(
        folder,
        "train.py",
        "-r",
        models(folder, "copy"),
        "--set",
        "trainer.epochs=3",
        "--set",
        "n_gpu=0",
        cwd=tmp_path,
    )
    assert result.returncode == 0 and "trainer.epochs 2 -> 3" in result.stdout, result.stderr
    again = quick(folder, "train.py", "-r", models(folder, "copy"), cwd=tmp_path)
    assert again.returncode == 0 and "nothing to do (epoch 3 of 3)" in again.stdout
    (line,) = re.findall(r"continue: python (.*)", result.stdout)
    what_it_suggests = [*shlex.split(line)[:-1], "trainer.epochs=4"]
    assert quick(folder, *what_it_suggests).returncode == 0
    assert not list(tmp_path.glob("tmp*"))


def test_fine_tuning_is_a_new_run(trained):
    folder, _ = trained
    best = models(folder) / "model_best.pth"
    config = json.loads((folder / "config.json").read_text())
    config["arch"]["args"] = {"num_classes": 11}
    (folder / "wider.json").write_text(json.dumps(config))
    result = quick(folder, "train.py", "-c", "wider.json", "-r", best, "--run_id", "wider", *SHORT)
    assert result.returncode == 4
    assert 'to leave them out: "arch": {"skip": ["fc2.*"]}' in result.stderr
    assert not models(folder, "wider").exists()
    config["arch"]["skip"] = ["fc2.*"]
    (folder / "wider.json").write_text(json.dumps(config))
    result = quick(folder, "train.py", "-c", "wider.json", "-r", best, "--run_id", "wider", *SHORT)
    assert result.returncode == 0, result.stderr
    assert checkpoint.load(models(folder, "wider") / "checkpoint-epoch1.pth")["epoch"] == 1


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["-c", "none.json"], 2, "none.json cannot be read: No such file"),
        ([], 2, "say what to train"),
        (
            ["-c", "config.json", "--set", "trainer.epoch=3"],
            2,
            "trainer.epoch is neither in the config nor a known",
        ),
        (["-c", "config.json", "--run_id", "one"], 2, "exists: continue it with -r"),
        (
            ["-c", "config.json", "--set", "trainer.monitor=min val_los"],
            2,
            "no metric is called 'val_los'",
        ),
        (["-c", "config.json", "--set", "arch.type=MnistModl"], 2, "did you mean 'MnistModel'"),
        (
            ["-c", "config.json", "--set", "data_loader.args.validation_split=0.0001"],
            2,
            "of 4000 leaves 0 samples",
        ),
        (
            ["-c", "cycle.json", "--lr", "1"],
            2,
            "the learning rate follows OneCycleLR: set lr_scheduler.args.max_lr",
        ),
        (
            ["-c", "config.json", "--set", "lr_scheduler=null", "--lr", "-1"],
            2,
            "optimizer (Adam): ValueError: Invalid learning rate: -1.0",
        ),
        (["-c", "config.json", "--run_id", "../x"], 2, "expected the name of a folder"),
        (["-c", "config.json", "--set", "name=.."], 2, "name: expected name of the experiment"),
        (
            ["-c", "config.json", "--set", "trainer.save_dir=/proc/nope"],
            6,
            "cannot be made: No such file",
        ),
        (["-c", "config.json", "-r", ""], 2, "-r is empty"),
        (
            ["-r", "saved/models/Digits_LeNet/one", "--set", "name=Other"],
            2,
            "keeps its name and its folder",
        ),
        (["-r", "saved/models/Digits_LeNet"], 4, "its runs: "),
        (["-r", "auto"], 2, "-r auto needs the config of the run"),
        (["-r", "saved/models/Digits_LeNet/one", "--run_id", "x"], 2, "--run_id names a new run"),
        (["-r", "config.json"], 4, "config.json is not a checkpoint"),
        (
            ["-c", "config.json", "--set", "data_loader.args.data_dir=elsewhere"],
            3,
            "mnist5k.npz is missing",
        ),
    ],
)
def test_mistakes_are_told_and_leave_nothing(trained, arguments, code, message):
    folder, _ = trained
    before = sorted((folder / "saved").rglob("*"))
    result = quick(folder, "train.py", *arguments)
    assert result.returncode == code, result.stderr
    assert message in result.stderr and "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 4
    assert sorted((folder / "saved").rglob("*")) == before


def test_a_runs_config_runs_by_itself(trained):
    folder, _ = trained
    (folder / "child.json").write_text('{"base": "config.json", "seed": 7}')
    first = quick(folder, "train.py", "-c", "child.json", "--run_id", "child", *SHORT)
    assert first.returncode == 0, first.stderr
    again = quick(
        folder, "train.py", "-c", models(folder, "child") / "config.json", "--run_id", "again"
    )
    assert again.returncode == 0, again.stderr
    one, two = (
        checkpoint.load(models(folder, run) / "checkpoint-epoch2.pth") for run in ("child", "again")
    )
    assert one["config"] == two["config"] and one["config"]["seed"] == 7
    assert all(value.equal(two["state_dict"][name]) for name, value in one["state_dict"].items())


def test_show_config_shows_where_each_value_came_from(trained):
    folder, _ = trained
    (folder / "short.json").write_text('{\n  "base": "config.json",\n  "trainer": {"epochs": 3}\n}')
    show = ["tools/show_config.py"]
    result = command(ROOT, *show, "-c", "short.json", "--lr", "0.5", "--set", "seed=7", cwd=folder)
    assert result.returncode == 0 and "torch" not in result.stderr
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in result.stdout.splitlines())
    assert lines["trainer.epochs = 3"] == "short.json:3:15"
    assert lines["optimizer.args.lr = 0.5"] == "command line (optimizer.args.lr)"
    assert lines["seed = 7"] == "command line (--set seed)"
    assert lines['arch.type = "MnistModel"'].startswith("config.json:")
    assert lines["trainer.accumulate = 1"] == "default"
    ofcheckpoint = command(ROOT, *show, "-r", models(folder))
    assert (
        "trainer.epochs = 2" in ofcheckpoint.stdout
        and "checkpoint-epoch2.pth" in ofcheckpoint.stdout
    )


@pytest.mark.parametrize("text", ['{"a": 1,}', '{"name": 5}', '{"trainer": {"epoch": 3}}'])
def test_json_and_type_errors_load_no_torch(trained, text):
    folder, _ = trained
    (folder / "bad.json").write_text(text)
    script = (
        "import sys, train; sys.argv = ['train.py', '-c', 'bad.json']\n"
        "try: train.command()\n"
        "except sys.modules['machinery.errors'].UserError: "
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    assert command(folder, "-c", script).stdout.strip() == "[]"


def test_a_test_split_needs_a_training_switch(trained):
    folder, _ = trained
    loaders = folder / "data_loader" / "data_loaders.py"
    text = loaders.read_text()
    try:
        loaders.write_text(
            text.replace("training: bool = True,", "training_data: bool = True,").replace(
                "if training else", "if training_data else"
            )
        )
        result = quick(folder, "test.py", "-r", models(folder))
        assert result.returncode == 2
        assert "DigitsDataLoader has no argument 'training'" in result.stderr
        assert "test_data_loader" in result.stderr
    finally:
        loaders.write_text(text)
