"""The tools for every day: runs, sweeps, tuning, looking at data and predictions, exporting, debugging."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.utils.tensorboard  # for all that is forked
import torchvision.datasets  # noqa: F401
from PIL import Image

import forked
from machinery.checkpoints import file as checkpoint
from machinery.files import read_json, write_json
from projects import ROOT
from scripts import run, script

pd = pytest.importorskip("pandas")
pytest.importorskip("matplotlib")
SHORT = {"data_loader.args.validation_split": 0.85, "trainer.log_step": 3, "n_gpu": 0}


def words(folder, **more):
    settings = {**SHORT, "trainer.save_dir": folder, **more}
    return ["-c", "config.json", *(word for k, v in settings.items() for word in ("--set", f"{k}={v}"))]


def train(folder, name, **more):
    return run(folder, "train.py", *words(folder, **more), "--run_id", name)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three runs, one of them tested, one stopped; and what else may lie about."""
    folder = tmp_path_factory.mktemp("runs")
    train(folder, "a", **{"trainer.epochs": 2})
    train(folder, "b", **{"trainer.epochs": 2, "optimizer.args.lr": 0.01, "seed": 7})
    run(folder, "train.py", *words(folder, **{"trainer.epochs": 3}), "--run_id", "c", code=143, stop_at=2)
    run(folder, "test.py", "-r", folder / "models" / "Digits_LeNet" / "a")
    models = folder / "models"
    (models / "Digits_LeNet" / "empty").mkdir()
    broken = shutil.copytree(models / "Digits_LeNet" / "b", models / "Digits_LeNet" / "broken")
    (broken / "config.json").write_text("{")
    classic = models / "Classic" / "0101_120000"
    classic.mkdir(parents=True)
    write_json({"name": "Classic", "optimizer": {"type": "Adam", "args": {"lr": 0.5}}}, classic / "config.json")
    return folder


def test_a_table_of_runs(trained):
    output = trained / "table.csv"
    printed = run(trained, "tools/runs.py", trained, "--csv", output)
    with open(output, newline="") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert set(rows) == {f"Digits_LeNet/{name}" for name in ("a", "b", "c", "empty", "broken")} | {
        "Classic/0101_120000"
    }
    a, b, c = (rows[f"Digits_LeNet/{name}"] for name in "abc")
    assert [row["status"] for row in (a, b, c)] == ["finished", "finished", "stopped"]
    assert (a["epochs"], c["epochs"], a["seed"], b["seed"], b["lr"]) == ("2/2", "1/3", "123", "7", "0.01")
    status = read_json(trained / "models" / "Digits_LeNet" / "a" / "status.json")
    assert float(a["best"]) == pytest.approx(status["best"]["val_loss"]) and a["monitor"] == "val_loss"
    (tested, *_) = read_json(trained / "models" / "Digits_LeNet" / "a" / "test.json")["results"]
    assert float(a["test_accuracy"]) == tested["metrics"]["accuracy"] and b["test_accuracy"] == ""
    assert [rows[f"Digits_LeNet/{name}"]["status"] for name in ("empty", "broken")] == ["broken", "broken"]
    assert rows["Digits_LeNet/empty"]["problem"] == "config.json is missing"
    assert rows["Digits_LeNet/broken"]["problem"].startswith("config.json Expecting") and not a["problem"]
    assert rows["Classic/0101_120000"]["status"] == "unknown" and rows["Classic/0101_120000"]["lr"] == "0.5"
    assert all(name in printed for name in rows)
    # A run whose monitor has changed has judged anew.
    status_file = trained / "models" / "Digits_LeNet" / "a" / "status.json"
    content = status_file.read_text()
    write_json({**json.loads(content), "best": {"val_loss": 7.5, "epoch": 2}}, status_file)
    assert re.search(r"Digits_LeNet/a +finished .* 7\.5 ", run(trained, "tools/runs.py", trained))
    status_file.write_text(content)
    # A process that is gone is not running.
    status_file = trained / "models" / "Digits_LeNet" / "b" / "status.json"
    content = status_file.read_text()
    status_file.write_text(content.replace("finished", "running"))
    assert re.search(r"Digits_LeNet/b +killed", run(trained, "tools/runs.py", trained))
    status_file.write_text(content)


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--filter", "status=finished"], ["a", "b"]),
        (["--filter", "lr>0.005", "--filter", "status=finished"], ["b"]),
        (["--filter", "run~_LeNet/[ac]$"], ["a", "c"]),
        (["--filter", "trainer.epochs!=2", "--filter", "status=stopped"], ["c"]),
        (["--filter", "status=finished", "--sort", "lr", "--reverse"], ["b", "a"]),
        (["--filter", "run~/[abc]$", "--sort", "seed", "--show", "optimizer.type"], ["b", "a", "c"]),
        (["--filter", "run~/[abc]$", "--sort", "epochs"], ["c", "a", "b"]),
        (["--filter", "epochs>1", "--filter", "seed==123", "--filter", "lr_scheduler=StepLR"], ["a"]),
        (["--filter", "run~/[abc]$", "--filter", "lr_scheduler=null"], []),
    ],
)
def test_runs_are_sorted_and_filtered(trained, options, expected):
    printed = run(trained, "tools/runs.py", trained, *options)
    assert re.findall(r"^ *Digits_LeNet/(\w+)", printed, re.M) == expected


def test_what_differs_between_runs(trained):
    printed = run(trained, "tools/runs.py", trained, "--diff", "a", "b")
    assert [line.split() for line in printed.splitlines()[1:]] == [
        ["seed", "123", "7"],
        ["optimizer.args.lr", "0.002", "0.01"],
    ]
    run(trained, "tools/runs.py", trained, "--diff", "a", "b", "--csv", trained / "differences.csv")
    with open(trained / "differences.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [["seed", "123", "7"], ["optimizer.args.lr", "0.002", "0.01"]]
    # What one leaves to its default differs by its value.
    config = trained / "models" / "Digits_LeNet" / "a" / "config.json"
    content = config.read_text()
    write_json(
        {key: value for key, value in json.loads(content).items() if key not in ("seed", "lr_scheduler")}, config
    )
    printed = run(trained, "tools/runs.py", trained, "--diff", "a", "c")
    assert "seed" not in printed and re.search(r"lr_scheduler.type +— +StepLR", printed)
    config.write_text(content)
    write_json({key: value for key, value in json.loads(content).items() if key != "loss"}, config)
    run(trained, "tools/runs.py", trained, "--diff", "a", "empty", "b", "--csv", trained / "differences.csv")
    with open(trained / "differences.csv", newline="") as file:
        found = {row[0]: row[1:] for row in csv.reader(file)}
    assert found["loss"] == ["null", "—", "nll_loss"] and found["seed"] == ["123", "—", "7"] and "" not in found
    config.write_text(content)
    run(trained, "tools/runs.py", trained, "--diff", "a", code=2)
    run(trained, "tools/runs.py", trained, "--diff", "a", "nothing", code=2)
    run(trained, "tools/runs.py", "a" * 5000, code=2)
    run(trained, "tools/runs.py", trained, "--sort", "nothing", code=2)
    run(trained, "tools/runs.py", trained, "--filter", "nothing", code=2)
    run(trained, "tools/runs.py", trained / "nothing", code=2)


def test_a_page_of_runs_is_one_file(trained):
    hostile = trained / "models" / "Digits_LeNet" / "a" / "config.json"
    content = hostile.read_text()
    hostile.write_text(content.replace('"Digits_LeNet"', '"<script>alert(1)</script>"'))
    run(trained, "tools/runs.py", trained, "--html", trained / "page.html")
    hostile.write_text(content)
    page = (trained / "page.html").read_text()
    assert page.count("data:image/svg+xml;base64,") >= 4  # loss, two metrics, the rate
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script>alert" not in page
    assert "&lt;script&gt;alert" in page and "Digits_LeNet/empty" in page


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
    given += [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    code = forked.finish(forked.start(script, "train.py", given, output=folder.parent.parent.parent / "printed.txt"))
    log = folder.parent.parent.parent / "log" / folder.parent.name / folder.name
    found = values(log / "metrics.csv", "val_loss")
    for epoch, value in found:
        look(epoch, value)
    best = best_of([value for _, value in found], settings["trainer.monitor"])
    return Outcome("complete" if code == 0 else "failed", best, "" if code == 0 else f"exit code {code}")


def _sweep(file, save_dir, given):
    os.chdir(ROOT)
    import tools.sweep

    tools.sweep.run_point = _point_by_fork
    sys.argv = ["tools/sweep.py", str(file), "--save_dir", str(save_dir), *given]
    tools.sweep.main()


def sweep(folder, file, *given, code=0):
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
    assert sorted(row["state"] for row in found.values()) == ["complete", "complete", "fail", "fail"]
    assert all((float(row["optimizer.args.lr"]) < 0) == (row["state"] == "fail") for row in found.values())
    for number, row in found.items():
        folder = tmp_path / "sweeps" / "try" / "models" / "Digits_LeNet" / f"point-{number:04}"
        if row["state"] == "complete":
            assert float(row["val_loss"]) == read_json(folder / "status.json")["best"]["val_loss"]
            assert checkpoint.load(folder / "model_best.pth")["config"]["seed"] == 123 if "seed" in row else True
    # A point whose worker was killed, and one that had not begun: both are found again, and nothing else is done.
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "sweeps" / "try" / "journal.log")))
    study = optuna.load_study(study_name="try", storage=storage)
    for more in (0.003, 0.004):
        study.enqueue_trial({"optimizer.args.lr": 0.002, "data_loader.args.batch_size": 64}, {"again": more})
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
        ({"space": {"optimizer": [{"type": "SGD"}], "optimizer.args.lr": [1]}}, "optimizer.args.lr is a part of"),
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
    assert min(rates) >= 1e-4 and max(rates) <= 1e-1 and sorted(rates)[100] == pytest.approx(10**-2.5, rel=0.7)
    assert set(sizes) == {32, 64, 96, 128} and {str(each) for each in schedules} == {
        str(e) for e in space["lr_scheduler"]
    }
    steps = {"optimizer.args.lr": {"low": 0.1, "high": 0.7, "step": 0.1}}
    spec_of_steps, *_ = read_spec(sweep_file(tmp_path, space=steps))
    assert [point["optimizer.args.lr"] for point in spec_of_steps.listed()] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert drawn == spec.listed() and drawn[:50] == spec.model_copy(update={"points": 50}).listed()
    for distribution, value in zip(spec.distributions().values(), drawn[0].values(), strict=True):
        assert distribution._contains(distribution.to_internal_repr(value))


def test_points_that_have_failed_are_tried_again(tmp_path):
    pytest.importorskip("optuna")
    file = sweep_file(tmp_path, space={"optimizer.args.lr": [-1, -2]}, method="tpe", points=2)
    for expected, given in ((["0", "1"], []), ([], []), (["2", "3"], ["--retry"]), (["4", "5"], ["--retry"])):
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
    assert forked.finish(forked.start(_stubborn, tmp_path, output=output)) == 143, output.read_text()


@pytest.mark.soak
def test_a_sweep_that_is_killed_loses_and_repeats_nothing(tmp_path):
    pytest.importorskip("optuna")
    file = sweep_file(tmp_path, method="tpe", points=12, prune_from=2)
    given = [sys.executable, "tools/sweep.py", file, "--workers", "2", "--save_dir", tmp_path / "sweeps"]
    for seconds, kill in ((9, signal.SIGKILL), (8, signal.SIGTERM), (None, None)):
        process = subprocess.Popen(given, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL)
        try:
            assert process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            process.send_signal(kill)
            process.wait()
    rows = points(tmp_path / "sweeps" / "try")
    assert sorted(rows) == list(range(12)) and {row["state"] for row in rows.values()} <= {"complete", "pruned"}
    for number in rows:
        log = tmp_path / "sweeps" / "try" / "log" / "Digits_LeNet" / f"point-{number:04}" / "metrics.csv"
        epochs = pd.read_csv(log)["epoch"].tolist()
        assert epochs == list(range(1, len(epochs) + 1))


def test_an_exported_model_is_the_model(trained):
    pytest.importorskip("safetensors")
    pytest.importorskip("onnxruntime")
    out = trained / "export"
    printed = run(trained, "tools/export.py", "-r", trained / "models" / "Digits_LeNet" / "a", "--out", out)
    assert {path.name for path in out.iterdir()} >= {"README.md", "model.safetensors", "model.pt2", "model.onnx"}
    off = [float(value) for value in re.findall(r"off by (\S+) at most", printed)]
    assert len(off) == 3 and all(value < 1e-5 for value in off)
    weights = checkpoint.load(trained / "models" / "Digits_LeNet" / "a" / "model_best.pth")["state_dict"]
    from safetensors.torch import load_file

    kept = load_file(out / "model.safetensors")
    assert kept.keys() == weights.keys() and all(torch.equal(kept[name], weights[name]) for name in weights)
    card = (out / "README.md").read_text()
    assert "accuracy" in card and '"seed"' not in card.split("```json")[0] and "float32 [64, 1, 28, 28]" in card


class Stateful(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

    def get_extra_state(self):
        return {"seen": 3}

    def set_extra_state(self, state):
        pass


class Spread(torch.nn.Linear):
    """Gives NaN for a sample alone."""

    def __init__(self):
        super().__init__(3, 2)

    def forward(self, x):
        return super().forward(x) / (x.std(0).mean() + 1)


class Untraceable(torch.nn.Module):
    """Does what no graph can hold."""

    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x + len(str(float(x.sum())))


def test_what_cannot_be_exported_is_refused_with_the_reason(tmp_path):
    pytest.importorskip("onnxruntime")
    from tools import export

    call = ((torch.ones(8, 3),), {})
    for name in ("program", "onnx"):
        write, file = export.FORMATS[name]
        with pytest.raises(RuntimeError), export.quiet():
            export._compared(write, Untraceable(), tmp_path / file, call)
    with pytest.raises(export.Refused, match="_extra_state is none"):
        export.safetensors(Stateful(), tmp_path / "model.safetensors", call, None)
    with export.quiet():
        worst, least = export._compared(export.safetensors, Spread(), tmp_path / "model.safetensors", call)
    assert worst == 0 and least == 3
    model = torch.nn.Linear(3, 2)
    for n in (1, 2, 9):  # whatever the loader's batches are
        for name in ("program", "onnx"):
            write, file = export.FORMATS[name]
            with export.quiet():
                worst, least = export._compared(write, model, tmp_path / file, ((torch.randn(n, 3),), {}))
            assert worst < 1e-6 and least == 1
    with pytest.raises(export.Refused, match="returns"):
        export.off(model, lambda each: model(each[0][0])[:, :1], call)
    assert export.off(model, lambda each: model(each[0][0]) + 0.1, call) > 0.05


def _export(given):
    os.chdir(ROOT)
    import tools.export

    tools.export.off = lambda *_: 0.5
    sys.argv = ["tools/export.py", *map(str, given)]
    tools.export.main()


def test_what_computes_something_else_is_refused_and_takes_no_place(trained, tmp_path):
    pytest.importorskip("safetensors")
    (tmp_path / "model.safetensors").write_text("an earlier one")
    given = ["-r", trained / "models" / "Digits_LeNet" / "a", "--formats", "safetensors", "--out", tmp_path]
    output = tmp_path / "printed.txt"
    assert forked.finish(forked.start(_export, given, output=output)) == 1
    assert "refused: its results are off by 5.0e-01" in output.read_text()
    assert "is of an earlier export" in output.read_text()
    assert (tmp_path / "model.safetensors").read_text() == "an earlier one"
    (tmp_path / "README.md").write_text("mine")
    assert "is no card" in run(tmp_path, "tools/export.py", *given, code=2)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_classes_are_those_that_are_called_so():
    from tools.pictures import labels_in

    k, label = torch.arange(3), torch.tensor([1, 1, 0])
    assert labels_in({"x": torch.zeros(3, 2), "k": k, "label": label}) == ("['label']", label)
    assert labels_in((torch.zeros(3, 2), k, label)) == ("[1]", k) and labels_in([torch.zeros(3)]) is None


def test_chances_are_those_of_scores_and_of_probabilities():
    from tools.predict import chances_of
    from tools.trained import classes_of

    for classes in (["a", "b"], {"a": 0, "b": 1}, {0: "a", 1: "b"}):
        assert (
            classes_of(SimpleNamespace(classes=classes), 2)
            == classes_of(SimpleNamespace(classes=classes))
            == ["a", "b"]
        )
    assert classes_of(SimpleNamespace(classes={1: "a", 2: "b"})) == ["0", "a", "b"]
    assert classes_of(SimpleNamespace(classes=10), 2) == ["0", "1"] and classes_of(SimpleNamespace(classes=None)) == []
    expected = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    for scores in (expected, expected.log(), expected.log() + 5):
        assert torch.allclose(chances_of(scores.float()), expected, atol=1e-6)


def test_spreads_far_from_zero_are_exact():
    from tools.show_data import Stats

    for place, spread in ((1e9, 1.0), (-1e6, 0.01), (0.0, 3.0)):
        values = place + spread * torch.randn(4000, dtype=torch.float64)
        stats = Stats(values)
        for each in (values[:1], values[1:100], values[100:]):
            stats.add(each)
        assert f"mean {float(values.mean()):.4g}, deviation {float(values.std(correction=0)):.4g}" in str(stats)


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_a_loader_feeds_is_shown(tmp_path, split):
    printed = run(tmp_path, "tools/show_data.py", *words(tmp_path), "--split", split, "--out", tmp_path / "data.png")
    n = {"train": 600, "test": 1000}[split]
    counts = [int(value.replace(",", "")) for value in re.findall(r"\d: ([\d,]+)", printed.split("classes")[1])]
    assert f"{n:,} samples" in printed and len(counts) == 10 and sum(counts) == n
    assert "[64, 1, 28, 28] float32: -0.42" in printed and not (tmp_path / "models").exists()
    with Image.open(tmp_path / "data.png") as picture:
        width, height = picture.size
    assert (height > 0.6 * width) == (split == "train")  # as they are, and as they are trained on
    run(tmp_path, "tools/show_data.py", *words(tmp_path)[:2], "--set", "data_loader=null", code=2)
    if not (ROOT / "examples" / "tabular").is_dir():  # in a project that has begun with another
        return
    # A table.
    example = ["-c", "examples/tabular/config.json", "--set", f"data_loader.args.file={tmp_path / 'rents.csv'}"]
    printed = run(tmp_path, "tools/show_data.py", *example, "--out", tmp_path / "table.png")
    assert "NaN or infinite" in printed and (tmp_path / "table.png").exists()


def test_predictions_of_a_split_and_of_files(trained):
    out, model = trained / "said", trained / "models" / "Digits_LeNet" / "a"
    printed = run(trained, "tools/predict.py", "-r", model, "--out", out)
    with open(out / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(row["target"] == row["predicted"] for row in rows)
    (tested, *_) = read_json(model / "test.json")["results"]
    assert len(rows) == 1000 and right == round(1000 * tested["metrics"]["accuracy"])
    assert (
        f"{right} of 1,000 are right" in printed and (out / "confusion.png").exists() and (out / "wrong.png").exists()
    )
    classes = re.findall(r"^(\d) +(\S+) +(\S+) +(\S+) +(\d+)$", printed, re.M)
    recalled = {name: sum(r["target"] == r["predicted"] == name for r in rows) / 100 for name, *_ in classes}
    assert all(float(recall) == pytest.approx(recalled[name], abs=1e-4) for name, _, recall, *_ in classes)
    # The same pictures, from files.
    from data_loader.data_loaders import MNIST_MEAN, MNIST_STD, DigitsDataLoader

    images = DigitsDataLoader(training=False).dataset.images[::300]
    files = [trained / f"{i}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        pixels = ((image[0] * MNIST_STD + MNIST_MEAN) * 255).round().byte()
        Image.fromarray(pixels.numpy()).save(file)
    told = run(trained, "tools/predict.py", "-r", model, *files, "--out", out)
    assert re.findall(r"\.png: (\d)", told) == [rows[i]["predicted"] for i in range(0, 1000, 300)]
    (trained / "no.png").write_text("no picture")
    (trained / "no.blp").write_bytes(b"BLP2" + bytes(200))
    numbers = Image.fromarray(pixels.numpy().astype("float32") / 255)
    numbers.save(trained / "floats.tiff")
    for name, told in (("no.png", "cannot be read"), ("no.blp", "cannot be read"), ("floats.tiff", "known range")):
        assert told in run(trained, "tools/predict.py", "-r", model, trained / name, code=3)
    # Sixteen bits are no other picture; a name that is no text is no obstacle.
    fine = trained / os.fsdecode(b"fine\xff.png")
    Image.fromarray(pixels.numpy().astype("uint16") * 257).save(fine)
    rows = {}
    for file in (fine, files[-1]):
        run(trained, "tools/predict.py", "-r", model, file, "--out", out)
        with open(out / "predictions.csv", newline="", encoding="utf-8") as table:
            (rows[file],) = csv.DictReader(table)
    assert {row.pop("file") for row in rows.values()} == {str(files[-1]), f"{trained}/fine?.png"}
    assert rows[fine] == rows[files[-1]]
    content = checkpoint.load(Path(model) / "model_best.pth")
    next(iter(content["state_dict"].values())).fill_(float("nan"))
    checkpoint.save(content, trained / "nan.pth")
    assert "not finite" in run(trained, "tools/predict.py", "-r", trained / "nan.pth", files[-1], code=3)


def test_what_is_suggested_is_what_the_rate_comes_from():
    from torch.optim import SGD

    from tools.lr_find import searched

    def found(lr, groups, schedule=None):
        optimizer = SGD([{"params": [torch.zeros(1)], "lr": each} for each in groups], lr=0.5)
        config = {"optimizer": {"args": {"lr": lr}}, "lr_scheduler": schedule}
        return searched(SimpleNamespace(optimizer=optimizer, config=Config(config)))

    class Config(dict):
        config = property(lambda self: self)

    assert found(0.1, [0.1]) == found(0.1, [0.1, 0.2]) == (0, "optimizer.args.lr")
    assert found(0.1, [0.2, 0.1]) == (1, "optimizer.args.lr") and found(0.1, [0.3]) == (0, "")
    assert found(0.1, [0.004], {"args": {"max_lr": 0.1}}) == (0, "lr_scheduler.args.max_lr")


def test_a_learning_rate_is_found(tmp_path):
    printed = run(tmp_path, "tools/lr_find.py", *words(tmp_path), "--out", tmp_path / "lr.png", "--steps", "100")
    (rate,) = re.findall(r"suggested: --set optimizer\.args\.lr=(\S+)", printed)
    assert 3e-4 < float(rate) < 0.1 and (tmp_path / "lr.png").exists() and not (tmp_path / "models").exists()
    run(tmp_path, "tools/lr_find.py", *words(tmp_path), "--low", "1", "--high", "0.1", code=2)


def _measured(given):
    os.chdir(ROOT)
    import argparse

    from parse_config import ConfigParser
    from tools.tuning.measuring import measured
    from train import OPTIONS

    sys.argv = ["train.py", *map(str, given), "--check"]
    print(json.dumps(measured(ConfigParser.from_args(argparse.ArgumentParser(), OPTIONS), 0.05)))


def figures(folder, **more):
    output = folder / "output.txt"
    output.unlink(missing_ok=True)
    assert forked.finish(forked.start(_measured, words(folder, **more), output=output)) == 0, output.read_text()
    return json.loads(output.read_text().splitlines()[-1])


def test_what_is_measured_is_the_training(tmp_path):
    plain, channels, workers = (
        figures(tmp_path, **more)
        for more in ({}, {"trainer.channels_last": "true"}, {"data_loader.args.num_workers": 1})
    )
    assert plain["rate"] > 0 and plain["facts"]["convolves"] and plain["facts"]["fused"]
    assert workers["losses"][:10] == plain["losses"][:10] and workers["facts"]["workers"] == 1
    assert channels["losses"][:10] == pytest.approx(plain["losses"][:10], abs=1e-3)


def test_tuning_recommends_what_is_faster_together():
    from tools.tune import Figure, Tuner, tuned

    gains = {"trainer.channels_last": 1.3, "optimizer.args.fused": 1.2, "trainer.compile": 1.25, "trainer.threads": 0.8}

    class Made(Tuner):
        """Channels last and compiling are no good together; fused is good with everything."""

        def figure(self, settings):
            self.facts = {"cores": 2, "device": "cpu", "threads": 2, "workers": 0, "arguments": [], "fused": True}
            self.facts |= {"convolves": True, "batch": 64, "samples": 500}
            rate = 1000.0
            for key in settings:
                rate *= gains.get(key, 1.0)
            if {"trainer.channels_last", "trainer.compile"} <= settings.keys():
                rate = 900.0
            if settings.get("trainer.precision") == "bf16":
                return Figure(error="error: no bf16 here")
            return Figure(rate, 100.0, (2.0, 1.0 + 1e-6 * len(settings)), 1.0)

    lines = []
    tuner = Made([], 1, 1)
    best = tuned(tuner, lines.append)
    assert best == {"trainer.channels_last": True, "optimizer.args.fused": True}
    text = "\n".join(lines)
    assert (
        len([line for line in lines if "other batches" in line]) == 2
    )  # one and two workers; here their losses differ
    assert tuner.line("data_loader.args.num_workers=1", Figure(1000.0, 1.0)).endswith("losses unknown")
    both = tuner.line("trainer.channels_last=true data_loader.num_workers=1", Figure(1000.0, 1.0, (2.0, 1.5)))
    assert both.endswith(" 0.5  other last bits")
    assert "error: no bf16 here" in text and re.search(r"fused=true +1,560 +1\.56 ", text) and "batch_size=128" in text


@pytest.mark.parametrize("name", ["one_batch", "few_batches", "anomaly"])
def test_debugging_by_a_config(tmp_path, name):
    epochs = {"one_batch": 30, "few_batches": 2, "anomaly": 1}[name]
    more = words(tmp_path, **{"trainer.epochs": epochs, "data_loader.args.batch_size": 16})[2:]
    more += ["--set", f"data_loader.args.validation_split={0.85 if name == 'anomaly' else 0.01}"]
    run(tmp_path, "train.py", "-c", f"examples/debug/{name}.json", "--run_id", "a", *more)
    (log,) = (tmp_path / "log").glob("*/a/metrics.csv")
    table = pd.read_csv(log)
    if name == "one_batch":
        assert table["loss"].iloc[-5:].mean() < 0.5 * table["loss"].iloc[0]
    state = checkpoint.load(next((tmp_path / "models").glob("*/a")) / f"checkpoint-epoch{epochs}.pth")
    assert state["progress"]["batches"] == {"one_batch": 1, "few_batches": 4, "anomaly": 38}[name]


class Rooted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(x) * torch.sqrt((self.fc.weight * 0).sum())


def _nan(folder):
    import tiny
    from examples.debug.trainers import Anomaly

    trainer = tiny.build(tiny.settings(folder, trainer__epochs=1), trainer_class=Anomaly)
    trainer.model = Rooted()
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    with (
        pytest.warns(UserWarning, match="Error detected in (Mul|Sqrt)Backward0"),
        pytest.raises(RuntimeError, match="nan"),
    ):
        trainer.train()


def test_the_operation_that_made_a_nan_is_named(tmp_path):
    assert forked.finish(forked.start(_nan, tmp_path, output=tmp_path / "printed.txt")) == 0


@pytest.mark.parametrize("tool", ["runs", "sweep", "tune", "export", "show_data", "predict", "lr_find"])
def test_each_says_how_it_is_used(tmp_path, tool):
    if tool == "sweep":
        pytest.importorskip("optuna")
    assert "usage:" in run(tmp_path, f"tools/{tool}.py", "--help")
    text = (ROOT / "tools" / f"{tool}.py").read_text()
    assert f"python tools/{tool}.py" in text.split('"""')[1]
    assert not re.search(rf"tools[./]{tool}\b", "".join(path.read_text() for path in Path(ROOT / "base").glob("*.py")))


def _full(text, file):
    import resource

    from tools.runs import _write

    resource.setrlimit(resource.RLIMIT_FSIZE, (len(text) // 2, len(text) // 2))
    _write(file, text)


def test_foreign_folders_hide_no_run(trained, tmp_path):
    """Whatever stands in one of them, the others are listed; nothing hangs."""
    models = tmp_path / "models" / "Digits_LeNet"
    shutil.copytree(trained / "models" / "Digits_LeNet" / "a", models / "good")
    log = tmp_path / "log" / "Digits_LeNet"
    shutil.copytree(trained / "log" / "Digits_LeNet" / "a", log / "good")
    hostile = {
        "surrogate": ("config.json", '{"optimizer": {"args": {"lr": "\\ud800"}}, "name": "\\u001b[31m"}'),
        "half": ("config.json", '{"\\ud800": 1, "trainer": {"epochs": "\\ud801", "\\ud802": "\\ud803"}}'),
        "count": ("status.json", '{"epoch": "\\ud800", "step": "\\ud800", "state": "\\ud800"}'),
        "scores": (
            "test.json",
            '{"results": [{"split": "test", "checkpoint": "model_best.pth", "metrics":'
            ' {"\\ud800": "\\ud800"}, "when": "2999-01-01T00:00:00+0000"}]}',
        ),
        "around": ("environment.json", '{"\\ud800": "\\ud800", "git_commit": "\\ud800"}'),
        "vast": ("config.json", '{"optimizer": {"args": {"lr": 1' + "0" * 400 + "}}}"),
        "lock": (".lock", f"pid 1{'0' * 30} on {socket.gethostname()}\n"),
        "huge": ("status.json", '{"seconds": 1' + "0" * 400 + "}"),
        "list": ("status.json", "[1]"),
        "deep": ("config.json", "[" * 100_000),
        "binary": ("environment.json", "\x00\x01"),
    }
    for name, (file, text) in hostile.items():
        shutil.copytree(models / "good", models / name)
        (models / name / file).write_text(text)
    tables = {
        "more": "epoch,loss,val_loss\n1,0.5,0.25,9\n2,0.5,0.25,9\n",
        "odd": "epoch,$\\frac$,val_loss\nx,1e308,nan\n2,-1e308,1\n",
        "pipe": None,
        "good": None,
    }
    for name, text in tables.items():
        (log / name).mkdir(exist_ok=True)
        if name != "good":
            shutil.copytree(models / "good", models / name)
        if text is not None:
            (log / name / "metrics.csv").write_text(text)
    os.mkfifo(log / "pipe" / "metrics.csv")
    (log / "pipe" / "train").mkdir()
    os.mkfifo(log / "pipe" / "train" / "events.out.tfevents.1")
    os.mkfifo(log / "good" / "train" / "events.out.tfevents.9")
    (models / "loop").symlink_to(models)
    for given in (["--sort", "lr"], ["--filter", "lr<1"], ["--show", "trainer.epochs"], ["--diff", "around", "half"]):
        run(tmp_path, "tools/runs.py", tmp_path, *given, "--csv", tmp_path / "table.csv")
    printed = run(tmp_path, "tools/runs.py", tmp_path, "--html", tmp_path / "page.html")
    assert all(f"Digits_LeNet/{name}" in printed for name in [*hostile, *tables]) and "\x1b" not in printed
    assert re.search(r"Digits_LeNet/good +finished", printed) and "svg" in (tmp_path / "page.html").read_text()
    assert re.search(r"Digits_LeNet/more +broken", printed) and "metrics.csv: ParserWarning" in printed
    assert "run,status,epochs" in run(tmp_path, "tools/runs.py", tmp_path, "--csv", "/dev/stdout")
    # A disk that is full takes nothing away.
    before = (tmp_path / "page.html").read_bytes()
    output = tmp_path / "full.txt"
    assert forked.finish(forked.start(_full, before.decode() + "more", tmp_path / "page.html", output=output)) == 6
    assert "could not write" in output.read_text() and (tmp_path / "page.html").read_bytes() == before
    # A project below a folder of that name is no run.
    project = tmp_path / "home" / "models" / "me" / "project"
    shutil.copytree(tmp_path / "models", project / "saved" / "models", symlinks=True)
    (project / "train.py").write_text("")
    (project / "config.json").write_text("{}")
    printed = run(tmp_path, "tools/runs.py", project)
    assert "Digits_LeNet/good" in printed and "me/project" not in printed


def test_results_of_another_checkpoint_are_not_shown(trained, tmp_path):
    folder = shutil.copytree(trained / "models" / "Digits_LeNet" / "a", tmp_path / "models" / "Digits_LeNet" / "a")
    assert "test_accuracy" in run(tmp_path, "tools/runs.py", tmp_path)
    (result,) = read_json(folder / "test.json")["results"]
    other = {**result, "checkpoint": "checkpoint-epoch1.pth", "metrics": {"accuracy": 0.125}}
    write_json({"results": [result, other]}, folder / "test.json")
    assert "0.125" not in run(tmp_path, "tools/runs.py", tmp_path)  # the best value's neighbour is of the best
    later = (folder / "model_best.pth").stat().st_mtime + 3600
    os.utime(folder / "model_best.pth", (later, later))
    assert "test_accuracy" not in run(tmp_path, "tools/runs.py", tmp_path)


@pytest.mark.parametrize(
    "state, step, rows, done",
    [("failed", 0, 0, 0), ("stopped", 3, 0, 0), ("running", 0, 0, 0), ("stopped", 3, 2, 2), ("finished", 0, 0, 3)],
)
def test_epochs_that_are_done(state, step, rows, done):
    from tools.history.records import Record, _done

    history = pd.DataFrame({"epoch": [*range(1, rows + 1)]})
    epoch = 3 if state == "finished" else rows + 1
    assert _done(Record(Path(), "a", history=history), {"state": state, "epoch": epoch, "step": step}) == done
    assert _done(Record(Path(), "a", history=pd.DataFrame({"epoch": ["x"]})), {"state": "finished", "epoch": 2}) == 2


def test_two_runs_of_one_name_differ(trained, tmp_path):
    for place, name in (("one", "a"), ("two", "b")):
        target = tmp_path / place / "project" / "saved" / "models" / "Digits_LeNet" / "same"
        shutil.copytree(trained / "models" / "Digits_LeNet" / name, target)
    runs = [tmp_path / place / "project" / "saved" / "models" / "Digits_LeNet" / "same" for place in ("one", "two")]
    printed = run(tmp_path, "tools/runs.py", tmp_path, "--diff", *runs)
    assert "optimizer.args.lr" in printed and "0.01" in printed


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
    assert journal.read_bytes().startswith(before) and len(points(folder)) == 1 and victim.read_text() == "mine"
    (folder / ".sweep.lock").unlink()
    (folder / ".sweep.lock").symlink_to(victim)
    assert "cannot be written" in sweep(tmp_path, file, code=6) and victim.read_text() == "mine"
    (folder / ".sweep.lock").unlink()
    journal.write_bytes(b"garbage\n" + before)
    assert "cannot be used" in sweep(tmp_path, file, code=2)
    journal.unlink()
    victim.write_text("mine\nand no end")
    journal.symlink_to(victim)
    assert "is no file" in sweep(tmp_path, file, code=2) and victim.read_text() == "mine\nand no end"
    journal.unlink()
    told = sweep(tmp_path, file, "--storage", "mysql://nobody:secret@127.0.0.1:1/none", code=2)
    assert "cannot be used" in told and "secret" not in told
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.create_study(study_name="try", storage=JournalStorage(JournalFileBackend(str(journal))))
    study.set_user_attr("sweep", [1])
    assert "is of a sweep with another" in sweep(tmp_path, file, code=2)


def test_points_are_stopped_from_the_epoch_that_is_named(tmp_path):
    pytest.importorskip("optuna")
    import optuna

    from tools.sweep import Sweep

    made = Sweep(sweep_file(tmp_path, method="tpe", points=9, prune_from=2), None, None, tmp_path / "sweeps")
    given = {"params": {}, "distributions": {}, "intermediate_values": {1: 0.1, 2: 0.1}}
    for _ in range(3):
        made.study.add_trial(optuna.trial.create_trial(value=0.1, **given))
    trial = made.study.ask()
    trial.report(5.0, 1)
    assert not trial.should_prune()
    trial.report(5.0, 2)
    assert trial.should_prune()


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
    more = sweep_file(tmp_path, config="mine.json", space={**space, "seed": [1, 2]}, method="random", points=1)
    from tools.sweeping.spec import read_spec

    few, many = (read_spec(more)[0].model_copy(update={"points": n}).listed() for n in (1, 2))
    assert few == many[:1] and len({str(point) for point in many}) == 2


@pytest.mark.parametrize("tool", ["sweep"])
def test_a_missing_package_is_told(tmp_path, tool):
    code = "import sys, runpy; sys.modules.update(dict.fromkeys(('optuna',)))"
    code += f"; sys.argv = ['{tool}', '--help']; runpy.run_path('tools/{tool}.py', run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr.startswith("error: ") and "pip install -r requirements-tools.txt" in result.stderr
