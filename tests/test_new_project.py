"""new_project.py makes a clean copy that works."""

from pathlib import Path

from projects import ROOT, command


def test_a_new_project_is_clean_and_its_tests_pass(tmp_path):
    target = tmp_path / "mine"
    assert command(ROOT, "new_project.py", target).returncode == 0
    names = {path.name for path in target.rglob("*")}
    assert {"train.py", "mnist5k.npz", "README.md", "run", ".gitignore", "pyproject.toml"} <= names
    assert not names & {".git", "saved", "__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache"}
    result = command(target, "-m", "pytest", "-q", "-n0", "tests/test_structure.py", "tests/test_metrics.py")
    assert result.returncode == 0, result.stdout
    again = command(ROOT, "new_project.py", target)
    assert again.returncode == 2 and "is not empty" in again.stderr
    inside = command(ROOT, "new_project.py", Path("saved") / "x")
    assert inside.returncode == 2 and "inside the template" in inside.stderr
