"""new_project.py makes a clean copy that works, and goes on working as it becomes another task."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from projects import ROOT, command, copy_template

IDENTITY = {
    f"GIT_{who}_{what}": "me@there" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}
EXAMPLES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/config.json"))
#: For what takes a minute for each kind; the first project stands for all otherwise.
IN_SOAK = [pytest.param(name, marks=pytest.mark.soak) for name in EXAMPLES]
#: Those that are not about the digits.
OTHER_DATA = ("char_lm", "finetune", "segmentation", "stream", "tabular")
#: What makes the commands of a README short.
SHORT = ["--set", "trainer.epochs=1", "--set", "trainer.len_epoch=2", "--set", "n_gpu=0"]


def made(target, *words):
    """A project of a kind."""
    hook = {**IDENTITY, "GIT_DIR": str(target.parent / "another")}
    result = command(ROOT, "tools/new_project.py", target, *words, env=hook)
    assert result.returncode == 0 and "without a first commit" not in result.stdout, result.stderr
    return target


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Types are read once for all projects; those of torch take most of the time."""
    return ["mypy", f"--cache-dir={tmp_path_factory.mktemp('types')}"]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return made(tmp_path_factory.mktemp("new") / "My Project")


def git(folder, *words):
    return subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**os.environ, **IDENTITY},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def names_in(folder):
    return set(git(folder, "ls-files", "-z").strip("\0").split("\0"))


def test_it_is_clean_and_has_a_history(project):
    names = {path.relative_to(project).as_posix() for path in project.rglob("*")}
    assert {
        "train.py",
        "data/mnist5k.npz",
        ".ci/run",
        ".gitignore",
        "pyproject.toml",
        "AGENTS.md",
        "examples/lbfgs/trainer.py",
        "tests/test_project.py",
        "tests/test_mine.py",
        "tools/history/page.html",
    } <= names
    assert not names & {
        "saved",
        "CITATION.cff",
        "CHANGELOG.md",
        "docs/examples.md",
        "docs/pictures/terminal.png",
        "docs/ten_minutes.md",
        "examples/gan",
        "tests/helpers",
        "tools/new_project.py",
        "tools/update_project.py",
        "tools/benchmark.py",
        "tools/draw_pages.py",
        "tools/making",
        "tools/project",
        "tools/write_schema.py",
    }
    assert not any("__pycache__" in name or "_cache" in name for name in names)
    assert (project / "README.md").read_text().startswith("# My Project\n")
    settings = tomllib.loads((project / "pyproject.toml").read_text())
    assert settings["project"]["name"] == "my-project"
    assert os.access(project / ".ci" / "run", os.X_OK)
    assert len(git(project, "log", "--oneline").splitlines()) == 1
    assert git(project, "status", "--short") == ""


def test_it_knows_what_it_came_from(project):
    head = git(ROOT, "rev-parse", "HEAD").strip()
    assert git(project, "rev-parse", "template") == git(project, "rev-parse", "HEAD")
    assert f"\nTemplate: {head}" in git(project, "log", "-1", "--format=%B", "template")
    told = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["template"]
    assert told == {"commit": head, "name": "My Project"}


def test_its_settings_want_what_its_files_say(project):
    settings = tomllib.loads((project / "pyproject.toml").read_text())
    groups = {
        "requirements.txt": settings["project"]["dependencies"],
        "requirements-tools.txt": settings["project"]["optional-dependencies"]["tools"],
        "requirements-dev.txt": settings["dependency-groups"]["dev"],
    }
    for name, group in groups.items():
        lines = (project / name).read_text().split("\n")
        assert [line for line in lines if line and line[0] != "-"] == group, name
    assert not set(settings["tool"]["ruff"]["extend-exclude"]) - {"saved"}


@pytest.mark.parametrize("example", [None, *EXAMPLES])
def test_nothing_of_other_tasks_is_left(tmp_path, example):
    words = ["--example", example] if example else []
    project = made(tmp_path / "mine", *words)
    names = names_in(project)
    folders = {name.split("/")[1] for name in names if re.match(r"examples/\w+/", name)}
    assert folders == {"debug", "lbfgs", "slurm"}
    config = json.loads((project / "config.json").read_text())
    source = f"examples/{example}/config.json" if example else "config.json"
    assert config["name"] == json.loads((ROOT / source).read_text())["name"]
    code = {name: (project / name).read_text() for name in names if name.endswith(".py")}
    own = own_code(code)
    assert not re.search(r"\bexamples\.(?!lbfgs|debug|trackers)\w+", own + json.dumps(config))
    assert ("DigitsDataLoader" in own) == (example not in OTHER_DATA)
    assert ("data/mnist5k.npz" in names) == (example not in OTHER_DATA)
    assert ("class MnistModel" in own) == (example in (None, "distillation"))
    assert git(project, "status", "--short", "--ignored") == ""
    for name in names:
        check_page(project, name)
    hooks = (project / ".pre-commit-config.yaml").read_text()
    assert "python " not in hooks


def own_code(code):
    """All but the machinery and the examples."""
    places = ("examples/", "machinery/")
    return "\n".join(text for name, text in code.items() if not name.startswith(places))


def check_page(project, page):
    """The links of a page lead somewhere, and its commands are there."""
    text = (project / page).read_text() if page.endswith(".md") else ""
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        place = (project / page).parent / target.partition("#")[0]
        assert re.match(r"https?:", target) or place.exists(), f"{page}: {target}"
    for words in re.findall(r"(?m)^(?:python|torchrun .*?) (\w[\w/]*\.py)\b", text):
        assert (project / words).is_file(), f"{page}: {words}"
    for place in re.findall(r"`((?:examples|tests)/[\w/.]*)`(?! of the template)", text):
        assert (project / place).exists(), f"{page}: {place}"
    assert not re.search(r"\b(PROJECT|CONFIG_NAME|TASK|COMMANDS|PAGES)\b", text), page


def commands(readme):
    """The commands that a README shows, but for its first block, which installs."""
    blocks = re.findall(r"(?ms)^```\n(.*?)^```", readme)[1:]
    return [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("example", [None, *IN_SOAK])
def test_the_commands_of_its_readme_run(tmp_path, example):
    project = made(tmp_path / "mine", *(["--example", example] if example else []))
    lines = commands((project / "README.md").read_text())
    assert len(lines) == 5 + (example in ("char_lm", "tabular"))
    short = list(SHORT)
    if example == "finetune":
        short += ["--set", "arch.starting_args.weights=null"]
    if example == "tabular":
        short = [word.replace("len_epoch=2", "len_epoch=null") for word in short]
    for line in lines:
        words = shlex.split(line)[1:]
        if words[0] == "train.py" and "-c" in words:
            words += [*short, "--run_id", "RUN"]
        if words[0] == "tools/folds.py":
            shorten(project / "config.json")
        result = command(project, *words)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"


def shorten(file):
    """Few epochs in a config."""
    file.write_text(re.sub(r'"epochs": \d+', '"epochs": 1', file.read_text()))


def checks(project, *more, tests=()):
    """What its .ci/run does, but for the types; `more` may have them."""
    script = (project / ".ci" / "run").read_text()
    assert script.endswith("\nruff format --check\nruff check\nmypy\npytest\n")
    tools = [["ruff", "format", "--check"], ["ruff", "check"], *more, ["pytest", "-q", *tests]]
    for tool in tools:
        result = command(project, "-m", *tool)
        assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"^[56] passed", result.stdout, re.M), result.stdout


@pytest.mark.parametrize("example", [None, *IN_SOAK])
def test_its_checks_pass_from_the_first_commit(tmp_path, example):
    checks(made(tmp_path / "mine", *(["--example", example] if example else [])))


@pytest.mark.soak
@pytest.mark.parametrize("example", [None, *EXAMPLES])
def test_its_types_are_right(tmp_path, example, mypy):
    checks(made(tmp_path / "mine", *(["--example", example] if example else [])), mypy)


def replaced(file, **changes):
    """Replace text in a file."""
    text = file.read_text()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    file.write_text(text)


MODEL = '''"""Mine."""

import torch
from torch import nn

from base import BaseModel


class Net(BaseModel):
    def __init__(self, width=12):
        super().__init__()
        layers = [nn.Flatten(), nn.Linear(784, width), nn.BatchNorm1d(width), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(width, 10))

    def forward(self, x: torch.Tensor):
        return self.net(x)
'''
LOADER = '''"""Mine."""

import torch
from torch.utils.data import TensorDataset

from base import BaseDataLoader


class NumbersLoader(BaseDataLoader):
    def __init__(self, n=105, training=True, **options):
        generator = torch.Generator().manual_seed(3 + training)
        x = torch.randn(n, 6, generator=generator)
        super().__init__(TensorDataset(x, x[:, :3].sum(1)), **options)
'''


def another_name(project):
    replaced(project / "config.json", Digits_LeNet="Mine")


def another_model(project):
    """And no MnistModel."""
    (project / "model" / "model.py").write_text(MODEL)
    replaced(project / "config.json", MnistModel="Net", nll_loss="cross_entropy")


def another_loader(project):
    """A task of its own: nothing of the digits is left."""
    (project / "data_loader" / "data_loaders.py").write_text(LOADER)
    (project / "data" / "mnist5k.npz").unlink()
    model = MODEL.replace("784", "6").replace("10))", "1), nn.Flatten(0))")
    (project / "model" / "model.py").write_text(model)
    loss = project / "model" / "loss.py"
    loss.write_text(
        loss.read_text() + "\n\ndef mse(output, target):\n    return F.mse_loss(output, target)\n"
    )
    config = {
        "name": "Numbers",
        "arch": {"type": "Net"},
        "data_loader": {
            "type": "NumbersLoader",
            "args": {"batch_size": 8, "shuffle": True, "validation_split": 0.2, "num_workers": 0},
        },
        "optimizer": {"type": "SGD", "args": {"lr": 0.01, "momentum": 0.9}},
        "loss": "mse",
        "trainer": {"epochs": 3, "accumulate": 2, "monitor": "min val_loss"},
    }
    (project / "config.json").write_text(json.dumps(config, indent=4))


@pytest.mark.parametrize(
    "change",
    [
        another_loader,
        pytest.param(another_name, marks=pytest.mark.soak),
        pytest.param(another_model, marks=pytest.mark.soak),
    ],
)
def test_its_checks_pass_when_it_has_become_another_task(tmp_path, change):
    project = made(tmp_path / "mine")
    change(project)
    checks(project)


@pytest.mark.soak
def test_its_types_are_right_when_it_has_become_another_task(tmp_path, mypy):
    project = made(tmp_path / "mine")
    another_loader(project)
    checks(project, mypy)


#: Code of an owner's in which something is wrong, and the tests that are to see it.
FAULTS = {
    "a state that no checkpoint has": (
        """
    calls = 0

    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        if self.model.training:
            type(self).calls += 1
        return loss * (1 + 0.1 * self.calls), output, target
""",
        {"test_a_run_that_is_stopped_goes_on_exactly"},
    ),
    "what a process has alone": (
        """
    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        return loss * (1 + distributed.rank()), output, target
""",
        {"test_two_processes_train_what_one_does"},
    ),
    "outputs of two kinds": (
        """
    def _forward(self, batch):
        loss, output, target = super()._forward(batch)
        self.seen = getattr(self, "seen", 0) + 1
        return loss, output if self.seen % 2 else output[:, 0], target
""",
        {"test_the_config_is_right_and_its_parts_fit"},
    ),
}


@pytest.mark.soak
@pytest.mark.parametrize("fault", FAULTS)
def test_its_tests_see_what_is_wrong(tmp_path, fault):
    project = made(tmp_path / "mine")
    code, seen = FAULTS[fault]
    begin = "from trainer import Trainer\nfrom utils import distributed as distributed\n\n\n"
    (project / "trainer" / "mine.py").write_text(f"{begin}class Mine(Trainer):{code}")
    replaced(
        project / "config.json", **{'"epochs": 40': '"type": "trainer.mine.Mine", "epochs": 40'}
    )
    result = command(project, "-m", "pytest", "-q", "-k", " or ".join(seen))
    failed = set(re.findall(r"(?m)^(?:FAILED|ERROR) \S+::(\w+)", result.stdout))
    assert failed == seen, result.stdout


def test_data_that_is_not_there_is_no_fault(project, tmp_path):
    copy = made(tmp_path / "mine")
    (copy / "data" / "mnist5k.npz").unlink()
    result = command(copy, "-m", "pytest", "-q", "-rs")
    assert result.returncode == 0 and "mnist5k.npz is missing" in result.stdout, result.stdout


def test_a_name_that_is_taken_is_refused(project):
    again = command(ROOT, "tools/new_project.py", project)
    assert again.returncode == 2 and "is not empty" in again.stderr
    inside = command(ROOT, "tools/new_project.py", Path("saved") / "x")
    assert inside.returncode == 2 and "inside the template" in inside.stderr
    for name in ("a" * 300, os.fsdecode(b"\xff")):
        odd = command(ROOT, "tools/new_project.py", project.parent / name)
        assert odd.returncode == 2 and "no name for a folder" in odd.stderr
    wrong = command(ROOT, "tools/new_project.py", project.parent / "other", "--example", "fine")
    assert wrong.returncode == 2 and "invalid choice: 'fine'" in wrong.stderr


def test_without_git_it_is_a_copy_all_the_same(tmp_path):
    source = copy_template(tmp_path / "downloaded")
    for name in sorted(names_in(ROOT)):
        if name.startswith(("tools/", "examples/", "docs/", ".")) or "/" not in name:
            place = source / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes((ROOT / name).read_bytes())
    (source / "saved").mkdir()
    (source / "saved" / "x.pth").write_text("")
    bare = {"PATH": str(Path(sys.executable).parent)}
    result = command(source, "tools/new_project.py", tmp_path / "mine", env=bare)
    assert result.returncode == 0 and "without a first commit" in result.stdout, result.stderr
    names = {
        path.relative_to(tmp_path / "mine").as_posix() for path in (tmp_path / "mine").rglob("*")
    }
    assert {"train.py", "model/model.py", "data/mnist5k.npz"} <= names and "saved" not in names
    assert 'commit = "unknown"' in (tmp_path / "mine" / "pyproject.toml").read_text()


def test_what_the_pages_say_of_the_template_is_found():
    """What is replaced in a project's pages is there in the template's."""
    from tools.making.pages import _SAID

    for page, old, _ in _SAID:
        assert len(re.findall(old, (ROOT / page).read_text())) == 1, (page, old)
