"""update_project.py merges what the template writes today into a project, and loses nothing."""

import os
import re
import shlex
import shutil
import subprocess
import tomllib

import pytest

from projects import ROOT, command

IDENTITY = {
    f"GIT_{who}_{what}": "me@there" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}
#: Projects made by it have neither tests of their own nor a branch.
EARLY = "01ebcc6"
#: A file of the template that an update brings.
SHARED = "base/base_model.py"


def git(folder, *words, code=0):
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**os.environ, **IDENTITY},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout.strip()


def committed(folder, title):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", title)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    """A template with a history of its own, and a project made by its first commit."""
    folder = tmp_path_factory.mktemp("copied")
    for name in git(ROOT, "ls-files", "-z").strip("\0").split("\0"):
        place = folder / "template" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)
    template = folder / "template"
    git(folder, "init", "-q", "template")
    committed(template, "First")
    run(template, "new_project.py", folder / "project")
    run(template, "new_project.py", folder / "table", "--example", "tabular")
    return folder


@pytest.fixture
def places(copied, tmp_path):
    """Copies of both, and what the template has changed since."""
    shutil.copytree(copied, tmp_path, dirs_exist_ok=True)
    template = tmp_path / "template"
    append(template / SHARED, "\n#: New in the template.\nNEW = 1\n")
    append(template / "tools" / "project" / "README.md", "\nMore.\n")
    (template / "utils" / "added.py").write_text('"""Added by the template."""\n')
    (template / "tools" / "lr_find.py").unlink()
    committed(template, "Second")
    return template, tmp_path / "project"


def run(template, tool, *words, code=0):
    result = command(template, f"tools/{tool}", *words, env=IDENTITY)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout + result.stderr


def update(template, project, *words, code=0):
    return run(template, "update_project.py", project, *words, code=code)


def append(file, text):
    file.write_text(file.read_text() + text)


def own_changes(project):
    """What an owner does."""
    append(project / "model" / "model.py", "\n\nMINE = 1\n")
    (project / "README.md").write_text("mine\n")
    (project / "trainer" / "mine.py").write_text('"""Mine."""\n')
    return committed(project, "Mine")


def has_both(project):
    assert "NEW = 1" in (project / SHARED).read_text()
    assert (project / "utils" / "added.py").exists()
    assert not (project / "tools" / "lr_find.py").exists()
    assert (project / "model" / "model.py").read_text().endswith("MINE = 1\n")
    assert (project / "README.md").read_text() == "mine\n"
    assert (project / "trainer" / "mine.py").exists()
    assert git(project, "status", "--porcelain") == ""


def test_what_the_template_has_changed_is_merged(places):
    template, project = places
    mine = own_changes(project)
    branch = git(project, "symbolic-ref", "HEAD")
    said = update(template, project)
    has_both(project)
    assert git(project, "symbolic-ref", "HEAD") == branch
    assert git(project, "rev-parse", "HEAD^1", "HEAD^2").split() == [
        mine,
        git(project, "rev-parse", "template"),
    ]
    second = git(template, "rev-parse", "HEAD")
    assert f"Template: {second}" in git(project, "log", "-1", "--format=%B", "template")
    told = tomllib.loads((project / "pyproject.toml").read_text())["tool"]["template"]
    assert told == {"commit": second, "name": "project"}
    assert "nothing to do" in update(template, project)
    (back,) = re.findall(r"^  (git .*?)  +#", said, re.M)
    git(project, *shlex.split(back)[1:])
    assert git(project, "rev-parse", "HEAD") == mine


def test_a_project_of_an_example_stays_one(places):
    template, project = places
    project = project.with_name("table")
    append(template / "examples" / "tabular" / "model.py", "\n\nTABLE = 1\n")
    committed(template, "Third")
    update(template, project)
    assert (project / "model" / "model.py").read_text().endswith("TABLE = 1\n")
    assert "NEW = 1" in (project / SHARED).read_text()
    assert '"name": "Rents_MLP"' in (project / "config.json").read_text()
    assert not (project / "data" / "mnist5k.npz").exists()


def test_what_both_have_changed_is_left_to_the_owner(places):
    template, project = places
    append(project / SHARED, "\nMINE = 2\n")
    mine = committed(project, "Mine")
    said = update(template, project, code=1)
    assert f"\n  {SHARED}\n" in said and "<<<<<<< HEAD" in (project / SHARED).read_text()
    again = update(template, project, code=2)
    assert "in the midst of a merge: git commit it, or git merge --abort" in again
    (back,) = re.findall(r"^  (git -C .*)", said, re.M)
    git(project, *shlex.split(back)[1:])
    assert git(project, "rev-parse", "HEAD") == mine
    assert (project / SHARED).read_text().endswith("MINE = 2\n")
    update(template, project, code=1)
    (project / SHARED).write_text("resolved = 1\n")
    committed(project, "Resolved")
    assert "nothing to do" in update(template, project)


def test_nothing_is_lost_where_it_is_refused(places):
    template, project = places
    before = git(project, "rev-parse", "HEAD", "template")
    append(project / "model" / "model.py", "\n\nMINE = 1\n")
    said = update(template, project, code=2)
    assert "changes that are in no commit (model/model.py): commit them" in said
    assert (project / "model" / "model.py").read_text().endswith("MINE = 1\n")
    assert git(project, "rev-parse", "HEAD", "template") == before
    committed(project, "Mine")
    (project / "utils" / "added.py").write_text("mine\n")  # which git does not track
    said = update(template, project, code=6)
    assert "refused, and changed nothing" in said and "utils/added.py" in said
    assert (project / "utils" / "added.py").read_text() == "mine\n"
    (project / "utils" / "added.py").unlink()
    update(template, project)
    assert "NEW = 1" in (project / SHARED).read_text()


def test_places_that_are_no_project_are_refused(places, tmp_path):
    template, project = places
    assert "is no project of this template" in update(template, tmp_path, code=2)
    assert "is the template itself" in update(template, template, code=2)
    git(project, "switch", "-q", "--detach")
    assert "no branch of yours is checked out" in update(template, project, code=2)
    git(project, "switch", "-q", "template")
    assert "no branch of yours is checked out" in update(template, project, code=2)
    shutil.rmtree(project / ".git")
    said = update(template, project, code=2)
    (begin,) = re.findall(r"^  (git init.*)", said, re.M)
    for line in begin.split(" && "):
        git(project, *shlex.split(line)[1:])
    update(template, project)
    assert "NEW = 1" in (project / SHARED).read_text()


def test_a_project_whose_history_is_gone_begins_with_the_recorded_commit(places):
    template, project = places
    append(project / SHARED, "")
    own_changes(project)
    shutil.rmtree(project / ".git")
    git(project, "init", "-q")
    mine = committed(project, "All of it")
    update(template, project)
    has_both(project)
    assert mine in git(project, "log", "--format=%H").split()
    first = git(template, "rev-parse", "HEAD^")
    assert f"Template: {first}" in git(project, "log", "--format=%B", "template")


def test_a_project_that_says_nothing_is_told(places):
    template, project = places
    own_changes(project)
    settings = project / "pyproject.toml"
    settings.write_text(re.sub(r"(?s)\[tool\.template\].*", "", settings.read_text()))
    shutil.rmtree(project / ".git")
    git(project, "init", "-q")
    committed(project, "All of it")
    assert "--since COMMIT, one of the template's" in update(template, project, code=2)
    assert "has no commit 1234567" in update(template, project, "--since", "1234567", code=2)
    update(template, project, "--since", "HEAD^", code=1)  # what it says of itself was taken out
    assert git(project, "diff", "--name-only", "--diff-filter=U") == "pyproject.toml"
    assert "NEW = 1" in (project / SHARED).read_text()


def test_a_clone_has_the_branch_of_its_origin(places, tmp_path):
    template, project = places
    own_changes(project)
    git(tmp_path, "clone", "-q", str(project), "clone")
    clone = tmp_path / "clone"
    update(template, clone)
    has_both(clone)
    git(clone, "branch", "-q", "-f", "template", "HEAD^2^")  # as before the update
    update(template, project)
    git(clone, "fetch", "-q")
    git(clone, "reset", "-q", "--hard", "@{u}")  # what somebody else has updated
    append(template / SHARED, "\n#: Newer.\n")
    committed(template, "Third")
    update(template, clone)
    assert git(clone, "rev-parse", "template^") == git(project, "rev-parse", "template")
    has_both(clone)


def early_template(folder):
    """The template as it was; a checkout may be without its history."""
    found = subprocess.run(["git", "cat-file", "-e", EARLY], cwd=ROOT, check=False)
    if found.returncode != 0:
        pytest.skip(f"this checkout has no commit {EARLY}")
    git(folder, "clone", "-q", "--no-checkout", str(ROOT), "early")
    git(folder / "early", "checkout", "-q", EARLY)
    return folder / "early"


@pytest.mark.soak
@pytest.mark.parametrize("words", [[], ["--example", "finetune"]])
def test_a_project_of_an_early_version_is_updated(tmp_path, words):
    early = early_template(tmp_path)
    project = tmp_path / "mine"
    run(early, "new_project.py", project, *words)
    config = project / "config.json"
    config.write_text(config.read_text().replace('"Digits_LeNet"', '"Mine"'))
    own_changes(project)
    update(ROOT, project)
    assert (project / "README.md").read_text() == "mine\n"
    assert (project / "model" / "model.py").read_text().endswith("MINE = 1\n")
    assert '"name": "Mine"' in config.read_text()
    assert (project / "examples" / "finetune" / "config.json").exists()
    assert (project / "examples" / "gan").exists() == (not words)
    assert not (project / "tests" / "house").exists()
    assert "nothing to do" in update(ROOT, project)
    for tool in (["ruff", "format", "--check"], ["ruff", "check"], ["pytest", "-q"]):
        result = command(project, "-m", *tool)
        assert result.returncode == 0, result.stdout + result.stderr
