"""Copy the template into a clean new project: python tools/new_project.py ../my_project --example finetune"""

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

#: What is about the template itself, and not for a project that is made from it.
LEFT_OUT = re.compile(
    r"README\.md|tools/(bench.*|migrat.*|bare_loop\.py|new_project\.py|write_schema\.py|trace_ways\.py)|"
    r"tests/(house|plainness)\.py|"
    r"tests/test_(tools|readme|docs|ten_minutes|new_project|own_tasks|structure|migrate|suggestions)\.py"
)
#: What is about all examples.
OF_ALL = ("tests/test_examples.py", "docs/examples.md")
#: Where there is no git to say what belongs to the template.
IGNORED = re.compile(
    r"(.*/)?(\.git|saved|__pycache__|\.?venv|\.\w+_cache|\.hypothesis|MNIST|test\.json|.*\.(pyc|tmp))(/.*)?"
)
_OF_A_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_PREFIX",
    "GIT_NAMESPACE",
)
README = """# {name}

```
python3 -m venv .venv && . .venv/bin/activate && pip install -r requirements.txt && python train.py -c config.json
. .venv/bin/activate && pip install -r requirements-dev.txt && pytest
```

`.ci/run` checks everything: format, lint, types and tests. Yours to change: `config.json`, `model/`, `data_loader/`,
`trainer/`, `train.py`.
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
    parser = argparse.ArgumentParser(description="Copy the template into a clean new project.")
    parser.add_argument("name", help="folder of the new project; it must not exist, or be empty")
    there = {path.parent.name for path in (ROOT / "examples").glob("*/config.json")}
    parser.add_argument("--example", choices=sorted(there), help="start from this example, and leave the others out")
    args = parser.parse_args()
    target, wanted = Path(args.name).resolve(), None if args.example is None else _with_parts(args.example)
    try:
        str(target).encode()
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise ConfigError(f"{target} exists and is not empty: choose another name")
    except (OSError, UnicodeError) as error:  # too long, or no text
        raise ConfigError(f"this is no name for a folder: {getattr(error, 'strerror', error)}") from None
    if target.is_relative_to(ROOT):
        raise ConfigError(f"{target} is inside the template: choose a folder elsewhere, such as ../{target.name}")
    try:
        for name in sorted(set(_files())):
            other = wanted is not None and (
                name in OF_ALL or name.split("/")[1:2] in [[each] for each in there - wanted]
            )
            if not other and not LEFT_OUT.fullmatch(name) and (ROOT / name).is_file():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target / name)
        (target / "README.md").write_text(README.format(name=target.name), encoding="utf-8")
        settings = (target / "pyproject.toml").read_text(encoding="utf-8")
        package = re.sub(r"[^A-Za-z0-9]+", "-", target.name).strip("-").lower() or "project"
        settings = re.sub(r"(?m)^name = .*$", f'name = "{package}"', settings, count=1)
        settings = re.sub(r"(?m)^description = .*\n", "", settings, count=1)
        (target / "pyproject.toml").write_text(settings + RELAXED, encoding="utf-8")
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)  # which was not there, or empty
        raise StorageError(f"{target} cannot be written: {error.strerror or error}") from error
    committed = all(_git(target, *words) is not None for words in (["init"], ["add", "-A"], ["commit", "-m", "Begin"]))
    history = "" if committed else " (without a first commit: is git there, and does it know your name?)"
    config = "config.json" if args.example is None else f"examples/{args.example}/config.json"
    print(f"made {target}{history}\n  cd {shlex.quote(str(target))}\n  python train.py -c {config}", file=sys.stdout)


def _with_parts(example: str) -> set[str]:
    """An example, the others that it has parts from, and what the tests take."""
    wanted, new = set[str](), {example, "lbfgs"}
    while new:
        wanted |= new
        files = [
            path for name in new for path in (ROOT / "examples" / name).iterdir() if path.suffix in (".py", ".json")
        ]
        new = {name for file in files for name in re.findall(r"examples[./](\w+)", file.read_text())} - wanted
    return wanted


def _files() -> list[str]:
    """The files of the template: those that git tracks."""
    tracked = _git(ROOT, "ls-files", "-z") if (ROOT / ".git").exists() else None
    if tracked is not None:
        return tracked.strip("\0").split("\0")
    names = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
    return [name for name in names if not IGNORED.fullmatch(name)]


def _git(folder: Path, *words: str) -> str | None:
    try:
        # A hook's variables may be of another repository.
        around = {name: value for name, value in os.environ.items() if name not in _OF_A_REPOSITORY}
        return subprocess.run(
            ["git", *words], cwd=folder, env=around, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    catch_user_errors()
    main()
