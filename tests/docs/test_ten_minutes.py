"""Six changes in ten minutes: each diff applies as it stands, is under 20 lines, trains, and is
continued exactly."""

import re
import shlex
import shutil

import numpy as np
import pytest

from machinery.checkpoints import file as checkpoint
from pages import changed, log_of, run
from projects import ROOT, command, copy_template

PAGE = (ROOT / "docs" / "ten_minutes.md").read_text()
FOUND = re.findall(r"\n## (A.*?)```diff\n(.*?)```\n```\npython (train\.py .*?)\n```", PAGE, re.S)
CHANGES = {re.sub(r"^an? |\W.*", "", text.lower()): (text, diff) for text, diff, _ in FOUND}
#: What each command sets.
SETS = {name: shlex.split(line)[4:] for name, (*_, line) in zip(CHANGES, FOUND, strict=True)}
NAMES = {"model", "dataset", "loss", "metric", "update", "second"}
#: Something that only a network trained with the change has.
SEEN = {
    "model": lambda row, state: "1.weight" in state["state_dict"],
    "dataset": lambda row, state: state["config"]["data_loader"]["type"] == "ArraysLoader",
    "loss": lambda row, state: row["val_loss"] < 2,  # chance is 0.9 ** 1.5 of 2.3
    "metric": lambda row, state: 0.1 < row["val_confidence"] < 1,
    "update": lambda row, state: (
        state["config"]["trainer"]["type"] == "trainer.centred.CentredTrainer"
    ),
    "second": lambda row, state: (
        {"probe", "probe_optimizer"} <= state["states"].keys() and 0 < row["val_probe"] < 3
    ),
}


def write_arrays(file):
    rng = np.random.default_rng(0)
    parts = {"train": 203, "test": 57}
    arrays = {
        f"{part}_x": rng.normal(size=(n, 1, 28, 28)).astype("float32") for part, n in parts.items()
    }
    np.savez(file, **arrays, **{f"{part}_y": rng.integers(0, 10, n) for part, n in parts.items()})


def test_there_are_six_and_each_leads_on():
    assert set(CHANGES) == NAMES
    readme = (ROOT / "README.md").read_text()
    section = readme.split("\n## Your own task in ten minutes")[1].split("\n## ")[0]
    assert len(re.findall(r"(?m)^\| \[an? .*\]\(docs/ten_minutes\.md#", section)) == len(NAMES)
    for text, diff in CHANGES.values():
        lines = [line for line in changed(diff) if line[1:].strip()]
        assert 0 < len(lines) < 20, text
        links = re.findall(r"\[(\w+)\]\(\.\./examples/(\w+)\)", text)
        assert links and all(
            name == folder and (ROOT / "examples" / name).is_dir() for name, folder in links
        )
        file = re.findall(r"^\+\+\+ b/((?:model|data_loader|trainer)/\S+)", diff, re.M)
        assert len(file) == 1, file


@pytest.fixture(scope="module", params=sorted(NAMES))
def changed_project(request, tmp_path_factory):
    folder = copy_template(tmp_path_factory.mktemp(request.param) / "project")
    applied = command(folder, "-c", APPLY, CHANGES[request.param][1])
    assert applied.returncode == 0 and "offset" not in applied.stderr, applied.stderr
    write_arrays(folder / "data" / "mine.npz")
    return request.param, folder


APPLY = (
    "import subprocess, sys; subprocess.run(['git', 'apply', "
    "'-v', '-'], input=sys.argv[1].encode(), check=True)"
)
WORDS = (
    "--set",
    "trainer.len_epoch=9",
    "--set",
    "data_loader.args.batch_size=16",
    "--set",
    "trainer.log_step=4",
)


def test_it_trains_and_is_continued_exactly(changed_project):
    name, folder = changed_project
    assert "check passed" in run(
        folder, "train.py", "-c", "config.json", "--check", *SETS[name], *WORDS
    )
    words = ["--run_id", "RUN", "--set", "trainer.epochs=2", *SETS[name], *WORDS]
    run(folder, "train.py", "-c", "config.json", *words)
    rows, runs = (
        log_of(folder, "c", name="Digits_LeNet"),
        folder / "saved" / "models" / "Digits_LeNet",
    )
    whole = checkpoint.load(runs / "RUN" / "checkpoint-epoch2.pth")
    assert SEEN[name](rows[-1], whole)
    run(folder, "train.py", "-r", str(runs / "RUN" / "checkpoint-epoch1.pth"))
    again = checkpoint.load(runs / "RUN" / "checkpoint-epoch2.pth")
    assert repr((again["state_dict"], again["states"])) == repr(
        (whole["state_dict"], whole["states"])
    )
    assert log_of(folder, "c", name="Digits_LeNet") == rows
    assert "accuracy" in run(folder, "test.py", "-r", str(runs / "RUN"))


def test_it_is_clean(changed_project):
    _, folder = changed_project
    shutil.copy(ROOT / "pyproject.toml", folder)
    for words in (["check"], ["format", "--check"]):
        result = command(folder, "-m", "ruff", *words, "--no-cache", ".")
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("changed_project", ["update"], indirect=True)
def test_centred_gradients_are_of_mean_zero(changed_project):
    """The formula of the page: plain SGD moves the weights of each output by what sums to
    nothing."""
    _, folder = changed_project
    words = [
        "--set",
        'optimizer={"type": "SGD", "args": {"lr": 0.1}}',
        "--set",
        "trainer.epochs=2",
        *WORDS,
    ]
    moved = {}
    for kind in ("trainer.centred.CentredTrainer", "Trainer"):
        run(
            folder,
            "train.py",
            "-c",
            "config.json",
            "--run_id",
            kind,
            "--set",
            f"trainer.type={kind}",
            *words,
        )
        runs = folder / "saved" / "models" / "Digits_LeNet" / kind
        first, second = (
            checkpoint.load(runs / f"checkpoint-epoch{n}.pth")["state_dict"] for n in (1, 2)
        )
        moves = [(second[name] - first[name]).flatten(1) for name in first if first[name].ndim > 1]
        assert all(float(move.abs().max()) > 1e-4 for move in moves)
        moved[kind] = max(float(move.mean(dim=1).abs().max()) for move in moves)
    assert moved["trainer.centred.CentredTrainer"] < 1e-7 and moved["Trainer"] > 1e-5
