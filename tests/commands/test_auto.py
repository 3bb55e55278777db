"""`-r auto` continues the run of a config that can go on, and says why others cannot."""

import json
import os
import shutil

import pytest
import torchvision.datasets  # noqa: F401

import tiny
from machinery.checkpoints import run_folder
from machinery.errors import (
    ConfigError,
)
from projects import quick
from tiny import write_config
from typed import SHORT, models


def test_r_auto_starts_continues_and_finishes(trained):
    folder, _ = trained
    auto = ["train.py", "-c", "config.json", "--run_id", "auto", "-r", "auto", *SHORT]
    first = quick(folder, *auto, "--set", "trainer.on_nan=ignore")
    assert first.returncode == 0 and models(folder, "auto").exists(), first.stderr
    again = quick(folder, *auto)
    assert again.returncode == 0 and "nothing to do (epoch 2 of 2)" in again.stdout
    assert "trainer.on_nan ignore -> (default)" in again.stdout
    for name in ("checkpoint-epoch2.pth", "model_best.pth"):
        (models(folder, "auto") / name).unlink()
    third = quick(folder, *auto)
    assert (
        third.returncode == 0
        and "resuming from" in third.stdout
        and "checkpoint-epoch1.pth" in third.stdout
    )
    for path in models(folder, "auto").glob("*.pth"):
        path.unlink()
    fourth = quick(folder, *auto)
    assert fourth.returncode == 0 and "holds no checkpoint: starting at epoch 1" in fourth.stdout
    assert (models(folder, "auto") / "checkpoint-epoch2.pth").exists()


def test_r_auto_finds_the_newest_unfinished_run(trained):
    folder, _ = trained
    auto = ["train.py", "-c", "config.json", "-r", "auto", "--set", "name=Auto", *SHORT]
    runs = folder / "saved" / "models" / "Auto"
    assert quick(folder, *auto).returncode == 0
    (first,) = runs.iterdir()
    # That one is finished: another starts.
    assert quick(folder, *auto).returncode == 0
    (second,) = set(runs.iterdir()) - {first}
    for name in ("checkpoint-epoch2.pth", "model_best.pth"):
        (first / name).unlink()
    third = quick(folder, *auto)
    assert (
        third.returncode == 0 and f"resuming from {first}/checkpoint-epoch1.pth" in third.stdout
    ), third.stderr
    # In use by another process: passed over.
    (second / "checkpoint-epoch2.pth").unlink()
    lock = run_folder.own(second)
    try:
        fourth = quick(folder, *auto)
        refused = quick(folder, "train.py", "-r", second)
    finally:
        run_folder.disown(second, lock)
    assert fourth.returncode == 0 and len(list(runs.iterdir())) == 3, fourth.stderr
    assert refused.returncode == 2
    assert f"is in use by pid {os.getpid()} " in refused.stderr


@pytest.mark.parametrize("run_id", ["", "..", "a/b"])
def test_a_run_id_is_the_name_of_a_folder_also_for_auto(tmp_path, run_id):
    (tmp_path / "config.json").write_text(json.dumps(tiny.settings(tmp_path)))
    with pytest.raises(ConfigError, match="expected the name of a folder"):
        tiny.command_line("-c", tmp_path / "config.json", "-r", "auto", "--run_id", run_id)


def test_auto_continues_the_same_config_only(tmp_path, capfd):
    path = write_config(tmp_path, trainer__epochs=3)
    trainer = tiny.train(tiny.command_line("-c", path, "-r", "auto"))
    (first,) = (tmp_path / "models" / "Tiny").iterdir()
    for name in ("checkpoint-epoch3.pth", "checkpoint-epoch2.pth", "model_best.pth"):
        (first / name).unlink(missing_ok=True)
    (first.parent / "stray").mkdir()
    capfd.readouterr()
    other = tiny.build(
        tiny.command_line("-c", path, "-r", "auto", "--set", "optimizer.args.lr=0.02")
    )
    assert other.checkpoint_dir != first and other.config.launch.task == "train"
    assert f"{first.name}: another config: optimizer.args.lr" in capfd.readouterr().out
    shutil.rmtree(other.checkpoint_dir)
    # Epochs and what is written aside, it is the same.
    aside = [
        "--set",
        "trainer.epochs=4",
        "--set",
        "trainer.verbosity=0",
        "--set",
        "trainer.save_period=2",
    ]
    same = tiny.build(tiny.command_line("-c", path, "-r", "auto", *aside))
    assert same.checkpoint_dir == first and same.config.resume == first / "checkpoint-epoch1.pth"
    same.config.run.close()
    assert trainer.start_epoch == 1


@pytest.mark.parametrize(
    "code, goes_on", [(2, False), (5, False), (1, True), (3, True), (143, True)]
)
def test_auto_does_not_repeat_what_must_fail_again(tmp_path, code, goes_on, capfd):
    path = write_config(tmp_path, trainer__epochs=2)
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
    "name, content",
    [("status.json", "[1]"), ("config.json", "{"), ("status.json", '{"exit_code": "x"}')],
)
def test_auto_passes_over_what_it_cannot_read(tmp_path, name, content, capfd):
    path = write_config(tmp_path, trainer__epochs=1)
    tiny.train(tiny.command_line("-c", path, "-r", "auto"))
    (first,) = (tmp_path / "models" / "Tiny").iterdir()
    (first / name).write_text(content)
    again = tiny.build(tiny.command_line("-c", path, "-r", "auto"))
    assert (
        again.checkpoint_dir != first and f"{first.name}: cannot be read" in capfd.readouterr().out
    )


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", '{"trainer": 3}', "[" * 100_000, "", '{"name": null}']
)
@pytest.mark.parametrize("name", ["config.json", "status.json"])
def test_an_odd_run_of_the_same_name_stops_nobody(tmp_path, name, content):
    config = tmp_path / "config.json"
    config.write_text(json.dumps(tiny.settings(tmp_path, trainer__epochs=1)))
    odd = tmp_path / "models" / "Tiny" / "odd"
    odd.mkdir(parents=True)
    (odd / "config.json").write_text(config.read_text())
    (odd / "checkpoint-epoch1.pth").symlink_to("/nowhere")
    (odd / name).write_text(content)
    assert tiny.command_line("-c", config, "-r", "auto").launch.run is None
    (odd / name).write_text('{"exit_code": 1e999}')
    assert tiny.command_line("-c", config, "-r", "auto").launch.run is None
