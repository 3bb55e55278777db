"""What git knows of a project, and of the template."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

#: The branch of a project that holds what the template has written, and nothing of its owner's.
BRANCH = "template"
#: Variables of git that may be of another repository, where a hook calls.
_OF_A_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_PREFIX",
    "GIT_NAMESPACE",
)


def run_git(
    folder: Path, *words: str, variables: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run git in a folder.

    Raises:
        OSError: there is no git.
    """
    around = dict(os.environ)
    for name in _OF_A_REPOSITORY:
        around.pop(name, None)
    around.update(variables or {})
    return subprocess.run(
        ["git", *words],
        cwd=folder,
        env=around,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )


def git(folder: Path, *words: str, variables: Mapping[str, str] | None = None) -> str | None:
    """What git prints in a folder; None if it fails, or is not there."""
    try:
        done = run_git(folder, *words, variables=variables)
    except OSError:
        return None
    if done.returncode != 0:
        return None
    return done.stdout


def commit_of(folder: Path) -> str | None:
    """The commit that a folder's files are of; None if nobody knows."""
    if not (folder / ".git").exists():
        return None
    found = git(folder, "rev-parse", "HEAD")
    if found is None:
        return None
    return found.strip()


def has_changes(folder: Path) -> bool:
    """Whether tracked files differ from the commit."""
    return bool(git(folder, "status", "--porcelain", "--untracked-files=no"))


def message(title: str, folder: Path) -> str:
    """The message of a commit that holds what the template in a folder writes."""
    commit = commit_of(folder)
    if commit is None:
        return f"{title}\n\nTemplate: a copy without git"
    more = ""
    if has_changes(folder):
        more = ", with changes that are in no commit"
    return f"{title}\n\nTemplate: {commit}{more}"


def begin(target: Path, text: str) -> bool:
    """Begin the history of a project, and its branch `template`; whether that could be done."""
    for words in (["init"], ["add", "-A"], ["commit", "-m", text], ["branch", BRANCH]):
        if git(target, *words) is None:
            return False
    return True
