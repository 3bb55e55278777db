"""tools/runs.py: the table of runs, what differs between them, and their page."""

import csv
import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import torchvision.datasets  # noqa: F401

import forked
from machinery.files import read_json, write_json
from projects import ROOT
from scripts import run


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
    assert (a["epochs"], c["epochs"], a["seed"], b["seed"], b["lr"]) == (
        "2/2",
        "1/3",
        "123",
        "7",
        "0.01",
    )
    status = read_json(trained / "models" / "Digits_LeNet" / "a" / "status.json")
    assert (
        float(a["best"]) == pytest.approx(status["best"]["val_loss"]) and a["monitor"] == "val_loss"
    )
    (tested, *_) = read_json(trained / "models" / "Digits_LeNet" / "a" / "test.json")["results"]
    assert float(a["test_accuracy"]) == tested["metrics"]["accuracy"] and b["test_accuracy"] == ""
    assert [rows[f"Digits_LeNet/{name}"]["status"] for name in ("empty", "broken")] == [
        "broken",
        "broken",
    ]
    assert rows["Digits_LeNet/empty"]["problem"] == "config.json is missing"
    assert (
        rows["Digits_LeNet/broken"]["problem"].startswith("config.json Expecting")
        and not a["problem"]
    )
    assert (
        rows["Classic/0101_120000"]["status"] == "unknown"
        and rows["Classic/0101_120000"]["lr"] == "0.5"
    )
    assert all(name in printed for name in rows)
    # A run whose monitor has changed has judged anew.
    status_file = trained / "models" / "Digits_LeNet" / "a" / "status.json"
    content = status_file.read_text()
    write_json({**json.loads(content), "best": {"val_loss": 7.5, "epoch": 2}}, status_file)
    assert re.search(r"Digits_LeNet/a .* 7\.5 .* finished", run(trained, "tools/runs.py", trained))
    status_file.write_text(content)
    # A process that is gone is not running.
    status_file = trained / "models" / "Digits_LeNet" / "b" / "status.json"
    content = status_file.read_text()
    status_file.write_text(content.replace("finished", "running"))
    assert re.search(r"Digits_LeNet/b .* killed", run(trained, "tools/runs.py", trained))
    status_file.write_text(content)


@pytest.mark.parametrize(
    "options, expected",
    [
        (["--filter", "status=finished"], ["a", "b"]),
        (["--filter", "lr>0.005", "--filter", "status=finished"], ["b"]),
        (["--filter", "run~_LeNet/[ac]$"], ["a", "c"]),
        (["--filter", "trainer.epochs!=2", "--filter", "status=stopped"], ["c"]),
        (["--filter", "status=finished", "--sort", "lr", "--reverse"], ["b", "a"]),
        (
            ["--filter", "run~/[abc]$", "--sort", "seed", "--show", "optimizer.type"],
            ["b", "a", "c"],
        ),
        (["--filter", "run~/[abc]$", "--sort", "epochs"], ["c", "a", "b"]),
        (
            ["--filter", "epochs>1", "--filter", "seed==123", "--filter", "lr_scheduler=StepLR"],
            ["a"],
        ),
        (["--filter", "run~/[abc]$", "--filter", "lr_scheduler=null"], []),
    ],
)
def test_runs_are_sorted_and_filtered(trained, options, expected):
    printed = run(trained, "tools/runs.py", trained, *options)
    lines = printed.splitlines()
    if expected:
        head = f"{len(expected)} run{'s' * (len(expected) > 1)}"
        assert lines[0] == f"Digits_LeNet: {head}" and lines[1].startswith("run ")
    assert re.findall(r"^([abc]) ", printed, re.M) == expected
    assert max(map(len, lines)) <= 80


def test_an_order_without_a_value_is_told(trained):
    printed = run(trained, "tools/runs.py", trained, "--filter", "lr<", code=2)
    assert "--filter lr<: < wants a value behind it" in printed


def _row(printed, name):
    """A line of the table by its columns."""
    lines = [line for line in printed.splitlines() if re.search(r"  ", line)]
    head, *rows = lines
    starts = [match.start() for match in re.finditer(r"\S+", head)]
    (row,) = [line for line in rows if line.split()[0] == name]
    assert len(head.split()) == len(starts)
    return dict(zip(head.split(), row.split(), strict=False))


def test_a_line_for_each_run_with_what_differs(trained, tmp_path):
    """Settings that somebody has set come first; the best run has a star; notes are in the table,
    as JSON they are whole."""
    models = tmp_path / "models" / "Digits_LeNet"
    for name in ("a", "b"):
        shutil.copytree(trained / "models" / "Digits_LeNet" / name, models / name)
        logs = Path("log") / "Digits_LeNet" / name
        shutil.copytree(trained / logs, tmp_path / logs)
    printed = run(tmp_path, "tools/runs.py", tmp_path)
    a, b = (_row(printed, name) for name in "ab")
    assert list(a)[:4] == ["run", "lr", "seed", "val_loss"]  # a test of one leaves room
    assert (a["lr"], b["lr"], a["seed"], b["seed"]) == ("0.002", "0.01", "123", "7")
    best = {row["val_loss"].rstrip("*"): row for row in (a, b)}
    assert best[min(best)]["val_loss"].endswith("*") and printed.count("*") == 1
    assert re.fullmatch(r"[\d.]+s", a["time"]) and (a["epochs"], a["state"]) == ("2/2", "finished")
    shown = run(tmp_path, "tools/runs.py", tmp_path, "--show", "trainer.epochs")
    assert list(_row(shown, "a"))[:3] == ["run", "trainer.epochs", "lr"]
    told = run(tmp_path, "tools/runs.py", tmp_path, "--note", "a", "the one\tof the paper #base")
    assert told == "Digits_LeNet/a: the one of the paper #base\n"
    run(tmp_path, "tools/runs.py", tmp_path, "--note", models / "a", "and a rather long second one")
    printed = run(tmp_path, "tools/runs.py", tmp_path)
    assert "  the one of the paper #base" in printed and "…" in printed
    assert max(map(len, printed.splitlines())) == 80
    chosen = run(tmp_path, "tools/runs.py", tmp_path, "--filter", "notes~#base", "--json")
    (found,) = json.loads(chosen)
    assert found["notes"] == "the one of the paper #base; and a rather long second one"
    assert found["config"]["optimizer.args.lr"] == 0.002 and len(found["history"]) == 2
    assert found["history"][1]["val_loss"] == float(
        pd.read_csv(tmp_path / "log" / "Digits_LeNet" / "a" / "metrics.csv")["val_loss"][1]
    )
    assert "no notes any more" in run(tmp_path, "tools/runs.py", tmp_path, "--note", "a", "")
    assert "notes" not in run(tmp_path, "tools/runs.py", tmp_path)
    run(tmp_path, "tools/runs.py", tmp_path, "--note", "nobody", "x", code=2)
    link = models / "b" / "notes.txt"
    os.mkfifo(link)
    assert "not a regular file" in run(
        tmp_path, "tools/runs.py", tmp_path, "--note", "b", "x", code=6
    )


def test_short_names_of_settings_differ():
    from tools.history.tables import labels

    keys = [
        "optimizer.args.lr",
        "optimizer.type",
        "arch.type",
        "arch.args.lr",
        "seconds",
        "a.epochs",
    ]
    assert [*labels(keys, taken=("seconds", "epochs")).values()] == [
        "optimizer.lr",
        "optimizer",
        "arch",
        "arch.lr",
        "config.seconds",
        "a.epochs",
    ]
    assert labels(["lr", "x.lr", "trainer.epochs"]) == {
        "lr": "config.lr",
        "x.lr": "x.lr",
        "trainer.epochs": "epochs",
    }


def test_a_stopped_point_of_a_sweep_is_pruned(trained, tmp_path):
    models = tmp_path / "models" / "Digits_LeNet"
    shutil.copytree(trained / "models" / "Digits_LeNet" / "c", models / "point-0001")
    content = {"sweep": "s", "point": 1, "state": "pruned", "space": ["data_loader.args.shuffle"]}
    write_json(content, models / "point-0001" / "sweep.json")
    shutil.copytree(trained / "models" / "Digits_LeNet" / "a", models / "point-0000")
    (found,) = json.loads(
        run(tmp_path, "tools/runs.py", tmp_path, "--filter", "status=pruned", "--json")
    )
    assert found["run"] == "Digits_LeNet/point-0001"
    # One that was continued by hand, and has finished, is not.
    write_json(content, models / "point-0000" / "sweep.json")
    printed = run(tmp_path, "tools/runs.py", tmp_path)
    assert re.search(r"^point-0000 .* finished", printed, re.M) and "shuffle" not in printed


@pytest.mark.parametrize(
    "seconds, shown",
    [(3.14159, "3.1s"), (59.6, "1m00s"), (184, "3m04s"), (3725, "1h02m"), (1e6, "11d13h")],
)
def test_times_are_short(seconds, shown):
    from tools.history.terminal import duration

    assert duration(seconds) == shown and duration(float("nan")) == duration(None) == ""


def test_what_differs_between_runs(trained):
    printed = run(trained, "tools/runs.py", trained, "--diff", "a", "b")
    assert [line.split() for line in printed.splitlines()[1:]] == [
        ["seed", "123", "7"],
        ["optimizer.args.lr", "0.002", "0.01"],
    ]
    run(trained, "tools/runs.py", trained, "--diff", "a", "b", "--csv", trained / "differences.csv")
    with open(trained / "differences.csv", newline="") as file:
        assert list(csv.reader(file))[1:] == [
            ["seed", "123", "7"],
            ["optimizer.args.lr", "0.002", "0.01"],
        ]
    # What one leaves to its default differs by its value.
    config = trained / "models" / "Digits_LeNet" / "a" / "config.json"
    content = config.read_text()
    write_json(
        {
            key: value
            for key, value in json.loads(content).items()
            if key not in ("seed", "lr_scheduler")
        },
        config,
    )
    printed = run(trained, "tools/runs.py", trained, "--diff", "a", "c")
    assert "seed" not in printed and re.search(r"lr_scheduler.type +— +StepLR", printed)
    config.write_text(content)
    write_json({key: value for key, value in json.loads(content).items() if key != "loss"}, config)
    run(
        trained,
        "tools/runs.py",
        trained,
        "--diff",
        "a",
        "empty",
        "b",
        "--csv",
        trained / "differences.csv",
    )
    with open(trained / "differences.csv", newline="") as file:
        found = {row[0]: row[1:] for row in csv.reader(file)}
    assert (
        found["loss"] == ["null", "—", "nll_loss"]
        and found["seed"] == ["123", "—", "7"]
        and "" not in found
    )
    config.write_text(content)
    run(trained, "tools/runs.py", trained, "--diff", "a", code=2)
    run(trained, "tools/runs.py", trained, "--diff", "a", "nothing", code=2)
    run(trained, "tools/runs.py", "a" * 5000, code=2)
    run(trained, "tools/runs.py", trained, "--sort", "nothing", code=2)
    run(trained, "tools/runs.py", trained, "--filter", "nothing", code=2)
    run(trained, "tools/runs.py", trained / "nothing", code=2)


def _data(page):
    """What the script of a page draws."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def test_a_page_of_runs_is_one_file(trained):
    hostile = trained / "models" / "Digits_LeNet" / "a" / "config.json"
    content = hostile.read_text()
    hostile.write_text(
        content.replace('"Digits_LeNet"', '"<script>alert(1)</script>"').replace(
            '"Adam"', '"</script><b>"'
        )
    )
    run(trained, "tools/runs.py", trained, "--html", trained / "page.html")
    hostile.write_text(content)
    page = (trained / "page.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page) and "<script>alert" not in page
    assert "&lt;script&gt;alert" in page and "Digits_LeNet/empty" in page
    assert (
        page.count("</script>") == 3
        and "uPlot (v" in page
        and "Leon Sorokin" in page
        and "</script><b>" not in page
    )
    data = _data(page)
    assert [chart["title"] for chart in data["charts"]] == ["loss", "accuracy", "top_k_acc", "lr"]
    assert data["charts"][0]["series"] == [["loss", True], ["val_loss", False]]
    runs = {each["label"]: each for each in data["runs"]}
    assert "</script><b>" in {each["values"]["optimizer"] for each in data["runs"]}
    rows = pd.read_csv(trained / "log" / "Digits_LeNet" / "a" / "metrics.csv")
    assert runs["a"]["series"]["val_loss"] == [*rows["val_loss"]]
    assert runs["a"]["epochs"] == [1, 2] and runs["c"]["epochs"] == [1]
    values = {name: each["values"]["val_loss"] for name, each in runs.items() if name in "ab"}
    assert sum(each["best"] for each in runs.values()) == 1 and data["axes"][-1] == "val_loss"
    ranks = sorted((runs[name]["rank"] for name in values), reverse=True)
    assert [runs[name]["rank"] for name in sorted(values, key=values.get)] == ranks


#: Does what a person does with the page, and notes what comes of it.
DOES = """
<script>
window.addEventListener("load", () => {
  const found = { errors };
  const count = () => charts[0].plot.series.slice(1).filter((each) => each.show).length;
  const chips = [...document.querySelectorAll(".chip")];
  found.start = count();
  chips[0].click();
  found.without = count();
  chips[1].dispatchEvent(new MouseEvent("dblclick"));
  found.alone = count();
  document.querySelector("#legend button").click();
  found.all = count();
  charts[0].plot.setScale("x", { min: 1.2, max: 1.8 });
  found.ways = document.querySelectorAll("#parallel polyline").length;
  found.dots = document.querySelectorAll("#scatter circle").length;
  const dot = document.querySelector("#scatter circle");
  dot.dispatchEvent(new MouseEvent("mousemove", { bubbles: true }));
  found.tip = document.getElementById("tip").textContent;
  found.charts = document.querySelectorAll(".chart canvas").length;
  found.stars = chips.filter((chip) => chip.textContent.includes("★")).length;
  document.body.replaceChildren(JSON.stringify(found));
});
</script>
"""
NOTES_ERRORS = "<script>const errors = []; window.onerror = (text) => errors.push(text);</script>"


def test_the_page_works_in_a_browser(trained, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium here")
    runs = [trained / "models" / "Digits_LeNet" / name for name in "ab"]
    run(tmp_path, "tools/runs.py", *runs, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    data = _data(page)
    page = page.replace("<head>", f"<head>{NOTES_ERRORS}").replace("</body>", f"{DOES}</body>")
    (tmp_path / "page.html").write_text(page)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=2000"]
    url = (tmp_path / "page.html").as_uri()
    seen = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(r"<body>(.*)</body>", seen, re.S)
    found = json.loads(found)
    tip = found.pop("tip").split("\n")
    assert tip[0] in ("a", "b") and tip[1].startswith("lr 0.0") and "finished" in tip
    assert found == {
        "errors": [],
        "start": 4,  # losses of training and validation
        "without": 2,
        "alone": 2,
        "all": 4,
        "ways": 2,
        "dots": 2 * (len(data["axes"]) - 1),
        "charts": 4,
        "stars": 1,
    }


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
        "surrogate": (
            "config.json",
            '{"optimizer": {"args": {"lr": "\\ud800"}}, "name": "\\u001b[31m"}',
        ),
        "half": (
            "config.json",
            '{"\\ud800": 1, "trainer": {"epochs": "\\ud801", "\\ud802": "\\ud803"}}',
        ),
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
    for given in (
        ["--sort", "lr"],
        ["--filter", "lr<1"],
        ["--show", "trainer.epochs"],
        ["--diff", "around", "half"],
    ):
        run(tmp_path, "tools/runs.py", tmp_path, *given, "--csv", tmp_path / "table.csv")
    printed = run(tmp_path, "tools/runs.py", tmp_path, "--html", tmp_path / "page.html")
    assert all(f"\n{name} " in printed for name in [*hostile, *tables]) and "\x1b" not in printed
    assert (
        re.search(r"^good .* finished", printed, re.M)
        and "uPlot" in (tmp_path / "page.html").read_text()
    )
    assert re.search(r"^more .* broken", printed, re.M) and "metrics.csv: ParserWarning" in printed
    assert "run,status,epochs" in run(tmp_path, "tools/runs.py", tmp_path, "--csv", "/dev/stdout")
    # A disk that is full takes nothing away.
    before = (tmp_path / "page.html").read_bytes()
    output = tmp_path / "full.txt"
    assert (
        forked.finish(
            forked.start(_full, before.decode() + "more", tmp_path / "page.html", output=output)
        )
        == 6
    )
    assert (
        "could not write" in output.read_text() and (tmp_path / "page.html").read_bytes() == before
    )
    # A project below a folder of that name is no run.
    project = tmp_path / "home" / "models" / "me" / "project"
    shutil.copytree(tmp_path / "models", project / "saved" / "models", symlinks=True)
    (project / "train.py").write_text("")
    (project / "config.json").write_text("{}")
    printed = run(tmp_path, "tools/runs.py", project)
    assert "\ngood " in printed and "me/project" not in printed


def test_results_of_another_checkpoint_are_not_shown(trained, tmp_path):
    folder = shutil.copytree(
        trained / "models" / "Digits_LeNet" / "a", tmp_path / "models" / "Digits_LeNet" / "a"
    )
    assert "test_accuracy" in run(tmp_path, "tools/runs.py", tmp_path)
    (result,) = read_json(folder / "test.json")["results"]
    other = {**result, "checkpoint": "checkpoint-epoch1.pth", "metrics": {"accuracy": 0.125}}
    write_json({"results": [result, other]}, folder / "test.json")
    assert "0.125" not in run(
        tmp_path, "tools/runs.py", tmp_path
    )  # the best value's neighbour is of the best
    later = (folder / "model_best.pth").stat().st_mtime + 3600
    os.utime(folder / "model_best.pth", (later, later))
    assert "test_accuracy" not in run(tmp_path, "tools/runs.py", tmp_path)


@pytest.mark.parametrize(
    "state, step, rows, done",
    [
        ("failed", 0, 0, 0),
        ("stopped", 3, 0, 0),
        ("running", 0, 0, 0),
        ("stopped", 3, 2, 2),
        ("finished", 0, 0, 3),
    ],
)
def test_epochs_that_are_done(state, step, rows, done):
    from tools.history.records import Record, _done

    history = pd.DataFrame({"epoch": [*range(1, rows + 1)]})
    epoch = 3 if state == "finished" else rows + 1
    assert (
        _done(Record(Path(), "a", history=history), {"state": state, "epoch": epoch, "step": step})
        == done
    )
    assert (
        _done(
            Record(Path(), "a", history=pd.DataFrame({"epoch": ["x"]})),
            {"state": "finished", "epoch": 2},
        )
        == 2
    )


def test_two_runs_of_one_name_differ(trained, tmp_path):
    for place, name in (("one", "a"), ("two", "b")):
        target = tmp_path / place / "project" / "saved" / "models" / "Digits_LeNet" / "same"
        shutil.copytree(trained / "models" / "Digits_LeNet" / name, target)
    runs = [
        tmp_path / place / "project" / "saved" / "models" / "Digits_LeNet" / "same"
        for place in ("one", "two")
    ]
    printed = run(tmp_path, "tools/runs.py", tmp_path, "--diff", *runs)
    assert "optimizer.args.lr" in printed and "0.01" in printed


def test_no_cell_of_a_csv_is_a_formula(tmp_path):
    config = read_json(ROOT / "config.json")
    config.update({"note": "@SUM(1)", "=key": -1.5})
    for name in ("=cmd", "+1", "fine"):
        folder = tmp_path / "models" / name / "run"
        folder.mkdir(parents=True)
        write_json(
            {**config, "name": name, "note": "@SUM(1)", "=key": -1.5}, folder / "config.json"
        )
    output = tmp_path / "table.csv"
    run(tmp_path, "tools/runs.py", tmp_path, "--show", "note", "=key", "--csv", output)
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["run"] for row in rows) == ["'+1/run", "'=cmd/run", "fine/run"]
    assert {row["note"] for row in rows} == {"'@SUM(1)"} and {row["'=key"] for row in rows} == {
        "-1.5"
    }
