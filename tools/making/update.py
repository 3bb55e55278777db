"""What a project has of the template, and how later versions of it reach the project."""

import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

from machinery.errors import ConfigError, StorageError
from machinery.files import ROOT
from tools.making.chosen import Options
from tools.making.history import BRANCH, git, message, run_git
from tools.making.written import write, written

#: Who writes what the template writes where git knows nobody.
_NOBODY = {"GIT_COMMITTER_NAME": "template", "GIT_COMMITTER_EMAIL": "template@localhost"}
_NOBODY |= {"GIT_AUTHOR_NAME": "template", "GIT_AUTHOR_EMAIL": "template@localhost"}

#: What a project is given once, and is its owner's from then on.
_ONCE = ("README.md", "tests/test_mine.py")


def check_project(project: Path) -> None:
    """Refuse a folder that an update could harm, or that is no project.

    Raises:
        ConfigError: with what to do.
    """
    if not (project / "train.py").is_file() or not (project / "machinery").is_dir():
        raise ConfigError(f"{project} is no project of this template")
    if project == ROOT:
        raise ConfigError(f"{project} is the template itself: name a project that was made from it")
    top = git(project, "rev-parse", "--show-toplevel")
    if top is None or Path(top.rstrip("\n")).resolve() != project:
        begin = "git init && git add -A && git commit -m Begin"
        raise ConfigError(f"{project} has no history to merge into: type there\n  {begin}")
    branch = git(project, "symbolic-ref", "--short", "-q", "HEAD")
    if branch is None or branch.strip() == BRANCH:
        what = "no branch of yours is checked out: git switch the one that is to be updated"
        raise ConfigError(f"{project}: {what}")
    if git(project, "rev-parse", "-q", "--verify", "HEAD") is None:
        raise ConfigError(f"{project} has no commit yet: git add -A && git commit -m Begin")
    if git(project, "rev-parse", "-q", "--verify", "MERGE_HEAD") is not None:
        end = "git commit it, or git merge --abort"
        raise ConfigError(f"{project} is in the midst of a merge: {end}")
    changed = git(project, "status", "--porcelain", "--untracked-files=no")
    if changed is None or changed:
        files = ", ".join(line[3:] for line in (changed or "").splitlines()[:3])
        raise ConfigError(f"{project} has changes that are in no commit ({files}): commit them")


def options_of(project: Path) -> Options:
    """How a project was made: as its branch `template` says, else its files, else by its begin."""
    for place in (BRANCH, "HEAD"):
        text = git(project, "show", f"{place}:pyproject.toml")
        if text is None:
            continue
        try:
            told = tomllib.loads(text).get("tool", {}).get("template")
        except tomllib.TOMLDecodeError:
            continue
        if told is not None:
            return Options(told.get("name", project.name), told.get("example"))
    return Options(project.name)


def with_kept(project: Path, options: Options) -> Options:
    """The options, with the files of examples that a project of an earlier version has."""
    there = git(project, "ls-tree", "-r", "--name-only", BRANCH, "examples/") or ""
    return options._replace(kept=tuple(there.splitlines()))


def have_branch(project: Path, options: Options, since: str | None) -> None:
    """Let a project have a branch `template`, which its own history holds.

    Args:
        since: the commit of the template that it was made from; None: what it says of itself.

    Raises:
        ConfigError: nobody knows what the project began with.
    """
    theirs = f"refs/remotes/origin/{BRANCH}"
    if git(project, "rev-parse", "-q", "--verify", f"refs/heads/{BRANCH}") is not None:
        is_newer = git(project, "merge-base", "--is-ancestor", BRANCH, theirs) is not None
        if is_newer and _is_held(project, theirs):  # somebody has updated another clone
            _run(project, "update-ref", f"refs/heads/{BRANCH}", theirs)
        return
    for name in (theirs, _beginning(project)):
        if name is not None and _is_held(project, name):
            _run(project, "branch", "--no-track", BRANCH, name)
            return
    commit = since or _recorded(project)
    if commit is None:
        raise ConfigError(
            f"{project} does not say what it was made from: --since COMMIT, one of the template's"
        )
    _rebuild(project, options, commit)


def _is_held(project: Path, name: str) -> bool:
    """Whether a commit is there, and the current branch grew from it."""
    return git(project, "merge-base", "--is-ancestor", name, "HEAD") is not None


def _beginning(project: Path) -> str | None:
    """The first commit, if new_project.py made it."""
    roots = (git(project, "rev-list", "--max-parents=0", "HEAD") or "").split()
    for root in roots:
        title = git(project, "show", "-s", "--format=%s", root)
        if title == "Begin\n" and git(project, "cat-file", "-e", f"{root}:machinery") is not None:
            return root
    return None


def _recorded(project: Path) -> str | None:
    """The commit of the template that a project's pyproject.toml names."""
    text = git(project, "show", "HEAD:pyproject.toml") or ""
    try:
        commit = tomllib.loads(text).get("tool", {}).get("template", {}).get("commit")
    except tomllib.TOMLDecodeError:
        return None
    if commit == "unknown":
        return None
    return commit


def _rebuild(project: Path, options: Options, commit: str) -> None:
    """Begin the branch with what the template wrote at a commit, and let the history hold it.

    Raises:
        ConfigError: the template has no such commit, or cannot write it any more.
    """
    found = git(ROOT, "rev-parse", "-q", "--verify", f"{commit}^{{commit}}")
    if found is None:
        raise ConfigError(f"the template has no commit {commit}: git fetch it, or --since another")
    with tempfile.TemporaryDirectory() as place:
        old = Path(place) / "old"
        made = Path(place) / options.name
        _run(ROOT, "clone", "-q", "--no-checkout", str(ROOT), str(old))
        _run(old, "checkout", "-q", found.strip())
        _make(old, made, options)
        title = "What the template wrote when this project began"
        tree = _tree(project, made)
        text = f"{title}\n\nTemplate: {found.strip()}"
        _write_commit(project, tree, [], text)
    _run(project, "merge", "-s", "ours", "--allow-unrelated-histories", "-m", title, BRANCH)


def _make(template: Path, target: Path, options: Options) -> None:
    """Let an earlier version of the template make a project."""
    words = [sys.executable, "tools/new_project.py", str(target)]
    if options.example is not None:
        words += ["--example", options.example]
    done = subprocess.run(words, cwd=template, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-1:]
        raise ConfigError(f"the template of then cannot make the project: {''.join(said)}")


def write_branch(project: Path, options: Options) -> bool:
    """Write what the template writes today as a commit of the branch; whether it is news."""
    files = written(options)
    for name in _ONCE:
        if git(project, "cat-file", "-e", f"{BRANCH}:{name}") is not None:
            files.pop(name)
    with tempfile.TemporaryDirectory() as place:
        write(files, Path(place))
        tree = _tree(project, Path(place), [name for name in _ONCE if name not in files])
    if _run(project, "rev-parse", f"{BRANCH}^{{tree}}") == tree:
        return False
    before = _run(project, "rev-parse", f"refs/heads/{BRANCH}")
    _write_commit(project, tree, [before], message("Update the template", ROOT))
    return True


def _tree(project: Path, folder: Path, as_before: Sequence[str] = ()) -> str:
    """A folder's files in the store of a project, whose own files and index are left alone.

    Args:
        as_before: more files, which stay as the branch has them.
    """
    inside = _run(project, "rev-parse", "--absolute-git-dir")
    with tempfile.TemporaryDirectory() as place:
        variables = {"GIT_INDEX_FILE": str(Path(place) / "index")}
        where = (f"--git-dir={inside}", f"--work-tree={folder}")
        _run(folder, *where, "add", "-A", "-f", ".", variables=variables)
        for name in as_before:
            mode, _, found, _ = _run(project, "ls-tree", BRANCH, name).split(maxsplit=3)
            entry = f"{mode},{found},{name}"
            _run(folder, *where, "update-index", "--add", "--cacheinfo", entry, variables=variables)
        return _run(folder, *where, "write-tree", variables=variables)


def _write_commit(project: Path, tree: str, parents: list[str], text: str) -> None:
    """Let the branch end with a commit of a tree."""
    known = git(project, "var", "GIT_COMMITTER_IDENT") is not None
    words = ["commit-tree", tree, "-m", text]
    for parent in parents:
        words += ["-p", parent]
    commit = _run(project, *words, variables={} if known else _NOBODY)
    _run(project, "update-ref", f"refs/heads/{BRANCH}", commit)


def _run(folder: Path, *words: str, variables: dict[str, str] | None = None) -> str:
    """What git prints.

    Raises:
        StorageError: it fails.
    """
    done = run_git(folder, *words, variables=variables)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise StorageError(f"git {words[0]} in {folder} failed: {said}")
    return done.stdout.strip()


def merge(project: Path) -> list[str] | None:
    """Merge the branch into the current one.

    Returns:
        The files that git could not merge by itself; None if there is nothing to merge.

    Raises:
        StorageError: git refused, and has changed nothing.
    """
    if _is_held(project, BRANCH):
        return None
    done = run_git(project, "merge", "--no-edit", "-m", "Update the template", BRANCH)
    if done.returncode == 0:
        return []
    left = git(project, "diff", "--name-only", "--diff-filter=U", "-z") or ""
    if not left:
        said = (done.stderr or done.stdout).strip()
        raise StorageError(f"git merge in {project} refused, and changed nothing: {said}")
    return left.strip("\0").split("\0")
