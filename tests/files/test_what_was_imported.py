"""A run's record is true of what was imported: files that git does not track yet, and packages."""

import importlib
import json
import subprocess
import sys

import pytest

import tiny
from machinery.checkpoints import environment, imported

LINES = "#: A file of the user's own.\nRATE = 3\n\n\ndef half(x):\n    return x / 2  # Größe"


def git(folder, *words):
    who = ["-c", "user.name=me", "-c", "user.email=me@there"]
    done = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)
    return done.stdout.decode()


@pytest.fixture(params=["", "inner"])
def project(tmp_path, monkeypatch, request):
    """A project in a repository, or in a folder of one, which imports what git doesn't track."""
    folder = tmp_path / "repository" / request.param
    (folder / "own parts").mkdir(parents=True)
    (folder / "tracked_by_git.py").write_text("x = 1\n")
    (folder / ".gitignore").write_text("ignored*\n")
    git(tmp_path / "repository", "init")
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "one")
    monkeypatch.setattr(environment, "ROOT", folder)
    monkeypatch.setattr(imported, "ROOT", folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.syspath_prepend(folder / "own parts")
    return folder


def imports(monkeypatch, *names):
    importlib.invalidate_caches()
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setitem(sys.modules, name, importlib.import_module(name))


def test_files_that_git_does_not_track_are_dirty_and_kept(project, tmp_path, monkeypatch):
    imports(monkeypatch, "tracked_by_git")
    assert environment.describe(None)["git_dirty"] is False
    files = {"own parts/of_the_user.py": LINES, "ignored_by_git.py": 'secret = "s://me:pw@x"\n'}
    for name, text in files.items():
        (project / name).write_text(text)
    (project / "not_imported.py").write_text("y = 1\n")
    assert environment.describe(None)["git_dirty"] is False
    imports(monkeypatch, "of_the_user", "ignored_by_git")
    before = git(project, "status", "--porcelain", "--ignored")
    assert environment.describe(None)["git_dirty"] is True
    environment.keep_changes(tmp_path)
    assert git(project, "status", "--porcelain", "--ignored") == before
    (diff,) = tmp_path.glob("changes-*.diff")
    assert "not_imported" not in diff.read_text() and "me:pw@" not in diff.read_text()
    for name in files:
        (project / name).unlink()
    git(tmp_path / "repository", "apply", diff)
    assert (project / "own parts/of_the_user.py").read_text() == LINES
    assert (project / "ignored_by_git.py").read_text() == 'secret = "s://me:***@x"\n'


def test_changes_of_the_code_that_are_in_no_commit_are_told_apart(project):
    (project / "notes.txt").write_text("one")
    git(project, "add", "notes.txt")
    (file,) = project.rglob("tracked_by_git.py")
    found = []
    for text in (None, "y = 1\n", "y = 2\n"):
        if text is not None:
            file.write_text(text)
        found.append(environment.describe(None)["git_changes"])
    assert found[0] is None and None not in found[1:] and found[1] != found[2]


def test_no_file_is_untracked_where_there_is_no_git(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(imported, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_nobody.py").write_text("")
    imports(monkeypatch, "of_nobody")
    assert environment.describe(None)["git_dirty"] is False


def test_the_packages_that_were_imported_have_their_versions(tmp_path):
    trainer = tiny.train(tiny.settings(tmp_path, trainer__epochs=1))
    (told,) = json.loads((trainer.checkpoint_dir / "environment.json").read_text())
    metadata = imported.metadata
    for name in ("torch", "numpy", "pydantic", "pytest"):
        assert told["packages"][name] == metadata.version(name)
    assert "pip" not in told["packages"] and "ruff" not in told["packages"]


def test_a_package_of_another_name_than_its_module_is_found(monkeypatch):
    yaml = pytest.importorskip("yaml")
    assert imported.packages()["PyYAML"] == yaml.__version__


def test_another_version_of_a_package_is_named():
    before = {"packages": {"pillow": "1.0", "torch": "1.0", "gone": "1.0", "same": "2"}}
    now = {"packages": {"pillow": "2.0", "torch": "2.0", "new": "1.0", "same": "2"}}
    assert environment.differences(before, now) == ["pillow 1.0 -> 2.0"]
    assert environment.differences({"packages": "?"}, now) == []


@pytest.mark.parametrize(
    "line, version",
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5", "550.54.15"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release",
            "570.86.10",
        ),
        ("something else", None),
    ],
)
def test_the_driver_of_the_gpu(tmp_path, monkeypatch, line, version):
    monkeypatch.setattr(imported, "_DRIVER", tmp_path / "version")
    assert imported.driver() is None
    (tmp_path / "version").write_text(line + "\n")
    assert imported.driver() == version
