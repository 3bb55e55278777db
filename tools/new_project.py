"""Copy the template into a clean new project.

python tools/new_project.py ../my_project --example finetune
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from machinery.errors import ConfigError, StorageError
from machinery.files import ROOT
from machinery.telling import catch_user_errors

EXAMPLES = ROOT / "examples"
#: What is about the template itself, and not for a project that is made from it.
LEFT_OUT = re.compile(
    r"README\.md|"
    r"tools/(bench.*|migrat.*|bare_loop\.py|new_project\.py|write_schema\.py|trace_ways\.py)|"
    r"tests/(docs|house)/.*|"
    r"tests/helpers/(house|plainness)\.py|"
    r"tests/messages/test_suggestions\.py|"
    r"tests/tools/test_(benchmark|migrate|new_project)\.py"
)
#: What is about all examples.
OF_ALL = ("tests/examples/test_examples.py", "docs/examples.md")
#: An example that the tests take.
OF_TESTS = "lbfgs"
#: Where there is no git to say what belongs to the template.
IGNORED = re.compile(
    r"(.*/)?"
    r"(\.git|saved|__pycache__|\.?venv|\.\w+_cache|\.hypothesis|MNIST|test\.json|.*\.(pyc|tmp))"
    r"(/.*)?"
)
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
#: The README of a project.
README = """# {name}

```
python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt \
&& python train.py -c config.json
. .venv/bin/activate && pip install -r requirements-dev.txt && pytest
```

`.ci/run` checks everything: format, lint, types and tests. Yours to change: `config.json`,
`model/`, `data_loader/`, `trainer/`, `train.py`.
"""
#: Your own code may go without annotations.
RELAXED = """
[[tool.mypy.overrides]]
module = ["train", "test", "data_loader.*", "model.*", "trainer.*", "examples.*"]
disallow_untyped_defs = false
disallow_incomplete_defs = false
disallow_any_generics = false
check_untyped_defs = false
"""


def main() -> None:
    """Copy the template, without history, runs and caches."""
    args = _parser().parse_args()
    target = Path(args.name).resolve()
    check_place(target)
    files = chosen_files(args.example)
    try:
        copy(files, target)
        make_own(target)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)  # which was not there, or empty
        reason = error.strerror or error
        raise StorageError(f"{target} cannot be written: {reason}") from error
    note = ""
    if not commit(target):
        note = " (without a first commit: is git there, and does it know your name?)"
    config = "config.json"
    if args.example is not None:
        config = f"examples/{args.example}/config.json"
    print(f"made {target}{note}")
    print(f"  cd {shlex.quote(str(target))}")
    print(f"  python train.py -c {config}")


def _parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Copy the template into a clean new project.")
    parser.add_argument("name", help="folder of the new project; it must not exist, or be empty")
    parser.add_argument(
        "--example",
        choices=_examples(),
        help="start from this example, and leave the others out",
    )
    return parser


def _examples() -> list[str]:
    """The names of the examples."""
    return sorted(config.parent.name for config in EXAMPLES.glob("*/config.json"))


def check_place(target: Path) -> None:
    """Check that a project can be made in a folder.

    Raises:
        ConfigError: it cannot.
    """
    try:
        str(target).encode()
        is_taken = target.exists() and not _is_empty_folder(target)
    except UnicodeError as error:
        raise ConfigError(f"this is no name for a folder: {error}") from None
    except OSError as error:  # it is too long
        raise ConfigError(f"this is no name for a folder: {error.strerror}") from None
    if is_taken:
        raise ConfigError(f"{target} exists and is not empty: choose another name")
    if target.is_relative_to(ROOT):
        elsewhere = f"choose a folder elsewhere, such as ../{target.name}"
        raise ConfigError(f"{target} is inside the template: {elsewhere}")


def _is_empty_folder(path: Path) -> bool:
    """Whether a path is a folder that holds nothing."""
    return path.is_dir() and not any(path.iterdir())


def chosen_files(example: str | None) -> list[str]:
    """The files of the template that a project begins with.

    Args:
        example: the one that it starts from, without most of the others; None: with all.
    """
    others: list[str] = []
    if example is not None:
        unused = set(_examples()) - _with_parts(example)
        others = [*OF_ALL, *(f"examples/{name}/" for name in unused)]
    chosen = []
    for name in sorted(set(_files())):
        if LEFT_OUT.fullmatch(name) or name.startswith(tuple(others)):
            continue
        if (ROOT / name).is_file():
            chosen.append(name)
    return chosen


def _with_parts(example: str) -> set[str]:
    """An example, the others that it has parts from, and what the tests take."""
    found: set[str] = set()
    waiting = [example, OF_TESTS]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _named_in(EXAMPLES / name)
    return found


def _named_in(folder: Path) -> list[str]:
    """The examples that the code and the configs in a folder name."""
    names = []
    for path in folder.iterdir():
        if path.suffix in (".py", ".json"):
            names += re.findall(r"examples[./](\w+)", path.read_text(encoding="utf-8"))
    return names


def _files() -> list[str]:
    """The files of the template: those that git tracks."""
    if (ROOT / ".git").exists():
        tracked = _git(ROOT, "ls-files", "-z")
        if tracked is not None:
            return tracked.strip("\0").split("\0")
    names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
    return [name for name in names if not IGNORED.fullmatch(name)]


def copy(files: list[str], target: Path) -> None:
    """Copy files of the template."""
    for name in files:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, place)


def make_own(target: Path) -> None:
    """Give a copy a README, a name, and settings of its own."""
    readme = README.format(name=target.name)
    (target / "README.md").write_text(readme, encoding="utf-8")
    package = re.sub(r"[^A-Za-z0-9]+", "-", target.name).strip("-").lower() or "project"
    file = target / "pyproject.toml"
    settings = file.read_text(encoding="utf-8")
    settings = re.sub(r"(?m)^name = .*$", f'name = "{package}"', settings, count=1)
    settings = re.sub(r"(?m)^description = .*\n", "", settings, count=1)
    file.write_text(settings + RELAXED, encoding="utf-8")


def commit(target: Path) -> bool:
    """Begin the history of a project; whether that could be done."""
    for words in (["init"], ["add", "-A"], ["commit", "-m", "Begin"]):
        if _git(target, *words) is None:
            return False
    return True


def _git(folder: Path, *words: str) -> str | None:
    """What git prints in a folder; None if it fails, or is not there."""
    around = dict(os.environ)
    for name in _OF_A_REPOSITORY:
        around.pop(name, None)
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, env=around, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


if __name__ == "__main__":
    catch_user_errors()
    main()
