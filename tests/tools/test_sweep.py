"""tools/sweep.py: points are drawn, tried once each, and go on after kills."""

import csv
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import pandas as pd
import pytest
import torchvision.datasets  # noqa: F401

import forked
from machinery.checkpoints import file as checkpoint
from machinery.files import read_json, write_json
from projects import ROOT
from scripts import SHORT, script


def sweep_file(folder, **more):
    spec = {
        "config": str(ROOT / "config.json"),
        "set": {**SHORT, "trainer.epochs": 2, "trainer.tensorboard": False},
        "space": {"optimizer.args.lr": [0.002, 0.01], "data_loader.args.batch_size": [64, 128]},
    }
    write_json({**spec, **more}, folder / "try.json")
    return folder / "try.json"


def points(folder):
    with open(folder / "points.csv", newline="") as file:
        return {int(row["point"]): row for row in csv.DictReader(file)}


def _point_by_fork(config, settings, folder, environment, look):
    """What `run_point` does, without a new interpreter."""
    from tools.sweeping.point import Outcome, best_of, values

    given = ["-c", str(config), "--run_id", folder.name, "-r", "auto"]
    given += [
        word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")
    ]
    code = forked.finish(
        forked.start(script, "train.py", given, output=folder.parent.parent.parent / "printed.txt")
    )
    log = folder.parent.parent.parent / "log" / folder.parent.name / folder.name
    found = values(log / "metrics.csv", "val_loss")
    for epoch, value in found:
        look(epoch, value)
    best = best_of([value for _, value in found], settings["trainer.monitor"])
    return Outcome(
        "complete" if code == 0 else "failed", best, "" if code == 0 else f"exit code {code}"
    )


def _sweep(file, save_dir, given):
    os.chdir(ROOT)
    import tools.sweep

    tools.sweep.run_point = _point_by_fork
    sys.argv = ["tools/sweep.py", str(file), "--save_dir", str(save_dir), *given]
    tools.sweep.main()


def sweep(folder, file, *given, code=0):
    importlib.import_module("tools.sweep")  # once, and not again in each fork
    output = folder / "sweep.txt"
    output.unlink(missing_ok=True)
    ended = forked.finish(forked.start(_sweep, file, folder / "sweeps", given, output=output))
    assert ended == code, output.read_text()
    return output.read_text()


def test_a_sweep_goes_on_after_a_failing_point_and_a_kill(tmp_path):
    pytest.importorskip("optuna")
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    space = {"optimizer.args.lr": [0.002, -1], "data_loader.args.batch_size": [64, 128]}
    printed = sweep(tmp_path, sweep_file(tmp_path, space=space))
    assert len(re.findall(r"^point \d", printed, re.M)) == 4 and "best: point" in printed
    found = points(tmp_path / "sweeps" / "try")
    assert sorted(row["state"] for row in found.values()) == [
        "complete",
        "complete",
        "fail",
        "fail",
    ]
    assert all(
        (float(row["optimizer.args.lr"]) < 0) == (row["state"] == "fail") for row in found.values()
    )
    for number, row in found.items():
        folder = tmp_path / "sweeps" / "try" / "models" / "Digits_LeNet" / f"point-{number:04}"
        if row["state"] == "complete":
            assert float(row["val_loss"]) == read_json(folder / "status.json")["best"]["val_loss"]
            assert (
                checkpoint.load(folder / "model_best.pth")["config"]["seed"] == 123
                if "seed" in row
                else True
            )
    # A point whose worker was killed, and one that had not begun: both are found again, and nothing
    # else is done.
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "sweeps" / "try" / "journal.log")))
    study = optuna.load_study(study_name="try", storage=storage)
    for more in (0.003, 0.004):
        study.enqueue_trial(
            {"optimizer.args.lr": 0.002, "data_loader.args.batch_size": 64}, {"again": more}
        )
    study.ask({name: found.distributions[name] for name in space for found in study.trials[:1]})
    again = sweep(tmp_path, sweep_file(tmp_path, space=space))
    assert re.findall(r"^point (\d)", again, re.M) == ["4", "5"]
    again = sweep(tmp_path, sweep_file(tmp_path, space=space), "--retry")
    assert re.findall(r"^point (\d).*(failed)", again, re.M) == [("6", "failed"), ("7", "failed")]
    assert not re.search(r"^point", sweep(tmp_path, sweep_file(tmp_path, space=space)), re.M)
    other = sweep_file(tmp_path, space={"optimizer.args.lr": [1]})
    assert "is of a sweep with another space" in sweep(tmp_path, other, code=2)


@pytest.mark.parametrize(
    "more, told",
    [
        ({"space": {"optimizer.args.lt": [1], "trainer.epoch": [2]}}, "trainer.epoch"),
        ({"space": {}}, "space"),
        (
            {"space": {"optimizer": [{"type": "SGD"}], "optimizer.args.lr": [1]}},
            "optimizer.args.lr is a part of",
        ),
        ({"set": {"trainer.epochz": None}}, "trainer.epochz"),
        ({"space": {"seed": []}}, "empty"),
        ({"method": "random"}, "points"),
        (
            {"space": {"optimizer.args.lr": {"low": 1, "high": 0.1}}},
            "try.json:\n  space.optimizer.args.lr: expected low",
        ),
        (
            {"space": {"optimizer": [{"type": "SGD"}]}, "set": {"optimizer.args.lr": 1}},
            "optimizer.args.lr is a part of",
        ),
        ({"space": {"optimizer.args.lr": {"low": 0.1, "high": 1.5}}}, "a grid wants lists"),
        ({"set": {"trainer.monitor": "off"}}, "monitor"),
        ({"metod": "grid"}, "metod"),
        ({"config": "nothing.json"}, "nothing.json"),
    ],
)
def test_mistakes_in_a_sweep_are_told_before_anything_runs(tmp_path, more, told):
    pytest.importorskip("optuna")
    from machinery.errors import ConfigError
    from tools.sweeping.spec import read_spec

    with pytest.raises(ConfigError, match=re.escape(told)):
        read_spec(sweep_file(tmp_path, **more))


def test_points_are_drawn_within_their_ranges(tmp_path):
    pytest.importorskip("optuna")
    from tools.sweeping.spec import decoded, read_spec

    space = {
        "optimizer.args.lr": {"low": 1e-4, "high": 1e-1, "log": True},
        "data_loader.args.batch_size": {"low": 32, "high": 128, "step": 32},
        "lr_scheduler": [None, {"type": "ExponentialLR", "args": {"gamma": 0.9}}],
    }
    spec, *_ = read_spec(sweep_file(tmp_path, space=space, method="random", points=200))
    drawn = spec.listed()
    rates, sizes, schedules = zip(*(map(decoded, point.values()) for point in drawn), strict=True)
    assert (
        min(rates) >= 1e-4
        and max(rates) <= 1e-1
        and sorted(rates)[100] == pytest.approx(10**-2.5, rel=0.7)
    )
    assert set(sizes) == {32, 64, 96, 128} and {str(each) for each in schedules} == {
        str(e) for e in space["lr_scheduler"]
    }
    steps = {"optimizer.args.lr": {"low": 0.1, "high": 0.7, "step": 0.1}}
    spec_of_steps, *_ = read_spec(sweep_file(tmp_path, space=steps))
    assert [point["optimizer.args.lr"] for point in spec_of_steps.listed()] == [
        0.1,
        0.2,
        0.3,
        0.4,
        0.5,
        0.6,
        0.7,
    ]
    assert drawn == spec.listed() and drawn[:50] == spec.model_copy(update={"points": 50}).listed()
    for distribution, value in zip(spec.distributions().values(), drawn[0].values(), strict=True):
        assert distribution._contains(distribution.to_internal_repr(value))


def test_points_that_have_failed_are_tried_again(tmp_path):
    pytest.importorskip("optuna")
    file = sweep_file(tmp_path, space={"optimizer.args.lr": [-1, -2]}, method="tpe", points=2)
    for expected, given in (
        (["0", "1"], []),
        ([], []),
        (["2", "3"], ["--retry"]),
        (["4", "5"], ["--retry"]),
    ):
        assert re.findall(r"^point (\d)", sweep(tmp_path, file, *given, code=1), re.M) == expected


def _stubborn(_folder):
    """Two signals, five seconds apart, in a worker whose point does not end by one."""
    from tools import children

    code = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    clock = iter([0.0, 0.5, 5.0])
    children.time = SimpleNamespace(monotonic=lambda: next(clock))
    with children.passing_on([process], at_second=signal.SIGKILL):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert process.poll() is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert process.wait() == -signal.SIGKILL


def test_a_second_signal_ends_a_point_that_hangs(tmp_path):
    pytest.importorskip("optuna")
    output = tmp_path / "output.txt"
    assert forked.finish(forked.start(_stubborn, tmp_path, output=output)) == 143, (
        output.read_text()
    )


@pytest.mark.soak
def test_a_sweep_that_is_killed_loses_and_repeats_nothing(tmp_path):
    pytest.importorskip("optuna")
    file = sweep_file(tmp_path, method="tpe", points=12, prune_from=2)
    given = [
        sys.executable,
        "tools/sweep.py",
        file,
        "--workers",
        "2",
        "--save_dir",
        tmp_path / "sweeps",
    ]
    for seconds, kill in ((9, signal.SIGKILL), (8, signal.SIGTERM), (None, None)):
        process = subprocess.Popen(
            given, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL
        )
        try:
            assert process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(kill)
            process.wait()
    rows = points(tmp_path / "sweeps" / "try")
    assert sorted(rows) == list(range(12)) and {row["state"] for row in rows.values()} <= {
        "complete",
        "pruned",
    }
    for number in rows:
        log = (
            tmp_path
            / "sweeps"
            / "try"
            / "log"
            / "Digits_LeNet"
            / f"point-{number:04}"
            / "metrics.csv"
        )
        epochs = pd.read_csv(log)["epoch"].tolist()
        assert epochs == list(range(1, len(epochs) + 1))


def test_a_torn_journal_is_mended_and_links_are_not_followed(tmp_path):
    pytest.importorskip("optuna")
    file = sweep_file(tmp_path, space={"optimizer.args.lr": [0.002]})
    sweep(tmp_path, file)
    folder = tmp_path / "sweeps" / "try"
    journal = folder / "journal.log"
    before = journal.read_bytes()
    journal.write_bytes(before + b'{"op_code": 4, "worker')
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (folder / "points.csv").unlink()
    (folder / "points.csv").symlink_to(victim)
    sweep(tmp_path, file)
    assert (
        journal.read_bytes().startswith(before)
        and len(points(folder)) == 1
        and victim.read_text() == "mine"
    )
    (folder / ".sweep.lock").unlink()
    (folder / ".sweep.lock").symlink_to(victim)
    assert "cannot be written" in sweep(tmp_path, file, code=6) and victim.read_text() == "mine"
    (folder / ".sweep.lock").unlink()
    journal.write_bytes(b"garbage\n" + before)
    assert "cannot be used" in sweep(tmp_path, file, code=2)
    journal.unlink()
    victim.write_text("mine\nand no end")
    journal.symlink_to(victim)
    assert (
        "is no file" in sweep(tmp_path, file, code=2) and victim.read_text() == "mine\nand no end"
    )
    journal.unlink()
    told = sweep(tmp_path, file, "--storage", "mysql://nobody:secret@127.0.0.1:1/none", code=2)
    assert "cannot be used" in told and "secret" not in told
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.create_study(
        study_name="try", storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    study.set_user_attr("sweep", [1])
    assert "is of a sweep with another" in sweep(tmp_path, file, code=2)


def test_points_are_stopped_from_the_epoch_that_is_named(tmp_path):
    pytest.importorskip("optuna")
    import optuna

    from tools.sweep import Sweep

    made = Sweep(
        sweep_file(tmp_path, method="tpe", points=9, prune_from=2), None, None, tmp_path / "sweeps"
    )
    given = {"params": {}, "distributions": {}, "intermediate_values": {1: 0.1, 2: 0.1}}
    for _ in range(3):
        made.study.add_trial(optuna.trial.create_trial(value=0.1, **given))
    trial = made.study.ask()
    trial.report(5.0, 1)
    assert not trial.should_prune()
    trial.report(5.0, 2)
    assert trial.should_prune()


def test_a_pruned_point_keeps_its_value_and_its_place(tmp_path):
    """What was printed is in the table, and in the pictures."""
    pytest.importorskip("optuna")
    from tools.sweep import Sweep
    from tools.sweeping.drawing import draw, points_of
    from tools.sweeping.point import Outcome
    from tools.sweeping.report import as_table

    file = sweep_file(tmp_path, method="tpe", points=3)
    made = Sweep(file, None, None, tmp_path / "sweeps")
    for values, outcome in (
        ([0.75, 0.5], Outcome("complete", 0.5)),
        # The last epoch was better than the one it was stopped at; an earlier one is the best.
        ([0.50426, 0.54382], Outcome("pruned", 0.50401)),
        ([], Outcome("failed", None, "why")),
    ):
        trial = made.study.ask(made.spec.distributions())
        for epoch, value in enumerate(values):
            trial.report(value, epoch + 1)
        made._note(trial, outcome)
    table = as_table(made.study, made.folder, made.monitor).set_index("point")
    assert table["state"].to_dict() == {0: "complete", 1: "pruned", 2: "fail"}
    assert [*table["val_loss"].sort_index()[:2]] == [0.5, 0.50401] and "deviation" not in table
    points = points_of(made.study, made.monitor)
    assert [(point.value, point.is_done) for point in points] == [(0.5, True), (0.50401, False)]
    lines = draw(made.study, made.folder, made.monitor)
    assert [line.rpartition("/")[2] for line in lines] == ["history.png", "settings.png"]
    assert all(
        (made.folder / f"{name}.png").stat().st_size > 2000 for name in ("history", "settings")
    )


def test_several_seeds_give_a_mean_and_a_deviation(tmp_path):
    pytest.importorskip("optuna")
    import statistics

    space = {"optimizer.args.lr": [0.002, 0.01]}
    more = {"trainer.epochs": 1, "trainer.tensorboard": False, "seed": 7}
    file = sweep_file(tmp_path, space=space, set={**SHORT, **more})
    printed = sweep(tmp_path, file, "--repeat", "2")
    found = points(tmp_path / "sweeps" / "try")
    models = tmp_path / "sweeps" / "try" / "models" / "Digits_LeNet"
    for number, row in found.items():
        runs = [models / f"point-{number:04}", models / f"point-{number:04}-seed2"]
        assert [read_json(run / "config.json")["seed"] for run in runs] == [7, 8]
        values = [read_json(run / "status.json")["best"]["val_loss"] for run in runs]
        assert values[0] != values[1] and row["seeds"] == "2"
        assert float(row["val_loss"]) == pytest.approx(statistics.fmean(values))
        assert float(row["deviation"]) == pytest.approx(statistics.stdev(values))
        line = f"{statistics.fmean(values):.5g} ± {statistics.stdev(values):.2g}"
        assert re.search(rf"^point {number}: lr [\d.]+: val_loss {re.escape(line)}$", printed, re.M)
        assert read_json(runs[1] / "sweep.json")["space"] == [*space]
    assert re.search(r"^best: point \d, val_loss \S+ ± \S+ \(2 seeds\): ", printed, re.M)
    # It is another sweep without, and does nothing again.
    assert "another repeat" in sweep(tmp_path, file, code=2)
    assert not re.search(r"^point \d", sweep(tmp_path, file, "--repeat", "2"), re.M)
    sweep(tmp_path, file, "--repeat", "0", code=2)
    both = sweep_file(tmp_path, space={"seed": [1, 2]})
    assert "repeat gives each point several" in sweep(tmp_path, both, "--repeat", "2", code=2)


def test_a_sweep_of_before_there_were_several_seeds_goes_on(tmp_path):
    pytest.importorskip("optuna")
    from tools.sweep import Sweep

    file = sweep_file(tmp_path)
    made = Sweep(file, None, None, tmp_path / "sweeps")
    before = made.study.user_attrs["sweep"]
    assert before.pop("repeat") == 1
    made.study.set_user_attr("sweep", before)
    Sweep(file, None, None, tmp_path / "sweeps")
    from machinery.errors import ConfigError

    with pytest.raises(ConfigError, match="another repeat"):
        Sweep(file, None, None, tmp_path / "sweeps", repeat=3)


def test_a_config_that_is_edited_under_way_changes_no_point(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    from tools import sweep as tool

    config = tmp_path / "mine.json"
    shutil.copy(ROOT / "config.json", config)
    made = tool.Sweep(sweep_file(tmp_path, config=str(config)), None, None, tmp_path / "sweeps")
    config.write_text(config.read_text().replace("0.002", "0.9"))
    assert read_json(made.config)["optimizer"]["args"]["lr"] == 0.002
    assert made.config == tmp_path / "sweeps" / "try" / ".config.json"


def test_a_sweep_is_of_one_config(tmp_path):
    pytest.importorskip("optuna")
    config = json.loads((ROOT / "config.json").read_text())
    write_json(config, tmp_path / "mine.json")
    space = {"optimizer.args.lr": [0.002]}
    sweep(tmp_path, sweep_file(tmp_path, config="mine.json", space=space))
    config["optimizer"]["args"]["weight_decay"] = 0.1
    write_json(config, tmp_path / "mine.json")
    told = sweep(tmp_path, sweep_file(tmp_path, config="mine.json", space=space), code=2)
    assert "another content of the config" in told
    more = sweep_file(
        tmp_path, config="mine.json", space={**space, "seed": [1, 2]}, method="random", points=1
    )
    from tools.sweeping.spec import read_spec

    few, many = (read_spec(more)[0].model_copy(update={"points": n}).listed() for n in (1, 2))
    assert few == many[:1] and len({str(point) for point in many}) == 2


def test_a_killed_worker_has_the_code_of_its_signal(monkeypatch):
    """As a shell tells it; the sweep ends with it, whatever the others end with."""
    from tools.sweep import _spread

    code = "import os, sys; os.kill(os.getpid(), 9) if sys.argv[-1] == '1' else sys.exit(6)"
    monkeypatch.setattr(sys, "argv", ["-c", code])
    with pytest.raises(SystemExit) as caught:
        _spread(2)
    assert caught.value.code == 128 + signal.SIGKILL


STEP, DEEP = ({"type": "StepLR", "args": {"step_size": size}} for size in (1, 20))
CYCLE = {"type": "torch.optim.lr_scheduler.OneCycleLR", "args": {"max_lr": 0.1}}


@pytest.mark.parametrize(
    "values, labels",
    [
        (["SGD", "timm.optim.Lamb", "SGD"], ["SGD", "Lamb", "SGD"]),
        ([CYCLE, None, STEP, CYCLE], ["OneCycleLR", "null", "StepLR", "OneCycleLR"]),
        ([True, False, True], ["true", "false", "true"]),
        ([1, "1"], ["1", '"1"']),
        ([STEP, DEEP], ['{"args": {"step_size": 1}, "ty…', '{"args": {"step_size": 20}, "t…']),
    ],
)
def test_values_that_are_no_numbers_have_places_of_their_own(values, labels):
    """Two that would be called alike are written out as far as there is room."""
    pytest.importorskip("optuna")
    from tools.sweeping.drawing import _are_numbers, _numbered, plt

    assert not _are_numbers(values) and _are_numbers([1, 0.5])
    figure, axis = plt.subplots()
    places = _numbered(axis, values)
    names = {label.get_position()[0]: label.get_text() for label in axis.get_xticklabels()}
    plt.close(figure)
    assert [names[place] for place in places] == labels
    assert len(names) == len(set(labels))
