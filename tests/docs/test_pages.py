"""The pages: links lead somewhere, commands exist and take what they are shown with, those of
docs/tools.md run."""

import csv
import importlib
import json
import re
import shlex
import shutil
import tomllib

import pytest
import torchvision.datasets  # noqa: F401

import forked
from pages import run
from projects import ROOT, copy_template

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
}
TOOLS = PAGES["docs/tools.md"]
SHORT = [
    "--set",
    "data_loader.args.validation_split=0.85",
    "--set",
    "trainer.epochs=1",
    "--set",
    "n_gpu=0",
]


def anchors(text):
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if not re.match(r"https?://", target):
            name, _, anchor = target.partition("#")
            path = (ROOT / page).parent / name if name else ROOT / page
            assert path.exists(), f"{page}: {target}"
            assert not anchor or anchor in anchors(path.read_text()), f"{page}: {target}"


def test_each_page_can_be_found_and_the_readme_is_short():
    for page in PAGES:
        assert page == "README.md" or f"({page})" in PAGES["README.md"], page
    assert len(PAGES["README.md"].splitlines()) <= 250


def commands(text):
    """The commands of a page's blocks, without comments; those that go over several lines in
    one."""
    for kind, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M):
        for line in re.split(r"\n(?=\S)", block.replace("\\\n", " ")):
            if not kind and re.match(r"(python|torchrun) ", line):
                yield re.sub(r" {2,}#.*$", "", line).strip()


def test_commands_exist_and_take_their_options(tmp_path):
    for package in (
        "optuna",
        "pandas",
        "matplotlib",
    ):  # without which some say only what is missing
        pytest.importorskip(package)
    known = {}
    for page, text in PAGES.items():
        for line in commands(text):
            words = shlex.split(line)
            script = next(word for word in words if word.endswith(".py"))
            assert (ROOT / script).is_file(), f"{page}: {line}"
            if script not in known:
                known[script] = run(ROOT, script, "--help", output=tmp_path / "help.txt")
            for option in [
                word.partition("=")[0]
                for word in words[words.index(script) + 1 :]
                if word[:1] == "-"
            ]:
                assert re.search(rf"(?m)(^|[ ,\[|]){option}\b", known[script]), (
                    f"{page}: {line}: {option}"
                )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    for name in ("matplotlib.pyplot", "pandas", "torch.utils.tensorboard"):
        importlib.import_module(name)  # once, and not again in each fork
    folder = copy_template(tmp_path_factory.mktemp("docs") / "project")
    for name in ("examples", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (sweep,) = re.findall(r"```json\n(.*?)```", TOOLS, re.S)
    (folder / "sweep.json").write_text(sweep)
    from PIL import Image

    Image.new("L", (40, 40)).save(folder / "digit.png")
    for name in ("RUN", "A", "B"):
        given = ["--run_id", name, "--set", f"seed={len(name)}"]
        run(folder, "train.py", "-c", "config.json", "--set", "name=NAME", *given, *SHORT)
    return folder


@pytest.mark.parametrize(
    "line",
    [
        line
        for line in commands(TOOLS)
        # Those of projects want a whole checkout; tests/tools has them.
        if not re.search(r"tune\.py|sweep\.py|_project\.py|same\.py .* \.$", line)
    ],
)
def test_the_tools_run_as_they_are_shown(project, line):
    script, *words = shlex.split(line)[1:]
    if "onnx" in line:
        pytest.importorskip("onnxruntime")
    if "MLflow" in line:
        pytest.importorskip("mlflow")
    short = [*SHORT, "--set", "trainer.len_epoch=3"] if script == "train.py" else []
    if "one_batch" in line:
        short = [*SHORT, "--set", "trainer.epochs=2"]
    run(project, script, *words, *short)


def test_the_sweep_of_the_page_runs(project):
    pytest.importorskip("optuna")
    from tools.sweeping.spec import read_spec

    spec, *_ = read_spec(project / "sweep.json")
    assert spec.method == "tpe" and spec.points == 20 and spec.prune_from == 2
    short = {"data_loader.args.validation_split": 0.85, "trainer.epochs": 1, "n_gpu": 0}
    given = json.loads((project / "sweep.json").read_text())
    given |= {"points": 2, "set": given["set"] | short}
    (project / "sweep.json").write_text(json.dumps(given))
    (line,) = [line for line in commands(TOOLS) if "sweep.py" in line]
    printed = run(project, *shlex.split(line)[1:])
    assert (
        sorted(re.findall(r"^point (\d+):", printed, re.M)) == ["0", "1"]
        and "best: point" in printed
    )
    assert len(list(project.glob("saved/sweeps/sweep/models/*/point-*"))) == 2


@pytest.mark.soak
def test_what_the_page_tunes_is_tuned(project):
    (line,) = [line for line in commands(TOOLS) if "tune.py" in line]
    printed = run(project, *shlex.split(line)[1:], *SHORT, "--seconds", "0.2", "--runs", "1")
    assert re.search(r"^as it stands .* 1\.00 ", printed, re.M) and "error" not in printed
    assert re.search(r"^(recommended, [\d.]+ times as fast|nothing is faster)", printed, re.M)


def test_mistakes_are_told_as_they_are_shown(project):
    mistakes = [
        {"true\n": "True\n"},
        {'"epochs"': '"epoch"', '"n_gpu"': '"n_gpus"', '"save_period": 1': '"save_period": "1"'},
        {
            "MnistModel": "MnistModl",
            '"k"': '"n"',
            "StepLR": "OneCycleLR",
            '"step_size": 12,': '"max_lr": "0.1"',
        },
        {"min val_loss": "min val_los", '"keep_last": 3': '"accumulate": 100'},
    ]
    mistakes[2]['"gamma": 0.3'] = ""
    said = []
    for changes in mistakes:
        text = (project / "config.json").read_text()
        for old, new in changes.items():
            assert text.count(old) == 1
            text = text.replace(old, new)
        (project / "mine.json").write_text(text)
        said.append(
            re.sub(
                r"(?s)^.*?error: ", "error: ", run(project, "train.py", "-c", "mine.json", code=2)
            )
        )
    said.append(run(project, "train.py", "-c", "config.json", "--set", "trainer.epoch=3", code=2))
    (shown,) = re.findall(
        r"```\n\$ python train.py -c mine.json\n(.*?)```", PAGES["docs/config.md"], re.S
    )
    assert re.sub(r"\$ python.*", "", shown).split() == " ".join(said).split()


def test_a_checkpoint_is_plain_data(project):
    (code,) = re.findall(r"```python\n(state = torch.*?)```", PAGES["docs/how_it_works.md"], re.S)
    load = (
        "import os, torch, model.model\nmodel = "
        "model.model.MnistModel()\nos.chdir('saved/models/NAME/RUN')\n"
    )
    run(project, "-c", load + code)


DICTS = """
import torch

from base import BaseDataLoader
from trainer.trainer import Trainer as Plain


class Pictures:
    def __init__(self):
        self.data = torch.rand(90, 6)

    def __len__(self):
        return 90

    def __getitem__(self, i):
        return {"image": self.data[i]}


class Loader(BaseDataLoader):
    def __init__(self, training=True):
        super().__init__(Pictures(), 16, True, 0.1, 0)


class Model(torch.nn.Linear):
    def __init__(self):
        super().__init__(6, 6)


def terms(output, batch):
    return (output - batch["image"]).square().mean(), output.square().mean()


"""


def test_a_trainer_of_dicts_is_written_as_it_is_shown(project):
    (code,) = re.findall(r"```python\n(class Trainer.*?)```", PAGES["docs/trainers.md"], re.S)
    (project / "trainer" / "dicts.py").write_text(
        DICTS + code.replace("Trainer(...)", "Trainer(Plain)")
    )
    config = {
        "name": "Dicts",
        "arch": {"type": "trainer.dicts.Model"},
        "loss": "trainer.dicts.terms",
        "optimizer": {"type": "Adam", "args": {"lr": 0.01}},
        "data_loader": {"type": "trainer.dicts.Loader"},
        "trainer": {"type": "trainer.dicts.Trainer", "epochs": 2, "tensorboard": False},
    }
    (project / "dicts.json").write_text(json.dumps(config))
    run(project, "train.py", "-c", "dicts.json", "--run_id", "RUN")
    with open(project / "saved/log/Dicts/RUN/metrics.csv", newline="") as file:
        row = list(csv.DictReader(file))[-1]
    assert float(row["val_loss"]) == pytest.approx(
        float(row["val_reconstruction"]) + float(row["val_kl"])
    )


def test_a_program_in_the_project_s_folder_trains_and_loads(project):
    (code,) = re.findall(
        r"```python\n(from parse_config import.*?)```", PAGES["docs/trainers.md"], re.S
    )
    short = {"trainer": {"epochs": 1, "len_epoch": 3, "tensorboard": False}, "n_gpu": 0}
    config = json.loads((project / "config.json").read_text())
    config["trainer"] |= short.pop("trainer")
    (project / "config.json").rename(project / "whole.json")
    try:
        (project / "config.json").write_text(json.dumps(config | short))
        run(
            project,
            "-c",
            code
            + "assert not model.training and config['trainer']['epochs'] == trainer.epoch == 2\n",
        )
    finally:
        (project / "whole.json").replace(project / "config.json")


def test_the_tracker_of_the_page_tracks(project):
    (code,) = re.findall(r"```python\n(import json.*?)```", TOOLS, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    (project / "trainer" / "lines.py").write_text(code)
    (setting,) = re.findall(
        r"`--set '(trainer\.trackers=\[\"trainer\.lines\.JsonLines\"\])'`", TOOLS
    )
    words = ["--set", "trainer.log_step=2", "--set", setting, *SHORT]
    run(project, "train.py", "-c", "config.json", "--run_id", "lines", *words)
    (log,) = project.glob("saved/log/*/lines")
    lines = [json.loads(line) for line in (log / "numbers.jsonl").read_text().splitlines()]
    with open(log / "metrics.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert lines[-1]["epoch"] == 1 and float(row["val_loss"]) == lines[-1]["val_loss"]
    assert [line["step"] for line in lines if "loss/train" in line] == [2, 4, 6, 8, 10]


def test_what_is_installed_is_what_the_requirements_say():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    def lines(name):
        return {
            line
            for line in (ROOT / name).read_text().splitlines()
            if line and not line.startswith("-")
        }

    assert set(project["project"]["dependencies"]) == lines("requirements.txt")
    assert set(project["project"]["optional-dependencies"]["tools"]) == lines(
        "requirements-tools.txt"
    )
    assert set(project["dependency-groups"]["dev"]) == lines("requirements-dev.txt")
    assert forked  # what `run` stands on
