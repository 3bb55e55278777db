"""new_project.py makes a clean copy that works, and goes on working as it grows."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from projects import ROOT, command, copy_template

PAGE = (ROOT / "docs" / "own_tasks.md").read_text()
IDENTITY = {
    f"GIT_{who}_{what}": "me@there" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    target = tmp_path_factory.mktemp("new") / "My Project"
    hook = {**IDENTITY, "GIT_DIR": str(target.parent / "another")}
    result = command(ROOT, "tools/new_project.py", target, env=hook)
    assert result.returncode == 0 and "without a first commit" not in result.stdout, result.stderr
    return target


def test_it_is_clean_and_has_a_history(project):
    names = {path.relative_to(project).as_posix() for path in project.rglob("*")}
    assert {
        "train.py",
        "data/mnist5k.npz",
        ".ci/run",
        ".gitignore",
        "pyproject.toml",
        "examples/lbfgs/trainer.py",
        "tools/history/page.html",
    } <= names
    assert not names & {
        "saved",
        "tools/new_project.py",
        "tools/benchmark.py",
        "tools/write_schema.py",
        "tests/docs/test_readme.py",
    }
    assert not any("__pycache__" in name or "_cache" in name for name in names)
    assert (project / "README.md").read_text().startswith("# My Project\n")
    assert 'name = "my-project"' in (project / "pyproject.toml").read_text()
    log = subprocess.run(
        ["git", "log", "--oneline"], cwd=project, capture_output=True, text=True, check=True
    ).stdout
    assert len(log.splitlines()) == 1
    left = subprocess.run(
        ["git", "status", "--short"], cwd=project, capture_output=True, text=True, check=True
    ).stdout
    assert left == ""


def test_it_can_start_from_an_example(tmp_path):
    result = command(
        ROOT, "tools/new_project.py", tmp_path / "mine", "--example", "finetune", env=IDENTITY
    )
    assert result.returncode == 0, result.stderr
    folders = {path.parent.name for path in (tmp_path / "mine" / "examples").glob("*/config.json")}
    assert folders == {"finetune", "backbone_classifier", "lbfgs"}
    (words,) = re.findall(r"^  python (.*)$", result.stdout, re.M)
    checked = command(tmp_path / "mine", *words.split(), "--check")
    assert checked.returncode == 0 and "check passed" in checked.stdout, checked.stderr
    wrong = command(ROOT, "tools/new_project.py", tmp_path / "other", "--example", "fine")
    assert wrong.returncode == 2 and "invalid choice: 'fine'" in wrong.stderr


def grow(project):
    """Replace the README, and add the GAN of docs/own_tasks.md."""
    (project / "README.md").write_text("mine\n")
    (added,) = re.findall(r"^\+\+\+ b/trainer/gan.py\n@@.*\n((?:\+.*\n)+)", PAGE, re.M)
    (project / "trainer" / "gan.py").write_text(re.sub(r"(?m)^\+", "", added))
    model = project / "model" / "model.py"
    model.write_text(model.read_text() + GENERATOR)


GENERATOR = """

class Generator(BaseModel):
    def __init__(self, width=16):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 6))

    def forward(self, z):
        return self.net(z)
"""


def checks(project, *more, tests=()):
    """Format, lint, tests, and what is asked for besides."""
    tools = [["ruff", "format", "--check"], ["ruff", "check"], *more, ["pytest", "-q", *tests]]
    for tool in tools:
        result = command(project, "-m", *tool)
        assert result.returncode == 0, result.stdout + result.stderr


def test_its_checks_pass_also_when_it_has_grown(project):
    grow(project)
    # All files of tests are imported, and nothing imports what was left behind.
    checks(project, tests=["-n0", "-k", "test_averages_are_over_samples"])


@pytest.mark.soak
def test_all_its_tests_pass_when_it_has_grown(tmp_path):
    target = tmp_path / "grown"
    assert command(ROOT, "tools/new_project.py", target, env=IDENTITY).returncode == 0
    grow(target)
    checks(target, ["mypy"])


def test_a_name_that_is_taken_is_refused(project):
    again = command(ROOT, "tools/new_project.py", project)
    assert again.returncode == 2 and "is not empty" in again.stderr
    inside = command(ROOT, "tools/new_project.py", Path("saved") / "x")
    assert inside.returncode == 2 and "inside the template" in inside.stderr
    for name in ("a" * 300, os.fsdecode(b"\xff")):
        odd = command(ROOT, "tools/new_project.py", project.parent / name)
        assert odd.returncode == 2 and "no name for a folder" in odd.stderr


def test_without_git_it_is_a_copy_all_the_same(tmp_path):
    source = copy_template(tmp_path / "downloaded")
    (source / "tools").mkdir()
    for name in ("tools/new_project.py", "pyproject.toml"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "saved").mkdir()
    (source / "saved" / "x.pth").write_text("")
    bare = {"PATH": str(Path(sys.executable).parent)}
    result = command(source, "tools/new_project.py", tmp_path / "mine", env=bare)
    assert result.returncode == 0 and "without a first commit" in result.stdout, result.stderr
    names = {
        path.relative_to(tmp_path / "mine").as_posix() for path in (tmp_path / "mine").rglob("*")
    }
    assert {"train.py", "model/model.py", "data/mnist5k.npz"} <= names and "saved" not in names
